"""The engines that run a package: the command line of each, decided in pure code.

Docker and Podman run it in a container of an image that was built of it; `process` runs it as it is, in a
fresh folder and process with the same folders and variables.
"""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchkit.errors import UsageError
from benchkit.project.launchers import accelerate, torchrun

Engine = Literal["docker", "podman", "process"]
ContainerEngine = Literal["docker", "podman"]
IMAGE = "localhost/benchkit-package"
_TAG_CHARACTERS = 16
_PYTHONS = ("python", "python3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder of this machine, and where a container has it."""

    source: Path
    target: str
    read_only: bool = False

    def __str__(self) -> str:
        """Return it as `--mount` takes it: fields of CSV, so that a path may hold a comma or a colon."""
        line = io.StringIO()
        fields = ["type=bind", f"source={self.source}", f"target={self.target}"]
        csv.writer(line, lineterminator="").writerow(fields + ["readonly"] * self.read_only)
        return line.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What runs in a container.

    Attributes:
        name: What it is called while it runs.
        image: Of which image it is.
        command: The program and its arguments.
        variables: Its environment, beside what the image says.
        inherited: Variables that it gets as this machine's environment has them; their values, which may be
            secret, stand on no command line.
        mounts: What it sees of this machine.
        gpus: Whether it gets the GPUs.
    """

    name: str
    image: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    inherited: Sequence[str] = ()
    mounts: Sequence[Mount] = ()
    gpus: bool = False


def image_name(digest: str) -> str:
    """Return the name of the image of the package with this digest."""
    return f"{IMAGE}:{digest[:_TAG_CHARACTERS]}"


def split_command(words: Sequence[str]) -> tuple[str, ...]:
    """Return a job's program and arguments: one text is split as a shell does, several words stay.

    >>> split_command(['python train.py --name "a b"'])
    ('python', 'train.py', '--name', 'a b')

    Raises:
        UsageError: There is no program, or a quotation does not end.
    """
    try:
        command = tuple(shlex.split(words[0]) if len(words) == 1 else words)
    except ValueError as error:
        raise UsageError(f"{words[0]!r:.200} cannot be split into words: {error}") from error
    if not command or not command[0]:
        raise UsageError('there is no command to run; write it as in "python scripts/train.py --epochs 3"')
    return command


def build_command(engine: ContainerEngine, *, image: str, context: Path, dockerfile: Path) -> tuple[str, ...]:
    """Return how an image is built of a folder."""
    return (engine, "build", "--tag", image, "--file", str(dockerfile), str(context))


def inspect_command(engine: ContainerEngine, image: str) -> tuple[str, ...]:
    """Return what prints the environment that an image sets, as JSON, and fails where there is no image."""
    return (engine, "image", "inspect", "--format", "{{json .Config.Env}}", image)


def run_command(engine: ContainerEngine, container: Container) -> tuple[str, ...]:
    """Return how a container is run in the foreground; it goes when it ends.

    The command is the container's, whatever the image's entry point is. The workers of a `DataLoader` hand
    batches over in shared memory, of which a container of its own has 64 MiB: so it shares this machine's.
    """
    options = ["--rm", "--name", container.name, "--ipc=host"]
    if engine == "docker":
        options += ["--init"]
        options += ["--gpus", "all"] if container.gpus else []
    else:
        options += ["--security-opt", "label=disable"]
        options += ["--device", "nvidia.com/gpu=all"] if container.gpus else []
    for name, value in container.variables.items():
        options += ["--env", f"{name}={value}"]
    for name in container.inherited:
        options += ["--env", name]
    for mount in container.mounts:
        options += ["--mount", str(mount)]
    program, *arguments = container.command
    return (engine, "run", *options, "--entrypoint", program, container.image, *arguments)


def kill_command(engine: ContainerEngine, name: str) -> tuple[str, ...]:
    """Return how a container is ended at once."""
    return (engine, "kill", name)


def distribute(command: Sequence[str], processes: int, *, gpus: bool) -> tuple[str, ...]:
    """Return how a Python script is run in several processes: by Accelerate's launcher on GPUs, or torchrun.

    Raises:
        UsageError: There are fewer than one, or the command is no Python script.
    """
    if processes < 1:
        raise UsageError(f"--processes {processes} is not at least 1")
    if processes == 1:
        return tuple(command)
    program, *arguments = command
    if program not in _PYTHONS or not arguments or arguments[0].startswith("-"):
        raise UsageError(
            f"--processes {processes} goes with a command such as "
            f'"python TrainScript.py", not with {shlex.join(command)!r:.200}'
        )
    launcher = accelerate if gpus else torchrun
    return (program, *launcher(processes), *arguments)


def process_command(command: Sequence[str]) -> tuple[str, ...]:
    """Return how a job is run without a container: its Python is the one that runs this."""
    program, *arguments = command
    return (sys.executable if program in _PYTHONS else program, *arguments)
