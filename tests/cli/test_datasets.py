"""Laws of `bench-kit show-ds`, `del-ds` and `verify`, run as users run them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.scratch import BENCH_KIT, NOTES, Scratch, assert_refused, flip, truncate

from benchkit.cli import main, manage
from benchkit.data.catalogue import list_versions, publish, read_manifest
from benchkit.errors import CorruptError, NotFoundError, SampleError, UsageError
from benchkit.format.manifest import Manifest
from benchkit.store.local import LocalStore

COMMANDS = [
    *([BENCH_KIT, str(command.name)] for command in main.app.registered_commands),
    *([sys.executable, "manage.py", str(command.name)] for command in manage.app.registered_commands),
]


def publish_a_part(project: Scratch) -> None:
    """Publish version 2 of `train`, which is version 1 without its first chunk."""
    store = LocalStore(project.root / "store")
    (version,) = list_versions(store, "train")
    whole = read_manifest(store, version)
    part = Manifest(dataset="train", chunk_bytes=1 << 20, codec="auto", chunks=whole.chunks[1:])
    assert publish(store, part)[0].number == 2


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[-1])
def test_every_command_of_the_installed_programs_has_help(
    command: list[str | Path], migrated_once: Scratch
) -> None:
    process = migrated_once.start(command, "--help")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert out.startswith("Usage: ")
    assert "Example: " in out


def test_show_ds_is_a_table_for_people_and_json_for_programs(migrated: Scratch) -> None:
    publish_a_part(migrated)
    done = migrated.bench_kit("show-ds", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    one, two = json.loads(done.stdout)
    chunk_sizes = sorted(path.stat().st_size for path in migrated.chunks("store"))
    assert (one["dataset"], one["version"], one["samples"], one["chunks"]) == ("train", 1, 40, 3)
    assert one["stored_bytes"] == sum(chunk_sizes)
    assert one["shared_bytes"] == 0
    assert two["shared_bytes"] == two["stored_bytes"] < one["stored_bytes"]
    assert {path.name for path in migrated.versions("store")} == {
        f"{fields['version']}-{fields['manifest']}.json" for fields in (one, two)
    }

    done = migrated.bench_kit("show-ds")
    assert done.returncode == 0
    heads, *rows = done.stdout.splitlines()
    assert heads.split()[:2] == ["dataset", "samples"]
    assert [row.split()[:3] for row in rows] == [
        ["train@1", "40", "3"],
        ["train@2", str(two["samples"]), "2"],
    ]


def test_show_ds_of_a_store_that_is_not_there_says_what_puts_something_there(scratch: Scratch) -> None:
    done = scratch.bench_kit("show-ds")
    assert done.returncode == 0
    assert "python manage.py migrate-data" in done.stdout
    assert json.loads(scratch.bench_kit("show-ds", "--json").stdout) == []
    assert not (scratch.root / "store").exists()


def test_verify_tells_a_whole_version_and_how_it_was_checked(migrated: Scratch) -> None:
    before = migrated.objects("store")
    for options, depth in (([], "presence and sizes checked"), (["--full"], "every byte checked")):
        done = migrated.bench_kit("verify", "train", *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("train@1 is whole: 3 chunks, 40 samples, ")
        assert done.stdout.endswith(f"; {depth}\n")
    assert migrated.objects("store") == before


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (flip, ["--full"], "is corrupt"),
        (truncate, [], "bytes in"),
        (Path.unlink, [], "is missing from"),
        (Path.unlink, ["--full"], "is missing from"),
    ],
    ids=["flipped", "truncated", "missing", "missing-full"],
)
def test_verify_lists_every_damaged_chunk_in_both_stores(
    migrated: Scratch, damage: Callable[[Path], object], options: list[str], words: str
) -> None:
    for store, where in (("store", []), ("ProjectDatasets", ["--staged"])):
        damaged = migrated.chunks(store)[:2]
        for path in damaged:
            damage(path)
        done = migrated.bench_kit("verify", "train", *options, *where)
        first, *problems = done.stderr.splitlines()
        assert done.returncode == CorruptError.exit_code
        assert first.startswith("error: train@1 has 2 problems")
        for path in damaged:
            assert sum(path.name in problem and words in problem for problem in problems) == 1
        assert problems[-1].startswith("to mend chunks: bench-kit verify train@1 ")
        assert problems[-1].endswith(" --repair")
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_show_ds_shows_the_others_beside_a_version_that_cannot_be_read(migrated: Scratch) -> None:
    publish_a_part(migrated)
    one, _ = migrated.versions("store")
    flip(one)
    done = migrated.bench_kit("show-ds")
    assert done.returncode == CorruptError.exit_code
    _, first, second = done.stdout.splitlines()
    assert first.startswith("train@1 ")
    assert "unreadable: the manifest" in first
    assert second.split()[0] == "train@2"
    assert done.stderr.startswith("error: train@1 cannot be read: the manifest ")
    done = migrated.bench_kit("show-ds", "--json")
    assert done.returncode == CorruptError.exit_code
    unreadable, whole = json.loads(done.stdout)
    assert "is corrupt" in unreadable["error"]
    assert (unreadable["version"], whole["version"], "error" in whole) == (1, 2, False)


def test_verify_repairs_from_staging_when_it_is_told_to(migrated: Scratch) -> None:
    first, second, third = migrated.chunks("store")
    flip(first)
    second.unlink()
    refused = migrated.bench_kit("verify", "train", "--full", "--repair")
    assert_refused(refused, UsageError, "--yes")
    done = migrated.bench_kit("verify", "train", "--full", "--repair", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("train@1: 2 chunks sent again from staging, 0 chunks removed\n")
    assert migrated.bench_kit("verify", "train", "--full").returncode == 0

    staged = migrated.root / "ProjectDatasets/datasets/train/chunks" / third.name
    staged.unlink()
    flip(third)
    done = migrated.bench_kit("verify", "train", "--full", "--repair", "--yes")
    assert done.returncode == CorruptError.exit_code
    assert "0 chunks sent again from staging, 1 chunk removed" in done.stdout
    assert "lacks 1 chunk, which staging does not hold" in done.stderr
    assert "python manage.py migrate-data train" in done.stderr
    assert not third.exists()
    migrated.migrate("train", "--zip", "--up", "--chunk-mib", "1")
    assert migrated.bench_kit("verify", "train", "--full").returncode == 0


def test_verify_asks_before_it_repairs(migrated: Scratch) -> None:
    [damaged, *_] = migrated.chunks("store")
    flip(damaged)
    before = migrated.objects("store")
    command: list[str | Path] = [BENCH_KIT, "verify", "train", "--full", "--repair"]
    out, _ = migrated.on_terminal(command, typed=b"n\n", code=1)
    assert b"Send 1 chunk again from staging? " in out
    assert migrated.objects("store") == before
    migrated.on_terminal(command, typed=b"y\n")
    assert migrated.bench_kit("verify", "train", "--full").returncode == 0


def test_del_ds_lists_what_one_version_alone_would_free(migrated: Scratch) -> None:
    publish_a_part(migrated)
    before = migrated.objects("store")
    done = migrated.bench_kit("del-ds", "train@1", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.startswith("would delete train@1 in file://")
    assert "1 version, 1 chunk" in done.stdout
    assert migrated.objects("store") == before


@pytest.mark.parametrize("command", [["verify"], ["del-ds", "--yes"], ["del-ds", "--dry-run"]])
def test_an_unknown_dataset_or_version_says_which_there_are(migrated: Scratch, command: list[str]) -> None:
    before = migrated.objects("store")
    assert_refused(migrated.bench_kit(*command, "train@9"), NotFoundError, "no version 9", "it has: 1")
    assert_refused(
        migrated.bench_kit(*command, "trian"), NotFoundError, "'trian'", "it holds: train", "migrate-data"
    )
    assert migrated.objects("store") == before


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("train@", "write train@1"),
        ("train@0", "'0' is no version number"),
        ("train@-1", "'-1' is no version number"),
        ("train@two", "'two' is no version number"),
        ("train@" + "9" * 5000, "no version number"),
        ("../train", "is no dataset name"),
        ("", "is no dataset name"),
        ("tr\x1b[2Jain", "\\x1b"),
    ],
)
def test_what_is_no_dataset_name_or_version_is_refused(
    migrated_once: Scratch, label: str, words: str
) -> None:
    done = migrated_once.bench_kit("verify", label)
    assert_refused(done, UsageError, words)
    assert "\x1b" not in done.stderr


def test_del_ds_without_a_terminal_is_an_error_that_deletes_nothing(migrated: Scratch) -> None:
    before = migrated.objects("store")
    assert_refused(migrated.bench_kit("del-ds", "train"), UsageError, "--yes")
    assert_refused(migrated.bench_kit("del-ds"), UsageError, "needs a name", "train")
    assert_refused(migrated.bench_kit("del-ds", "--yes"), UsageError, "needs a name", "train")
    assert migrated.objects("store") == before


def test_del_ds_dry_run_says_what_yes_then_deletes_and_staging_stays(migrated: Scratch) -> None:
    before, staged = migrated.objects("store"), migrated.objects("ProjectDatasets")
    planned = migrated.bench_kit("del-ds", "train", "--dry-run")
    assert planned.returncode == 0
    assert planned.stdout.startswith("would delete train in file://")
    assert migrated.objects("store") == before

    done = migrated.bench_kit("del-ds", "train", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == planned.stdout.replace("would delete", "deleted")
    assert set(migrated.objects("store")) == {"benchkit.json"}
    assert migrated.objects("ProjectDatasets") == staged
    assert_refused(migrated.bench_kit("del-ds", "train", "--yes"), NotFoundError, "it holds: none")
    assert_refused(migrated.bench_kit("del-ds"), UsageError, "holds no dataset")


def test_deleting_a_version_keeps_the_chunks_of_the_others(migrated: Scratch) -> None:
    publish_a_part(migrated)
    done = migrated.bench_kit("del-ds", "train@1", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(migrated.chunks("store")) == 2
    done = migrated.bench_kit("verify", "train", "--full")
    assert done.stdout.startswith("train@2 is whole: 2 chunks, ")
    assert_refused(migrated.bench_kit("verify", "train@1"), NotFoundError, "it has: 2")


def test_del_ds_asks_on_a_terminal_and_only_yes_deletes(migrated: Scratch) -> None:
    command: list[str | Path] = [BENCH_KIT, "del-ds"]
    before = migrated.objects("store")
    for typed in (b"\n", b"n\n"):
        out, _ = migrated.on_terminal([*command, "train"], typed=typed, code=1)
        assert b"Delete train in " in out
        assert migrated.objects("store") == before
    out, _ = migrated.on_terminal(command, typed=b"train@1\ny\n")
    assert out.splitlines()[0] == b"train"
    assert b"deleted train@1" in out
    assert set(migrated.objects("store")) == {"benchkit.json"}


def test_a_picture_that_cannot_be_read_is_a_cross_on_the_sheet_of_the_others(scratch: Scratch) -> None:
    scratch.write_datasets(NOTES.replace("int(files[0].read(9))", "label"))
    for path in sorted((scratch.root / "data").iterdir())[1:]:
        path.unlink()
    whole = scratch.root / "data/0001.txt"
    Image.new("RGB", (32, 32), "blue").save(whole, "PNG")
    scratch.migrate("--zip")
    done = scratch.bench_kit("show-samples", "train", "--staged")
    assert done.returncode == 0
    assert done.stderr == "warning: '0000.txt' of train is no picture that Pillow knows\n"
    with Image.open(scratch.root / "samples.png") as sheet:
        colours = {colour for _, colour in sheet.getcolors(1 << 16) or []}
    assert {(0, 0, 255), (255, 0, 0)} <= colours

    whole.unlink()
    scratch.migrate("--zip")
    refused = scratch.bench_kit("show-samples", "train", "--staged")
    assert_refused(refused, SampleError, "'0000.txt' of train is no picture")
    assert scratch.bench_kit("show-samples", "train@1", "--staged").returncode == 0
    refused = scratch.bench_kit("show-samples", "train@3", "--staged")
    assert_refused(refused, NotFoundError, "has no version 3; it has: 1, 2")
