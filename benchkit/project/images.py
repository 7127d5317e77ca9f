"""Images of packages, and the engine on this machine that builds and runs them."""

from __future__ import annotations

import json
import platform
import subprocess
from contextlib import ExitStack
from pathlib import Path

from benchkit.errors import NotFoundError, StoreError
from benchkit.project.dockerfile import GENERATED_FILE, WHEEL_FOLDER, dockerfile_text, write_wheel
from benchkit.project.engines import ContainerEngine, Engine, build_command, image_name, inspect_command
from benchkit.project.foreground import run_in_foreground
from benchkit.project.package import open_package
from benchkit.project.unpacking import SCRATCH_FOLDER, unpack
from benchkit.settings import child_environment
from benchkit.store.folders import scratch_folder

_ANSWER_SECONDS = 20


def choose_engine(wanted: Engine | None) -> Engine:
    """Return the engine that was asked for, if it answers; else the first that does.

    Raises:
        NotFoundError: There is none; the message says what to install, and what goes without.
    """
    if wanted == "process":
        return wanted
    engines: tuple[ContainerEngine, ...] = (wanted,) if wanted else ("docker", "podman")
    troubles = []
    for engine in engines:
        trouble = find_trouble(engine)
        if not trouble:
            return engine
        troubles.append(trouble)
    raise NotFoundError(
        f"{'; '.join(troubles)}: install Docker (https://docs.docker.com/engine/install) or Podman "
        "(https://podman.io/docs/installation) and start it, or run the package without a container: "
        "--engine process"
    )


def find_trouble(engine: ContainerEngine) -> str:
    """Return why an engine cannot be used; empty where it can."""
    what = "{{.Server.Version}}" if engine == "docker" else "{{.Client.Version}}"
    try:
        done = subprocess.run(
            [engine, "version", "--format", what], capture_output=True, timeout=_ANSWER_SECONDS, check=False
        )
    except FileNotFoundError:
        return f"{engine} is not installed"
    except (OSError, subprocess.TimeoutExpired):
        return f"{engine} does not answer"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"{engine} does not answer ({said[-1] if said else 'no reason given'})" if done.returncode else ""


def read_environment(engine: ContainerEngine, image: str) -> dict[str, str] | None:
    """Return the environment that an image sets; None where the engine has no such image."""
    command, environment = inspect_command(engine, image), child_environment({}, defaults={})
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    if done.returncode:
        return None
    return dict(word.partition("=")[::2] for word in json.loads(done.stdout) or [])


def is_built(package: Path, engine: ContainerEngine) -> bool:
    """Return whether the engine has the image of just this package."""
    with open_package(package) as opened:
        return read_environment(engine, image_name(opened.digest)) is not None


def build_image(
    package: Path, engine: ContainerEngine, *, here: Path, base: str | None = None, image: str | None = None
) -> str:
    """Build the image of a package, and return its name.

    Args:
        package: The zip.
        engine: What builds it.
        here: The folder below which the package is unpacked for as long as it takes.
        base: The image to begin with where the package has no Dockerfile; None is Python in this version.
        image: What to call it; None is a name that follows from the package's contents.

    Raises:
        StoreError: It cannot be built, or the disk is full.
    """
    version = ".".join(platform.python_version_tuple()[:2])
    base = base or f"docker.io/library/python:{version}-slim"
    with open_package(package) as opened, ExitStack() as stack:
        try:
            (here / SCRATCH_FOLDER).mkdir(exist_ok=True)
            context = stack.enter_context(scratch_folder(here / SCRATCH_FOLDER, "build-")) / "package"
            unpack(opened.archive, opened.archive.files, context)
            dockerfile = context / "Dockerfile"
            if not opened.layout.has_dockerfile:
                wheel = write_wheel(context / WHEEL_FOLDER)
                dockerfile = context / GENERATED_FILE
                dockerfile.write_text(dockerfile_text(opened.layout, wheel=wheel, base=base))
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{package} cannot be unpacked to build its image: {error}") from error
        name = image or image_name(opened.digest)
        command = build_command(engine, image=name, context=context, dockerfile=dockerfile)
        code, interrupted = run_in_foreground(command, environment=child_environment({}, defaults={}))
    if interrupted:
        raise KeyboardInterrupt
    if code:
        raise StoreError(f"{engine} could not build the image of {package} (exit code {code}): see above")
    return name
