"""Laws of `python manage.py migrate-data`, run as users run it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.scratch import NOTES, ROOT, Scratch, assert_refused, table_rows

from benchkit.data.catalogue import find_version, read_manifest
from benchkit.errors import CacheError, LabelTypeError, StoreError
from benchkit.project.scaffold import TEMPLATE_FILES
from benchkit.settings import SETTINGS_NAME
from benchkit.store.local import LocalStore

MIGRATE = [sys.executable, "manage.py", "migrate-data", "--workers", "2"]
SLOW = NOTES.replace(
    "        return int(self", "        __import__('time').sleep(0.01)\n        return int(self"
)
"""Samples that take a while, so that there is a moment to stop packing in."""

TWO = NOTES.replace(
    'return [(Notes(), NotesChunk, "train", [], {})]',
    'return [(Notes(), NotesChunk, "train", [], {}), (Notes(), NotesChunk, "val", [], {})]',
)

ODD = """

class Odd(Notes):
    def get_label_and_numeric_data(self, item):
        return {1} if item == 5 else 0
"""


def finished(project: Scratch) -> dict[str, bytes]:
    """Return what a project's two stores hold, but for the intents that killed uploads leave for a while."""
    stores = {name: project.objects(name) for name in ("ProjectDatasets", "store")}
    return {
        f"{store}/{name}": data
        for store, objects in stores.items()
        for name, data in objects.items()
        if "/uploads/" not in name
    }


def test_all_three_stages_run_in_plain_text_and_a_rerun_finds_all_unchanged_and_sends_nothing(
    scratch: Scratch,
) -> None:
    first = scratch.migrate("--workers", "2")
    heads, packed, tried_heads, tried, up_heads, uploaded, where = table_rows(first.stdout)
    assert (heads[0], tried_heads[0], up_heads[0]) == ("packed", "tried", "uploaded")
    assert packed[:6] == ["train@1", "new", "40", "+40", "1", "0"]
    assert tried[:4] == ["train@1", "40", "40", "2"]
    assert uploaded[:5] == ["train@1", "new", "1", "0", "1"]
    assert where == [f"to {(scratch.root / 'store').as_uri()}"]
    assert all(character.isprintable() or character == "\n" for character in first.stdout)
    assert scratch.objects("store") == scratch.objects("ProjectDatasets")
    before = finished(scratch)

    _, packed, _, tried, _, uploaded, _ = table_rows(scratch.migrate("--workers", "2").stdout)
    assert packed[:7] == ["train@1", "unchanged", "40", "none", "1", "1", "0 B"]
    assert tried[0] == "train@1"
    assert uploaded[:6] == ["train@1", "unchanged", "1", "1", "0", "0 B"]
    assert finished(scratch) == before


def test_a_terminal_shows_bars_with_bytes_and_samples_per_second(migrated: Scratch) -> None:
    out, shown = migrated.on_terminal([*MIGRATE, "--tdl"])
    assert b"\r" not in out
    assert b"trying train" in shown
    assert b"40/40 samples, " in shown
    assert b"/s" in shown


def test_an_error_says_which_dataset_it_is_of_and_what_was_done_before_it_is_told(scratch: Scratch) -> None:
    scratch.write_datasets(TWO.replace('"train", [], {}), (Notes()', '"train", [], {}), (Odd()') + ODD)
    done = scratch.manage("migrate-data", "--zip")
    assert_refused(done, LabelTypeError, "val: sample 5: label is of type builtins.set")
    assert [row[0] for row in table_rows(done.stdout)] == ["packed", "train@1"]


def test_a_warning_of_the_trial_is_one_line(scratch: Scratch) -> None:
    scratch.write_datasets(NOTES.replace("            yield label", "            if label: yield label"))
    done = scratch.manage("migrate-data", "--zip", "--tdl")
    assert done.returncode == 0
    [line] = [line for line in done.stderr.splitlines() if "warn" in line.lower()]
    assert line.startswith("warning: _data_iterator made ")


def test_only_the_stages_and_the_dataset_that_are_asked_for_run(scratch: Scratch) -> None:
    scratch.write_datasets(TWO)
    done = scratch.migrate("val", "--zip", "--workers", "1")
    assert [row[0] for row in table_rows(done.stdout)] == ["packed", "val@1"]
    assert not (scratch.root / "store").exists()
    assert not scratch.versions("ProjectDatasets", "train")

    done = scratch.migrate("val", "--up")
    assert [row[0] for row in table_rows(done.stdout)][:2] == ["uploaded", "val@1"]
    assert len(scratch.versions("store", "val")) == 1
    assert not scratch.cache.exists()


def test_the_commands_work_on_the_project_of_manage_py_from_any_folder(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Scratch.make(tmp_path / "other", files=1)
    done = subprocess.run(
        [sys.executable, scratch.root / "manage.py", "migrate-data", "--zip", "--workers", "1"],
        cwd=other.root,
        env=scratch.environment | {"BENCHKIT_PROJECT": str(other.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(scratch.versions("ProjectDatasets")) == 1
    assert not (other.root / "ProjectDatasets").exists()


def test_a_change_is_version_2_and_version_1_stays_whole(migrated: Scratch) -> None:
    (first,) = migrated.versions("store")
    old = first.read_bytes()
    (migrated.root / "data/0007.txt").write_bytes(b"000000007 rewritten")
    (migrated.root / "data/0040.txt").write_bytes(b"000000040 added")

    done = migrated.migrate("--chunk-mib", "1", "--workers", "2")
    _, packed, _, tried, _, uploaded, _ = table_rows(done.stdout)
    assert packed[:6] == ["train@2", "new", "41", "+1 ~1", "4", "3"]
    assert tried[:3] == ["train@2", "41", "41"]
    assert uploaded[:5] == ["train@2", "new", "4", "3", "1"]
    assert first.read_bytes() == old
    store = LocalStore(migrated.root / "store")
    assert read_manifest(store, find_version(store, "train", number=1)).samples == 40
    for label in ("train@1", "train@2"):
        done = migrated.bench_kit("verify", label, "--full")
        assert (done.returncode, done.stderr) == (0, "")


def test_on_another_machine_only_what_changed_is_staged_tried_and_sent(
    migrated: Scratch, migrated_once: Scratch
) -> None:
    shutil.rmtree(migrated.root / "ProjectDatasets")
    shutil.rmtree(migrated.root / ".benchkit")
    (migrated.root / "data/0003.txt").unlink()
    (migrated.root / "data/0040.txt").write_bytes(b"000000040 added")
    done = migrated.migrate("--chunk-mib", "1", "--workers", "2")
    _, packed, _, tried, _, uploaded, _ = table_rows(done.stdout)
    assert packed[:6] == ["train@2", "new", "40", "+1 -1", "4", "3"]
    assert tried[:3] == ["train@2", "40", "40"]
    assert uploaded[:5] == ["train@2", "new", "4", "3", "1"]
    assert len(migrated.chunks("ProjectDatasets")) == 1
    for options in ((), ("--staged",)):
        done = migrated.bench_kit("verify", "train@2", "--full", *options)
        assert (done.returncode, done.stderr) == (0, "")


def test_contents_that_change_with_neither_size_nor_time_are_found_with_checksum(migrated: Scratch) -> None:
    migrated.migrate("--zip", "--chunk-mib", "1")  # its copy has paths that the journal does not know
    path = migrated.root / "data/0007.txt"
    time_ns = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(time_ns, time_ns))
    rows = [
        table_rows(migrated.migrate("--zip", "--chunk-mib", "1", *options).stdout)[1]
        for options in ((), ("--checksum",))
    ]
    assert [row[:4] for row in rows] == [
        ["train@1", "unchanged", "40", "none"],
        ["train@2", "new", "40", "~1"],
    ]


def test_a_remote_that_cannot_be_asked_ends_what_would_upload_before_it_packs(migrated: Scratch) -> None:
    shutil.rmtree(migrated.root / "store")
    (migrated.root / "store").write_text("a file")
    (migrated.root / "data/0040.txt").write_bytes(b"000000040 added")
    for options in ((), ("--zip", "--up")):
        assert_refused(migrated.manage("migrate-data", *options), StoreError, "store is a file")
        assert len(migrated.versions("ProjectDatasets")) == 1
    done = migrated.manage("migrate-data", "--zip", "--chunk-mib", "1")
    assert done.returncode == 0
    assert done.stderr.startswith("the remote could not be asked (file:///")
    assert done.stderr.endswith("): packing on top of staging's newest version\n")
    assert done.stderr.count("\n") == 1
    assert table_rows(done.stdout)[1][:6] == ["train@2", "new", "41", "+1", "4", "3"]


def test_a_cache_that_cannot_be_used_ends_what_would_be_tried_before_it_packs(scratch: Scratch) -> None:
    scratch.cache.mkdir()
    scratch.cache.chmod(0o755)
    for options in ((), ("--zip", "--tdl")):
        assert_refused(scratch.manage("migrate-data", *options), CacheError, "is open to other users")
        assert not scratch.objects("ProjectDatasets")
    assert scratch.manage("migrate-data", "--zip").returncode == 0


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds, while the process runs."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.processes
def test_killed_again_and_again_at_random_moments_a_rerun_ends_with_the_undisturbed_bytes(
    migrated_once: Scratch, tmp_path: Path
) -> None:
    project = Scratch.make(tmp_path / "scratch", files=40, size=64 << 10, datasets=SLOW)
    command = [*MIGRATE, "--chunk-mib", "1"]
    moments = random.Random(11)
    # The last ones are later than packing takes: they fall into the trial and the upload.
    for latest_seconds in (0.2, 0.5, 0.5, 1.0, 1.5):
        process = project.start(command)
        wait_for((project.root / ".benchkit").exists, process)
        time.sleep(moments.uniform(0, latest_seconds))
        os.killpg(process.pid, signal.SIGKILL) if latest_seconds == 0.5 else process.kill()
        process.communicate()
        left = finished(project)
        assert left.items() <= finished(migrated_once).items()
    done = project.manage("migrate-data", "--workers", "2", "--chunk-mib", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert finished(project) == finished(migrated_once)
    assert not list((project.root / "ProjectDatasets/.tmp").iterdir())


@pytest.mark.processes
def test_of_two_at_once_each_ends_well_or_is_told_of_the_other(
    migrated_once: Scratch, tmp_path: Path
) -> None:
    project = Scratch.make(tmp_path / "scratch", files=40, size=64 << 10, datasets=SLOW)
    command = [*MIGRATE, "--chunk-mib", "1"]
    both = [project.start(command) for _ in range(2)]
    ends = [(*process.communicate(timeout=120), process.returncode) for process in both]
    assert 0 in [code for _, _, code in ends]
    for _, errors, code in ends:
        if code:
            assert code == 2
            assert errors.startswith("error: 'train' is being packed by another process")
            assert errors.count("\n") == 1
        else:
            assert errors == ""
    assert finished(project) == finished(migrated_once)


@pytest.mark.processes
def test_two_uploads_at_once_leave_one_version(migrated_once: Scratch, migrated: Scratch) -> None:
    shutil.rmtree(migrated.root / "store")
    both = [migrated.start([*MIGRATE, "--up"]) for _ in range(2)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert ends == [("", 0), ("", 0)]
    assert finished(migrated) == finished(migrated_once)


@pytest.mark.processes
def test_ctrl_c_ends_at_once_without_a_traceback_and_publishes_nothing(tmp_path: Path) -> None:
    project = Scratch.make(tmp_path / "scratch", files=400, datasets=SLOW)
    process = project.start(MIGRATE)
    wait_for((project.root / "ProjectDatasets/.tmp").exists, process)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in out + errors
    assert not project.versions("ProjectDatasets")
    assert not (project.root / "store").exists()


@pytest.mark.slow
def test_at_the_root_of_a_working_copy_it_works_on_the_template(tmp_path: Path) -> None:
    (tmp_path / "manage.py").write_bytes((ROOT / "manage.py").read_bytes())
    template = tmp_path / "project_template"
    for name in (*TEMPLATE_FILES, SETTINGS_NAME):
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).write_bytes((ROOT / "project_template" / name).read_bytes())
    done = Scratch(tmp_path, tmp_path / "cache").migrate("--workers", "2")
    rows = table_rows(done.stdout)
    assert [row[:3] for row in rows[1:3]] == [["train@1", "new", "1,497"], ["val@1", "new", "300"]]
    assert [row[:2] for row in rows[7:9]] == [["train@1", "new"], ["val@1", "new"]]
    assert {path.name for path in tmp_path.iterdir()} == {"manage.py", "project_template", "cache"}
    assert (template / "store/benchkit.json").is_file()
