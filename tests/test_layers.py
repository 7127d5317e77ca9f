"""The house: imports point down, importing is light, and the public names are the ones written here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import benchkit

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"accelerate", "boto3", "botocore", "numpy", "PIL", "torch"}
PUBLIC_NAMES = [
    "BenchAccelerateTracker",
    "ChunkDataset",
    "ExperimentLogger",
    "IterableChunk",
    "LoaderOptions",
    "ProcessorDataset",
    "Shard",
    "__version__",
    "decode_image",
    "get_accelerator",
    "get_dataset",
    "load_model_checkpoint",
    "upload_model_checkpoint",
    "wipe_temp",
]


def imported_by(arguments: list[str]) -> set[str]:
    """Run Python with the arguments and return the top-level packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", done.stderr, flags=re.MULTILINE)
    return {module.partition(".")[0] for module in modules}


def test_imports_point_down() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_part_of_the_package_has_its_layer() -> None:
    layers = set(
        re.findall(r"benchkit\.(\w+)", (ROOT / "pyproject.toml").read_text().partition("layers = [")[2])
    )
    parts = {path.stem for path in (ROOT / "benchkit").iterdir() if path.suffix in ("", ".py")}
    assert parts - {"__init__", "__pycache__", "_template"} == layers


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import benchkit"],
        ["-m", "benchkit.cli.main", "--help"],
        ["-m", "benchkit.cli.main", "--version"],
        ["manage.py", "--help"],
        ["manage.py", "train", "--help"],
    ],
)
def test_help_and_a_bare_import_load_nothing_heavy(arguments: list[str]) -> None:
    imported = imported_by(arguments)
    assert "benchkit" in imported
    assert not imported & HEAVY


def test_the_heavy_packages_would_be_noticed() -> None:
    assert "torch" in imported_by(["-c", "import torch"])


def test_the_public_names_are_these() -> None:
    assert benchkit.__all__ == PUBLIC_NAMES
    assert dir(benchkit) == PUBLIC_NAMES


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(benchkit, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'get_datset'"):
        _ = benchkit.get_datset
