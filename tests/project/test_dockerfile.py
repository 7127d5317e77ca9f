"""The generated Dockerfile, and the wheel that it installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchkit import __version__
from benchkit.project.dockerfile import dockerfile_text, write_wheel
from benchkit.project.package import Layout


def layout(requirements: str | None) -> Layout:
    return Layout(scripts=("train.py",), has_dockerfile=False, requirements=requirements)


@pytest.mark.parametrize(
    ("requirements", "lines"),
    [
        (None, ["COPY . ."]),
        (
            "dependencies.txt",
            ["COPY dependencies.txt ./", "RUN pip install --no-cache-dir -r dependencies.txt", "COPY . ."],
        ),
        ("pyproject.toml", ["COPY . .", "RUN pip install --no-cache-dir ."]),
    ],
)
def test_the_dockerfile_installs_this_benchkit_and_what_the_package_needs(requirements, lines) -> None:
    text = dockerfile_text(layout(requirements), wheel="benchkit-1.whl", base="python:3.11-slim")
    assert text.splitlines() == [
        "# Generated, since the package has no Dockerfile of its own.",
        "FROM python:3.11-slim",
        "WORKDIR /opt/package",
        "COPY .benchkit-wheel/benchkit-1.whl /tmp/",
        "RUN pip install --no-cache-dir /tmp/benchkit-1.whl",
        *lines,
        "ENV PYTHONPATH=/opt/package/src:/opt/package",
    ]


def test_pip_installs_the_wheel_and_it_is_this_benchkit(tmp_path: Path) -> None:
    name = write_wheel(tmp_path / "wheels")
    assert name == f"benchkit-{__version__}-py3-none-any.whl"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-warn-script-location",
    ]
    command = [*pip, "--target", tmp_path / "site", tmp_path / "wheels" / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        pytest.skip("no pip here")
    assert done.returncode == 0, done.stderr
    code = (
        "import benchkit, benchkit.cli.main, sys; from pathlib import Path;"
        "from benchkit.project.scaffold import start_project;"
        "print(benchkit.__file__); print(start_project(Path(sys.argv[1]), 'new'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == [str(tmp_path / "site/benchkit/__init__.py"), str(tmp_path / "new")]
    assert (tmp_path / "site/bin/bench-kit").is_file()
