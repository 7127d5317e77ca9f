"""Laws of the template: what a new user's project holds."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchkit.project.scaffold import TEMPLATE_FILES, start_project
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


ACCELERATE = ["-m", "accelerate.commands.launch"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "processes", "epochs"),
    [
        (["manage.py", "train", "--processes", "2"], 2, 6),
        (["TrainScript.py"], 1, 1),
        ([*TORCHRUN, "TrainScript.py"], 2, 1),
        ([*ACCELERATE, "--num_processes", "1", "TrainScript.py"], 1, 1),
        ([*ACCELERATE, "--multi_gpu", "--num_processes", "2", "TrainScript.py"], 2, 1),
    ],
    ids=["manage.py train", "python", "torchrun", "accelerate 1", "accelerate 2"],
)
def test_the_script_trains_under_every_launcher_on_all_its_processes(
    packed_project: Path, tmp_path: Path, command: list[str], processes: int, epochs: int
) -> None:
    before = {path for path in packed_project.rglob("*") if "__pycache__" not in path.parts}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BENCHKIT_")}
    environment |= {"BENCHKIT_CACHE_DIR": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    if "--multi_gpu" in command:
        environment["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run(
        [sys.executable, *command, "--epochs", str(epochs)],
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
    assert {path for path in packed_project.rglob("*") if "__pycache__" not in path.parts} == before
