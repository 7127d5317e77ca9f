"""The surroundings of a run: versions, machine and arguments, without secrets."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchkit.settings import read_world
from benchkit.train.redaction import redact_arguments

_PACKAGES = ("benchkit", "torch", "accelerate", "numpy")


def describe_environment(known_secrets: Collection[str] = ()) -> dict[str, Any]:
    """Return what this process runs on and in, as JSON.

    Args:
        known_secrets: Texts that are hidden wherever they stand in the arguments.
    """
    world = read_world()
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count() or 0,
        "gpus": _gpus(),
        "processes": world[1] if world else 1,
        "folder": str(Path.cwd()),
        "arguments": redact_arguments(sys.argv, known_secrets),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _gpus() -> list[str]:
    """Return the names of the GPUs; where CUDA is not in use yet, only that they are there.

    Asking for names would start CUDA, and a process that has is not to be forked any more.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
