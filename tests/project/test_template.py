"""Laws of the template: what a new user's project holds."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchkit.project.launchers import accelerate, torchrun
from benchkit.project.scaffold import TEMPLATE_FILES, start_project
from benchkit.project.source_files import find_source_files
from benchkit.settings import SETTINGS_NAME

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "project_template"
ARCHIVE = TEMPLATE / "Datasets/digits.zip"

# How many of each digit scikit-learn's load_digits holds.
DIGIT_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
LEVELS = [(255 * value + 8) // 16 for value in range(17)]


def read_pictures() -> dict[str, np.ndarray]:
    """Return the archive's pictures, by their paths in it."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        return {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names}


def test_manage_is_the_same_file_at_the_root_of_the_repository() -> None:
    assert (ROOT / "manage.py").read_bytes() == (TEMPLATE / "manage.py").read_bytes()


def test_every_tracked_file_of_the_template_is_copied_by_startproject() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=TEMPLATE,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git working copy")
    assert set(listed.stdout.splitlines()) == {*TEMPLATE_FILES, SETTINGS_NAME}


def test_the_archive_depends_on_nothing_but_its_contents() -> None:
    with zipfile.ZipFile(ARCHIVE) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        assert names == sorted(names)
        assert {(entry.date_time, entry.create_system, entry.external_attr) for entry in entries} == {
            ((1980, 1, 1, 0, 0, 0), 3, 0o100644 << 16)
        }
        assert archive.read("digits/LICENSE.txt") == (TEMPLATE / "Datasets/digits.LICENSE.txt").read_bytes()


def test_the_archive_holds_every_digit_as_8_by_8_grey_in_the_17_levels_documented() -> None:
    pictures = read_pictures()
    labels = [int(name.split("/")[1]) for name in pictures]
    assert [labels.count(digit) for digit in range(10)] == DIGIT_COUNTS
    assert sorted(Path(name).stem for name in pictures) == [f"{number:04}" for number in range(1797)]
    pixels = np.stack(list(pictures.values()))
    assert (pixels.shape, pixels.dtype) == ((1797, 8, 8), np.uint8)
    assert np.unique(pixels).tolist() == LEVELS


def test_the_archive_is_what_scikit_learn_ships() -> None:
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="compares with scikit-learn where it is installed"
    )
    source = datasets.load_digits()
    pictures = read_pictures()
    for number, (image, label) in enumerate(zip(source.images, source.target, strict=True)):
        expected = np.asarray(LEVELS, dtype=np.uint8)[image.astype(np.int64)]
        assert np.array_equal(pictures[f"digits/{label}/{number:04}.png"], expected)


def test_the_two_datasets_share_no_picture_and_leave_none_out(tmp_path: Path) -> None:
    project = start_project(tmp_path, "p")
    code = (
        "import json; from Datasets.ProjectDatasets import main\n"
        "rows = [(name, [data.get_file(i)[0] for i in range(len(data))],\n"
        "         [data.get_label_and_numeric_data(i) for i in range(len(data))])\n"
        "        for data, _, name, _, _ in main()]\n"
        "print(json.dumps(rows))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    (train, train_files, train_labels), (val, val_files, val_labels) = json.loads(done.stdout)
    assert (train, len(train_files)) == ("train", 1497)
    assert (val, len(val_files)) == ("val", 300)
    assert not set(train_files) & set(val_files)
    assert len({*train_files, *val_files}) == 1797
    for files, labels in ((train_files, train_labels), (val_files, val_labels)):
        assert [int(Path(file).parent.name) for file in files] == labels
        assert set(labels) == set(range(10))


@pytest.fixture(scope="module")
def packed_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new project with both datasets packed."""
    project = start_project(tmp_path_factory.mktemp("template"), "p")
    code = (
        "from pathlib import Path\n"
        "from Datasets.ProjectDatasets import main\n"
        "from benchkit.data.pack import pack\n"
        "from benchkit.store.local import LocalStore\n"
        "store = LocalStore(Path('store').absolute())\n"
        "for dataset, _, name, _, _ in main():\n"
        "    pack(dataset, name, staging=store, project=Path.cwd(), workers=1)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, timeout=120)
    return project


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "processes", "epochs"),
    [
        (["manage.py", "train", "--processes", "2"], 2, 6),
        (["TrainScript.py"], 1, 1),
        ([*torchrun(2), "TrainScript.py"], 2, 1),
        ([*accelerate(1), "TrainScript.py"], 1, 1),
        ([*accelerate(2), "TrainScript.py"], 2, 1),
    ],
    ids=["manage.py train", "python", "torchrun", "accelerate 1", "accelerate 2"],
)
def test_the_script_trains_under_every_launcher_on_all_its_processes(
    packed_project: Path, tmp_path: Path, command: list[str], processes: int, epochs: int
) -> None:
    before = project_files(packed_project)
    environment = training_environment(tmp_path / "cache")
    if "--multi_gpu" in command:
        environment["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run(
        [sys.executable, *command, "--epochs", str(epochs), "--checkpoint", tmp_path.name],
        cwd=packed_project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^processes: (\d+)", done.stdout, flags=re.MULTILINE) == [str(processes)]
    accuracies = re.findall(r"^epoch \d+: .*accuracy ([\d.]+)%", done.stdout, flags=re.MULTILINE)
    assert len(accuracies) == epochs
    if epochs > 1:
        assert float(accuracies[-1]) >= 95
    assert project_files(packed_project) == before


@pytest.mark.processes
def test_what_packing_and_training_leave_is_code_neither_to_git_nor_to_migrate_code(tmp_path: Path) -> None:
    project = start_project(tmp_path, "p")
    environment = training_environment(tmp_path / "cache")
    for arguments in (["migrate-data"], ["train", "--cpu", "--epochs", "1", "--checkpoint-steps", "100"]):
        command = [sys.executable, "manage.py", *arguments]
        subprocess.run(command, cwd=project, env=environment, capture_output=True, check=True, timeout=120)
    left = {path.name for path in project.iterdir()}
    assert left >= {"ProjectDatasets", "store", "checkpoint", ".benchkit"}
    assert len(runs_of(project, "digits")) == 1
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=project, check=True)
    listed = subprocess.run(["git", "ls-files"], cwd=project, capture_output=True, text=True, check=True)
    assert set(listed.stdout.splitlines()) == {*TEMPLATE_FILES, SETTINGS_NAME}
    assert set(find_source_files(project).paths) == {*TEMPLATE_FILES, SETTINGS_NAME}


def project_files(project: Path) -> set[Path]:
    """Return the files and folders of a project, but for a run's checkpoints and record."""
    left = {"__pycache__", "checkpoint", "checkpoints", ".benchkit", "experiments"}
    return {path for path in project.rglob("*") if not left & set(path.parts)}


def training_environment(cache: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BENCHKIT_")}
    return kept | {"BENCHKIT_CACHE_DIR": str(cache), "CUDA_VISIBLE_DEVICES": ""}


class Run:
    """The command `python manage.py train` of two processes, started again and again."""

    def __init__(self, project: Path, cache: Path, name: str, *options: str) -> None:
        self.project, self.cache = project, cache
        self.options = ["--processes", "2", *options, "--epochs", "4", "--workers", "0"]
        self.options += ["--checkpoint", name, "--checkpoint-steps", "5"]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", "train", *self.options],
            cwd=self.project,
            env=training_environment(self.cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Run to the end, and return what was printed."""
        with self.start() as process:
            out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return out

    def until(self, process: subprocess.Popen[str], beginning: str) -> str:
        """Return what is printed until a line begins so."""
        assert process.stdout
        lines: list[str] = []
        while not lines or not lines[-1].startswith(beginning):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        return "".join(lines)


def runs_of(project: Path, name: str) -> list[dict[str, Any]]:
    """Return what the records of a name's runs say, oldest first."""
    files = sorted(project.glob(".benchkit/experiments/*/run.json"))
    return [record for record in map(json.loads, map(Path.read_bytes, files)) if record["name"] == name]


def logged_in(project: Path, name: str) -> dict[str, tuple[str, str]]:
    """Return loss and accuracy of every epoch, as they are printed, from the record of a name's only run."""
    (record,) = runs_of(project, name)
    assert [dataset["name"] for dataset in record["datasets"]] == ["train", "val"]
    (file,) = (project / ".benchkit/experiments" / record["run"]).glob("metrics/*.jsonl")
    found = {}
    for line in map(json.loads, file.read_text().splitlines()):  # the last of an epoch counts
        values = line["values"]
        found[str(line["step"])] = f"{values['train/loss']:.3f}", f"{100 * values['val/accuracy']:.1f}"
    return found


def metrics_of(output: str) -> dict[str, tuple[str, str]]:
    """Return loss and accuracy of every epoch as they were printed."""
    found = re.findall(r"^epoch (\d+): loss ([\d.]+), accuracy ([\d.]+)%", output, flags=re.MULTILINE)
    return {epoch: (loss, accuracy) for epoch, loss, accuracy in found}


@pytest.mark.slow
@pytest.mark.processes
def test_the_script_killed_and_started_again_ends_as_if_it_had_not_been(
    packed_project: Path, tmp_path: Path
) -> None:
    expected = metrics_of(Run(packed_project, tmp_path / "cache", "undisturbed").finish())
    assert list(expected) == ["1", "2", "3", "4"]
    assert [(it["state"], it["resumed"]) for it in runs_of(packed_project, "undisturbed")] == [
        ("finished", 0)
    ]
    run = Run(packed_project, tmp_path / "cache", "killed")
    printed = ""
    for epoch in (1, 2):
        with run.start() as process:
            printed += run.until(process, f"epoch {epoch}:")
            time.sleep(0.2)
            os.killpg(process.pid, signal.SIGKILL)
    printed += run.finish()
    assert printed.count("goes on from checkpoint killed") == 2
    assert metrics_of(printed) == expected
    assert [(it["state"], it["resumed"]) for it in runs_of(packed_project, "killed")] == [("finished", 2)]
    assert logged_in(packed_project, "killed") == logged_in(packed_project, "undisturbed") == expected
    again = run.finish()
    assert "all 4 epochs are done" in again
    assert metrics_of(again) == {}
    assert metrics_of(Run(packed_project, tmp_path / "cache", "killed", "--no-resume").finish()) == expected


@pytest.mark.slow
@pytest.mark.processes
def test_a_training_that_is_killed_is_started_again_by_its_command(
    packed_project: Path, tmp_path: Path
) -> None:
    expected = metrics_of(Run(packed_project, tmp_path / "cache", "whole").finish())
    run = Run(packed_project, tmp_path / "cache", "crashing", "--restarts", "2")
    with run.start() as process:
        printed = run.until(process, "epoch 2:")
        os.kill(child_of(process.pid), signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "it is started again, 1 more to go" in err
    assert metrics_of(printed + out) == expected


def child_of(pid: int) -> int:
    """Return the first process that another one has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
