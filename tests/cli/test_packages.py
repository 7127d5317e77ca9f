"""Packages through the real command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.scratch import BENCH_KIT, Scratch, assert_refused, flip

from benchkit.errors import CorruptError, NotFoundError, StoreError, UsageError


def make(folder: Path) -> Path:
    """Make a folder as the documents lay one out."""
    for path, text in {
        "scripts/train.py": "print('training')\n",
        "src/net/__init__.py": "",
        "Dockerfile": "FROM scratch\n",
        "pyproject.toml": "",
        ".env": "KEY=1\n",
        "notes/a.txt": "x",
        ".benchkitignore": "/notes/\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Scratch:
    """Return a package's folder, as where commands are run."""
    return Scratch(make(tmp_path / "trainer"), tmp_path / "cache")


def test_a_folder_is_packed_with_a_tree_and_its_layout(here: Scratch) -> None:
    done = here.bench_kit("trainer", "create-zip")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == "warning: left out as secrets: .env"
    lines = done.stdout.splitlines()
    assert lines[:5] == ["trainer.zip", "├── scripts/", "│   └── train.py  18 B", "├── src/", "│   └── net/"]
    assert "scripts       scripts/train.py" in lines
    assert "Dockerfile    its own" in lines
    assert "requirements  pyproject.toml" in lines
    names = zipfile.ZipFile(here.root / "trainer.zip").namelist()
    assert names == [
        ".benchkitignore",
        "Dockerfile",
        "pyproject.toml",
        "scripts/train.py",
        "src/net/__init__.py",
    ]
    assert here.bench_kit("trainer", "view-zip").stdout == done.stdout
    assert here.bench_kit("trainer", "view-zip", "trainer.zip", "--depth", "1").stdout.splitlines()[1] == (
        "├── scripts/  1 file, 18 B"
    )


def test_the_same_files_make_the_same_bytes_and_packages_are_never_packed(
    here: Scratch, tmp_path: Path
) -> None:
    clone = Scratch(shutil.copytree(here.root, tmp_path / "clone"), here.cache)
    for path in clone.root.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert here.bench_kit("trainer", "create-zip").returncode == 0
    assert here.bench_kit("trainer", "create-zip", ".", "--output", "out/own.zip").returncode == 0
    (here.root / "out/own.zip").unlink()
    assert here.bench_kit("recipe", "create", ".").returncode == 0
    assert (
        clone.bench_kit("trainer", "create-zip", str(clone.root), "-o", str(tmp_path / "b.zip")).returncode
        == 0
    )
    made = [here.root / "trainer.zip", here.root / "recipe.zip", tmp_path / "b.zip"]
    assert len({path.read_bytes() for path in made}) == 1
    assert here.bench_kit("trainer", "create-zip", "--output", "own.zip").returncode == 0
    assert here.bench_kit("trainer", "create-zip", "--output", "own.zip").returncode == 0
    assert (here.root / "own.zip").read_bytes() == made[0].read_bytes()


def test_the_older_ignore_file_counts_where_there_is_no_newer(here: Scratch) -> None:
    (here.root / ".benchkitignore").rename(here.root / ".hafniaignore")
    assert here.bench_kit("trainer", "create-zip").returncode == 0
    assert "notes/a.txt" not in zipfile.ZipFile(here.root / "trainer.zip").namelist()
    (here.root / ".benchkitignore").write_text("")
    assert here.bench_kit("trainer", "create-zip").returncode == 0
    assert "notes/a.txt" in zipfile.ZipFile(here.root / "trainer.zip").namelist()


def test_a_project_is_packed_without_its_store_and_staging(migrated: Scratch) -> None:
    (migrated.root / "TrainScript.py").write_text("")
    assert migrated.bench_kit("trainer", "create-zip").returncode == 0
    names = zipfile.ZipFile(migrated.root / "trainer.zip").namelist()
    assert names == ["Datasets/ProjectDatasets.py", "TrainScript.py", "benchkit.toml", "manage.py"]


def test_a_folder_without_a_script_is_refused(here: Scratch) -> None:
    (here.root / "scripts/train.py").unlink()
    done = here.bench_kit("trainer", "create-zip")
    assert_refused(done, UsageError, "no Python script", "scripts/")
    assert not list(here.root.glob("*.zip"))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["trainer", "create-zip", "nowhere"], NotFoundError, ["is no folder"]),
        (["trainer", "create-zip", ".", "--output", "a.tar"], UsageError, ["does not end in .zip"]),
        (["trainer", "create-zip", ".", "--output", "Dockerfile/a.zip"], StoreError, ["cannot be made"]),
        (["trainer", "view-zip"], NotFoundError, ["trainer.zip is not there", "create-zip"]),
        (["trainer", "view-zip", "scripts"], UsageError, ["is a folder"]),
        (["trainer", "view-zip", "Dockerfile"], CorruptError, ["is no zip"]),
    ],
)
def test_what_cannot_be_packed_or_shown_is_said(here: Scratch, arguments: list[str], error, words) -> None:
    assert_refused(here.bench_kit(*arguments), error, *words)


def test_a_damaged_or_hostile_package_is_refused(here: Scratch) -> None:
    with zipfile.ZipFile(here.root / "trainer.zip", "w") as archive:
        archive.writestr("train.py", "x" * 1000)
        archive.writestr("../outside.py", "x")
    assert_refused(
        here.bench_kit("trainer", "view-zip"), CorruptError, "'../outside.py'", "no path in a folder"
    )
    assert here.bench_kit("trainer", "create-zip").returncode == 0
    flip(here.root / "trainer.zip", 0.99)
    assert_refused(here.bench_kit("trainer", "view-zip"), CorruptError, "trainer.zip")


@pytest.mark.processes
def test_a_full_disk_leaves_the_package_that_was_there(here: Scratch) -> None:
    assert here.bench_kit("trainer", "create-zip").returncode == 0
    before = (here.root / "trainer.zip").read_bytes()
    (here.root / "large.txt").write_bytes(bytes(400_000))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 200; exec '{BENCH_KIT}' trainer create-zip"],
        cwd=here.root,
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == StoreError.exit_code
    assert "cannot be made" in done.stderr
    assert (here.root / "trainer.zip").read_bytes() == before
    assert sorted(path.name for path in here.root.glob("*.zip*")) == ["trainer.zip"]
    assert not list(here.root.glob(".trainer*"))


def test_what_a_killed_packing_left_is_swept_and_never_packed(here: Scratch) -> None:
    script = (
        "import os; from pathlib import Path; import benchkit.project.package as package\n"
        "package.write_archive = lambda *_: os.kill(os.getpid(), 9)\n"
        "package.create_package(Path(), Path('trainer.zip'))"
    )
    process = here.start([sys.executable, "-c", script])
    process.communicate(timeout=60)
    (left,) = here.root.glob(".trainer.zip-*.part")
    (left / "trainer.zip").write_bytes(b"half")
    done = here.bench_kit("trainer", "create-zip", "--output", "other.zip")
    assert done.returncode == 0
    assert not [name for name in zipfile.ZipFile(here.root / "other.zip").namelist() if ".part" in name]
    assert here.bench_kit("trainer", "create-zip").returncode == 0
    assert not left.exists()


def test_a_package_that_is_not_there_makes_no_job(here: Scratch) -> None:
    done = here.bench_kit("runc", "launch-local", "--engine", "process", "--package", "no.zip", "true")
    assert_refused(done, NotFoundError, "no.zip is not there")
    assert not (here.root / ".benchkit").exists()
