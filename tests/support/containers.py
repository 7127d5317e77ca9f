"""A container engine for tests: one that answers, or a Docker daemon of their own; and an image's files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchkit.project.images import find_trouble

READY_SECONDS = 30
DAEMON_OPTIONS = (
    "--iptables=false",
    "--ip6tables=false",
    "--bridge=none",
    "--default-ulimit",
    "nofile=1024:1024",
)


class EngineMissingError(Exception):
    """No engine can be had on this machine; the message is one line that says why."""


@contextmanager
def container_engine(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Give an engine's name, and the environment in which it answers.

    Args:
        folder: Where a daemon of the tests' own keeps its data, on a path short enough for a socket.

    Raises:
        EngineMissingError: None answers, and none can be started.
    """
    for engine in ("docker", "podman"):
        if not find_trouble(engine):  # type: ignore[arg-type]
            yield engine, {}
            return
    if shutil.which("dockerd") is None or shutil.which("docker") is None or os.geteuid() != 0:
        raise EngineMissingError("no container engine answers here, and only root with dockerd can start one")
    url = f"unix://{folder}/d.sock"
    places = (
        "--data-root",
        folder / "d",
        "--exec-root",
        folder / "e",
        "--pidfile",
        folder / "pid",
        "--host",
        url,
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(["dockerd", *places, *DAEMON_OPTIONS], stdout=log, stderr=log)
    try:
        environment = {"DOCKER_HOST": url}
        deadline = time.monotonic() + READY_SECONDS
        while subprocess.run(
            ["docker", "version"], env=os.environ | environment, capture_output=True, check=False
        ).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "log").read_text(errors="replace").splitlines()[-1:]
                raise EngineMissingError(f"dockerd does not start here: {said}")
            time.sleep(0.2)
        yield "docker", environment
    finally:
        process.terminate()
        process.wait(timeout=60)


def shell_files() -> dict[str, Path]:
    """Return what an image needs to run this machine's `sh`: its path in the image, and the file here."""
    listed = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    libraries = [Path(found) for found in re.findall(r"(/\S+)", listed)]
    return {"bin/sh": Path("/bin/sh")} | {str(path).lstrip("/"): path for path in libraries}
