"""The Dockerfile of a package that has none, and the wheel of this very Bench-Kit that its image installs."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

from benchkit.errors import ProjectError
from benchkit.project.package import Layout
from benchkit.project.scaffold import TEMPLATE_FILES, find_template

GENERATED_FILE = "Dockerfile.benchkit"
WHEEL_FOLDER = ".benchkit-wheel"
PACKAGE_FOLDER = "/opt/package"
_TIME = (1980, 1, 1, 0, 0, 0)
_WHEEL = b"Wheel-Version: 1.0\nGenerator: benchkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def dockerfile_text(layout: Layout, *, wheel: str, base: str) -> str:
    """Return a Dockerfile for a package.

    Args:
        layout: The package's.
        wheel: The file name of the wheel in `WHEEL_FOLDER`.
        base: The image to begin with, one that has Python and pip.
    """
    lines = [
        "# Generated, since the package has no Dockerfile of its own.",
        f"FROM {base}",
        f"WORKDIR {PACKAGE_FOLDER}",
        f"COPY {WHEEL_FOLDER}/{wheel} /tmp/",
        f"RUN pip install --no-cache-dir /tmp/{wheel}",
    ]
    if layout.requirements == "pyproject.toml":
        lines += ["COPY . .", "RUN pip install --no-cache-dir ."]
    elif layout.requirements:
        lines += [
            f"COPY {layout.requirements} ./",
            f"RUN pip install --no-cache-dir -r {layout.requirements}",
        ]
        lines += ["COPY . ."]
    else:
        lines += ["COPY . ."]
    lines += [f"ENV PYTHONPATH={PACKAGE_FOLDER}/src:{PACKAGE_FOLDER}"]
    return "\n".join(lines) + "\n"


def write_wheel(folder: Path) -> str:
    """Write a wheel of the Bench-Kit that runs this into a folder, and return its file name.

    An image gets so just this version, also one that no index has.

    Raises:
        ProjectError: What is installed cannot be told.
    """
    try:
        distribution = metadata.distribution("benchkit")
    except metadata.PackageNotFoundError as error:
        raise ProjectError(
            "benchkit is not installed here: run pip install -e . in its working copy"
        ) from error
    package = Path(__file__).resolve().parents[1]
    template = find_template()
    files = {
        f"benchkit/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.suffix not in (".pyc", ".pyo") and "_template" not in path.parts
    }
    files |= {f"benchkit/_template/{name}": (template / name).read_bytes() for name in TEMPLATE_FILES}
    info = f"benchkit-{distribution.version}.dist-info"
    files |= {
        f"{info}/METADATA": (distribution.read_text("METADATA") or "").encode(),
        f"{info}/WHEEL": _WHEEL,
        f"{info}/entry_points.txt": (distribution.read_text("entry_points.txt") or "").encode(),
    }
    records = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""]).encode()
    name = f"benchkit-{distribution.version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, data in files.items():
            wheel.writestr(zipfile.ZipInfo(path, date_time=_TIME), data)
    return name


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
