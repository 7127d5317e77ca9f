"""Starting the training script: which launcher, with which arguments and environment, decided in pure code.

GPUs are trained on with Accelerate's launcher, which knows what `accelerate config` says of them, CPUs with
torchrun: `accelerate launch --cpu` starts one process whatever number it is given. One process on CPUs needs
neither.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import torch

from benchkit.errors import ProjectError, UsageError
from benchkit.project.launchers import THIS_MACHINE, Machines, accelerate, torchrun
from benchkit.settings import child_environment
from benchkit.train.orphans import LAUNCHER_VARIABLE, end_with_parent

if TYPE_CHECKING:
    from typing_extensions import Self

SCRIPT_FILE = "TrainScript.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What this machine can train on: GPUs that torch can use, and CPU cores that this process may use."""

    gpus: int
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """A command and its environment.

    Attributes:
        command: The program and its arguments.
        variables: Environment variables that it gets whatever ours are.
        defaults: Environment variables that it gets where ours do not set them.
    """

    command: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        words = [f"{name}={shlex.quote(value)}" for name, value in (*self.variables, *self.defaults)]
        return " ".join([*words, shlex.join(self.command)])


def find_hardware() -> Hardware:
    """Return what this machine offers, after `CUDA_VISIBLE_DEVICES` and the process's CPU affinity."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(gpus=torch.cuda.device_count(), cores=cores)


def plan_launch(
    project: Path,
    arguments: Sequence[str],
    *,
    hardware: Hardware,
    processes: int | None = None,
    machines: Machines = THIS_MACHINE,
    cpu: bool = False,
    folder: Path | None = None,
) -> LaunchPlan:
    """Return how the project's `TrainScript.py` is started on this machine.

    Args:
        project: The project's folder, absolute.
        arguments: What the script gets.
        hardware: What there is to train on.
        processes: How many processes on this machine; None is one for each GPU, or one where there is none.
        machines: The machines that train together.
        cpu: Leave the GPUs alone.
        folder: The folder the command is started in; a script below it is named by its relative path.

    Raises:
        UsageError: Fewer than one process, or more processes than GPUs.
        ProjectError: There is no script.
    """
    gpus = 0 if cpu else hardware.gpus
    count = (gpus or 1) if processes is None else processes
    if count < 1:
        raise UsageError(f"--processes {count} is not at least 1")
    alone = not gpus and count == machines.count == 1
    if 0 < gpus < count:
        raise UsageError(
            f"--processes {count} is more than this machine's {gpus} GPU(s): ask for at most {gpus}, "
            "or add --cpu to train on the CPU cores"
        )
    script = project / SCRIPT_FILE
    if not script.is_file():
        raise ProjectError(f'{script} is missing: it is what "python manage.py train" runs')
    if folder is not None and script.is_relative_to(folder):
        script = script.relative_to(folder)
    launcher = [] if alone else (accelerate if gpus else torchrun)(count, machines)
    variables = {"BENCHKIT_PROJECT": str(project)}
    if not gpus:
        # Without it Accelerate sees no GPU, and each of several processes takes itself for the only one.
        variables["ACCELERATE_USE_CPU"] = "true"
    return LaunchPlan(
        command=(sys.executable, *launcher, str(script), *arguments),
        variables=tuple(variables.items()),
        # Without it every process would run as many threads as there are cores, and torchrun would allow one.
        defaults=(("OMP_NUM_THREADS", str(max(1, hardware.cores // count))),),
    )


def launch(plan: LaunchPlan) -> NoReturn:
    """Become the launcher, so that its exit code, Ctrl-C and every signal are the command's own."""
    sys.stdout.flush()
    sys.stderr.flush()
    environment = _environment(plan) | {LAUNCHER_VARIABLE: str(os.getpid())}
    os.execve(plan.command[0], plan.command, environment)  # noqa: S606 - a list, no shell


def launch_again(plan: LaunchPlan, restarts: int, *, on_restart: Callable[[int, int], None]) -> int:
    """Run the launcher, again whenever it has failed, and return its last exit code.

    Ctrl-C and SIGTERM end it for good. If this process is killed, the launcher ends too.

    Args:
        plan: What is run.
        restarts: How often it is run again, at most.
        on_restart: Called before each time with the exit code and how many restarts are left after it.

    Raises:
        UsageError: The restarts are less than 0.
    """
    if restarts < 0:
        raise UsageError(f"--restarts {restarts} is less than 0")
    while True:
        with _Launcher(plan) as launcher:
            code = launcher.wait()
        if code == 0 or launcher.ended or not restarts:
            return code
        restarts -= 1
        on_restart(code, restarts)


class _Launcher:
    """The launcher as a child, to which this process's signals go while it runs."""

    def __init__(self, plan: LaunchPlan) -> None:
        self.ended = False
        sys.stdout.flush()
        sys.stderr.flush()
        self._before = {name: signal.signal(name, self._pass_on) for name in (signal.SIGINT, signal.SIGTERM)}
        self._process = subprocess.Popen(plan.command, env=_environment(plan), preexec_fn=end_with_parent)  # noqa: PLW1509

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def wait(self) -> int:
        """Return the exit code as a shell tells it: 128 and the signal, where a signal ended it."""
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, _frame: object) -> None:
        self.ended = True
        if number != signal.SIGINT:  # which a terminal sends to both
            self._process.send_signal(number)


def _environment(plan: LaunchPlan) -> dict[str, str]:
    return child_environment(dict(plan.variables), defaults=dict(plan.defaults))
