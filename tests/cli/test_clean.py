"""Laws of `bench-kit clean`, run as users run it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.scratch import BENCH_KIT, Scratch, assert_refused, flip, table_rows

from benchkit.data.intents import encode_intent
from benchkit.data.journal import Journal
from benchkit.errors import UsageError
from benchkit.store.bundles import new_folder
from benchkit.store.local import LocalStore
from benchkit.train.checkpoint_store import open_shelf

ORPHAN = f"datasets/train/chunks/{'a' * 64}.tar"
INTENT = f"datasets/train/uploads/{'b' * 32}.json"


def leave(project: Scratch, store: str = "store", name: str = ORPHAN, data: bytes = b"x" * 2048) -> Path:
    path = project.root / store / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--yes"], ["--staged"], ["--older-than", "0"]])
def test_a_store_of_which_all_is_needed_has_nothing_to_clean(
    migrated_once: Scratch, options: list[str]
) -> None:
    done = migrated_once.bench_kit("clean", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing to clean in file://")


def test_a_dry_run_lists_and_yes_removes(migrated: Scratch) -> None:
    before = migrated.objects("store")
    orphan = leave(migrated)
    leave(migrated, name="datasets/train/chunks/notes.txt")
    planned = migrated.bench_kit("clean", "--dry-run")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert table_rows(planned.stdout)[:2] == [
        ["kind", "object", "size", "age"],
        ["chunk", ORPHAN, "2.00 KiB", table_rows(planned.stdout)[1][3]],
    ]
    assert "left alone: 1 object: datasets/train/chunks/notes.txt" in planned.stdout
    assert "would remove 1 object, 2.00 KiB from file://" in planned.stdout
    assert orphan.exists()

    done = migrated.bench_kit("clean", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed 1 object, 2.00 KiB from file://" in done.stdout
    assert migrated.objects("store").keys() == before.keys() | {"datasets/train/chunks/notes.txt"}


def test_without_a_terminal_it_does_not_clean_unasked(migrated: Scratch) -> None:
    orphan = leave(migrated)
    assert_refused(migrated.bench_kit("clean"), UsageError, "--yes")
    assert_refused(migrated.bench_kit("clean", "--json"), UsageError, "--yes")
    assert orphan.exists()


def test_on_a_terminal_it_asks(migrated: Scratch) -> None:
    orphan = leave(migrated)
    out, _ = migrated.on_terminal([BENCH_KIT, "clean"], typed=b"n\n", code=1)
    assert b"Remove 1 object, 2.00 KiB? " in out
    assert orphan.exists()
    migrated.on_terminal([BENCH_KIT, "clean"], typed=b"y\n")
    assert not orphan.exists()


def test_how_old_a_dead_upload_is_can_be_said_in_hours(migrated: Scratch) -> None:
    orphan = leave(migrated)
    intent = leave(migrated, name=INTENT, data=encode_intent("train", [ORPHAN]))
    os.utime(intent, (time.time() - 7200,) * 2)
    assert "nothing to clean" in migrated.bench_kit("clean", "--yes").stdout
    assert "nothing to clean" in migrated.bench_kit("clean", "--yes", "--older-than", "3").stdout
    assert "removed 2 objects" in migrated.bench_kit("clean", "--yes", "--older-than", "1.5").stdout
    assert not orphan.exists()
    assert not intent.exists()
    assert migrated.bench_kit("clean", "--older-than", "-1").returncode == UsageError.exit_code


def test_json_lists_every_object(migrated: Scratch) -> None:
    leave(migrated)
    done = migrated.bench_kit("clean", "--json", "--dry-run")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    [left] = told["leftovers"]
    assert (left["kind"], left["dataset"], left["object"], left["bytes"]) == ("chunk", "train", ORPHAN, 2048)
    assert 0 <= left["age_seconds"] < 600
    assert (told["removed"], told["freed_bytes"], told["left_alone"], told["unknown"]) == (
        False,
        2048,
        {},
        [],
    )
    told = json.loads(migrated.bench_kit("clean", "--json", "--yes").stdout)
    assert told["removed"]
    assert json.loads(migrated.bench_kit("clean", "--json").stdout)["leftovers"] == []


def test_a_dataset_of_which_a_version_cannot_be_read_is_left_alone_and_told(migrated: Scratch) -> None:
    orphan = leave(migrated)
    flip(migrated.versions("store")[0])
    done = migrated.bench_kit("clean", "--yes")
    assert done.returncode == 0
    assert "nothing to clean" in done.stdout
    assert "train is left alone: the manifest" in done.stdout
    assert orphan.exists()


def test_staging_is_cleaned_but_for_a_dataset_that_is_being_packed(
    migrated: Scratch, copy_migrated: Callable[[str], Scratch]
) -> None:
    orphan = leave(migrated, "ProjectDatasets")
    in_remote = leave(migrated)
    with Journal(migrated.root / ".benchkit/journal/train.jsonl", "train"):
        done = migrated.bench_kit("clean", "--staged", "--yes")
        assert "train is left alone: 'train' is being packed by another process" in done.stdout
        assert orphan.exists()
    assert "removed 1 object" in migrated.bench_kit("clean", "--staged", "--yes").stdout
    assert not orphan.exists()
    assert in_remote.exists()


def test_names_steer_no_terminal(migrated: Scratch) -> None:
    leave(migrated, name="datasets/train/chunks/a b")
    assert "\x1b" not in migrated.bench_kit("clean").stdout


def test_cut_off_uploads_of_checkpoints_are_removed_once_they_are_old(migrated: Scratch) -> None:
    shelf = open_shelf(LocalStore(migrated.root / "store"), "cats")
    (migrated.root / "files").mkdir()
    (migrated.root / "files/model.bin").write_bytes(b"x" * 1000)
    whole = shelf.put(migrated.root / "files")
    folder = new_folder()
    shelf.send(migrated.root / "files", into=folder)
    left = migrated.root / f"store/checkpoints/cats/files/{folder}"
    other = open_shelf(shelf.store, "dogs")  # of which there is nothing else
    other.send(migrated.root / "files", into=folder)
    before = migrated.objects("store")
    assert "nothing to clean" in migrated.bench_kit("clean", "--yes").stdout

    told = json.loads(migrated.bench_kit("clean", "--json", "--dry-run", "--older-than", "0").stdout)
    assert [(it["kind"], it["object"], it["bytes"]) for it in told["leftovers"]] == [
        ("upload", f"checkpoints/cats/files/{folder}/", 1000),
        ("upload", f"checkpoints/dogs/files/{folder}/", 1000),
    ]
    assert migrated.objects("store") == before
    for name in ("cats", "dogs"):
        os.utime(
            migrated.root / f"store/checkpoints/{name}/files/{folder}/model.bin", (time.time() - 7200,) * 2
        )
    done = migrated.bench_kit("clean", "--yes", "--older-than", "1.5")
    assert "removed 2 objects, 1.95 KiB" in done.stdout
    assert not left.exists()
    assert shelf.versions() == [whole]
    shelf.fetch(whole, migrated.root / "fetched")
    assert [info.name for info in shelf.store.list("checkpoints/dogs/")] == []


def test_a_checkpoint_whose_record_cannot_be_read_keeps_all_its_files(migrated: Scratch) -> None:
    shelf = open_shelf(LocalStore(migrated.root / "store"), "cats")
    (migrated.root / "files").mkdir()
    (migrated.root / "files/model.bin").write_bytes(b"x" * 1000)
    whole = shelf.put(migrated.root / "files")
    flip(migrated.root / "store" / whole.object_name)
    before = migrated.objects("store")
    done = migrated.bench_kit("clean", "--yes", "--older-than", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "checkpoint cats is left alone: " in done.stdout
    assert migrated.objects("store") == before
