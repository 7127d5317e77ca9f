"""Laws of bad input: one line of what, which and what next, the class's exit code, and no wrong sample."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.making import rows_of
from support.scratch import NOTES, Scratch, assert_refused, flip, table_rows, truncate

from benchkit.data.catalogue import publish
from benchkit.errors import (
    BenchKitError,
    CacheError,
    CorruptError,
    DatasetError,
    FormatError,
    LabelTypeError,
    NotFoundError,
    ProjectError,
    SampleError,
    StallError,
    StoreError,
    UsageError,
)
from benchkit.format import layout
from benchkit.format.chunk import ChunkWriter
from benchkit.format.labels import EncodedLabel, encode_label
from benchkit.format.manifest import Manifest, manifest_digest
from benchkit.store.local import LocalStore
from benchkit.stream import IterableChunk, get_dataset

FAULTY = """\
import os
from pathlib import Path

from benchkit import IterableChunk, ProcessorDataset

DATA = Path(__file__).resolve().parents[1] / "data"


class Faulty(ProcessorDataset):
    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 0 if self.fault == "empty" else 40

    def get_file(self, item):
        if item == 7 and (DATA / "faulty").exists():
            if self.fault == "missing":
                return [str(DATA / "nothing-here.txt")]
            if self.fault == "dangling":
                return [str(DATA / "dangling.txt")]
            if self.fault == "folder":
                return [str(DATA)]
            if self.fault == "growing":
                return [str(DATA / "large.txt")]
        return [str(DATA / f"{item:04d}.txt")]

    def get_label_and_numeric_data(self, item):
        if item == 7 and (DATA / "faulty").exists():
            if self.fault == "raises":
                return {}["no such\\x1b[31m key"]
            if self.fault == "set":
                return {"classes": [1, {2, 3}]}
            if self.fault == "growing":
                with open(DATA / "large.txt", "ab") as file:
                    file.write(b"more")
            if self.fault == "dies":
                os._exit(3)
        return item


def main():
    names = "missing dangling folder raises set growing dies empty".split()
    return [(Faulty(name), IterableChunk, name, [], {}) for name in names]
"""


class Numbers(IterableChunk):
    """Reads the scratch project's samples: the label, and the number that the file itself says."""

    def _data_iterator(self):
        for label, files in super()._data_iterator():
            yield label, int(files[0].read(9))


def read_all(project: Scratch, monkeypatch: pytest.MonkeyPatch, *, seen: list[tuple[int, int]]) -> None:
    """Read the remote's `train` as training does, and note what arrives before it ends or fails."""
    monkeypatch.setenv("BENCHKIT_PROJECT", str(project.root))
    monkeypatch.setenv("BENCHKIT_CACHE_DIR", str(project.cache))
    for labels, numbers in get_dataset(Numbers, True, "train", 8, 0):
        seen.extend(zip(labels.tolist(), numbers.tolist(), strict=True))


def assert_reported(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that `verify` ended with a list of problems that says all these words."""
    first, *problems = done.stderr.splitlines()
    assert done.returncode == CorruptError.exit_code
    assert first.startswith("error: train@")
    assert " problem" in first
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert any(word in problem for problem in problems), (word, problems)


# Not inside a project; no benchkit.toml; a broken one.


@pytest.mark.parametrize(
    "command", [["show-ds"], ["del-ds", "train", "--yes"], ["verify", "train"], ["project-info"]]
)
def test_outside_a_project_the_file_and_the_command_that_makes_one_are_named(
    tmp_path: Path, command: list[str]
) -> None:
    nowhere = Scratch(tmp_path, tmp_path / "cache")
    done = nowhere.bench_kit(*command)
    assert_refused(done, ProjectError, "benchkit.toml", str(tmp_path), "bench-kit startproject")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'[project]\nid = "x"\nremote = store\n', ["line 3"]),
        (b'[project]\nid = "x"\nremote = "store"\nid = "y"\n', ["line 4"]),
        (b'[project]\nid = "x"\n', ["'remote'"]),
        (b"", ["'id'"]),
        (b'[project]\nid = "x"\nremote = "store"\nkey = "sk"\n', ["'key'", "[project]"]),
        (b'[project]\nid = "x"\nremote = 5\n', ["'remote'", "5"]),
        (b'[project]\nid = "x"\nremote = "store"\n[cache]\nlimit_bytes = "1 GB"\n', ["'limit_bytes'"]),
        (b'[project]\nid = "\xff"\n', ["0xff"]),
    ],
)
def test_a_broken_benchkit_toml_is_told_by_line_or_key(
    scratch: Scratch, text: bytes, words: list[str]
) -> None:
    path = scratch.root / "benchkit.toml"
    path.write_bytes(text)
    assert_refused(scratch.bench_kit("show-ds"), ProjectError, str(path), "bench-kit startproject", *words)


@pytest.mark.parametrize(
    ("remote", "words"),
    [("s4://bucket/train", "known are file://"), ("file://user:secret@host/store", "password")],
)
def test_a_remote_that_cannot_be_is_refused_and_no_password_is_repeated(
    migrated: Scratch, remote: str, words: str
) -> None:
    (migrated.root / "benchkit.toml").write_text(f'[project]\nid = "x"\nremote = "{remote}"\n')
    done = migrated.bench_kit("show-ds")
    assert_refused(done, UsageError, words)
    assert "secret" not in done.stderr


def test_a_remote_that_is_a_file_is_told(migrated: Scratch) -> None:
    (migrated.root / "benchkit.toml").write_text('[project]\nid = "x"\nremote = "manage.py"\n')
    assert_refused(migrated.bench_kit("show-ds"), StoreError, "manage.py is a file")


# Names and stages.


def test_a_name_that_main_does_not_list_is_answered_with_those_it_lists(scratch: Scratch) -> None:
    done = scratch.manage("migrate-data", "trian", "--zip")
    assert_refused(done, UsageError, "'trian'", "it lists: train", "ProjectDatasets.py")
    assert not (scratch.root / "ProjectDatasets").exists()


@pytest.mark.parametrize("stage", ["--up", "--tdl"])
def test_a_stage_before_packing_names_the_command_that_packs(scratch: Scratch, stage: str) -> None:
    done = scratch.manage("migrate-data", "train", stage)
    assert_refused(done, NotFoundError, "'train'", "python manage.py migrate-data")
    assert not scratch.versions("store")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "--workers"),
        (["--chunk-mib", "-1"], "--chunk-mib"),
        (["--codec", "gzip"], "gzip"),
        (["train", "val"], "val"),
        (["--zap"], "--zap"),
    ],
)
def test_options_that_cannot_be_meant_are_exit_code_2_before_anything_runs(
    scratch: Scratch, arguments: list[str], words: str
) -> None:
    done = scratch.manage("migrate-data", *arguments)
    assert done.returncode == UsageError.exit_code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (scratch.root / "ProjectDatasets").exists()


# Datasets that cannot be packed.


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """Return a project of datasets whose sample 7 is bad, as long as there is `data/faulty`."""
    project = Scratch.make(tmp_path_factory.mktemp("faulty") / "scratch", datasets=FAULTY)
    # Read in blocks, while the label is already made.
    (project.root / "data/large.txt").write_bytes(bytes(3 << 20))
    (project.root / "data/dangling.txt").symlink_to("nothing-here.txt")
    (project.root / "data/faulty").touch()
    return project


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("missing", SampleError, ["sample 7:", "nothing-here.txt"]),
        ("dangling", SampleError, ["sample 7:", "dangling.txt"]),
        ("folder", SampleError, ["sample 7:", "/data'", "folder"]),
        ("growing", SampleError, ["sample 7:", "large.txt", "changed", "nothing was published"]),
        ("dies", StallError, ["worker process died", "nothing was published"]),
        ("raises", SampleError, ["sample 7:", "get_label_and_numeric_data", "KeyError", "\\x1b"]),
        ("set", LabelTypeError, ["sample 7:", "set", "NumPy", "torch tensors", "dicts"]),
        ("empty", DatasetError, ["empty"]),
    ],
)
def test_a_dataset_that_cannot_be_packed_is_told_by_its_sample_and_nothing_is_published(
    faulty: Scratch, name: str, error: type[BenchKitError], words: list[str]
) -> None:
    done = faulty.manage("migrate-data", name, "--debug" if name == "raises" else "--zip", "--workers", "2")
    assert_refused(done, error, *words, debug=name == "raises")
    assert not faulty.versions("ProjectDatasets", name)
    assert not (faulty.root / "store").exists()


def test_after_mending_a_rerun_packs_all_and_every_sample_is_right(tmp_path: Path) -> None:
    project = Scratch.make(tmp_path / "scratch", datasets=FAULTY)
    (project.root / "data/large.txt").write_bytes(bytes(3 << 20))
    faulty = project.root / "data/faulty"
    faulty.touch()
    assert project.manage("migrate-data", "growing", "--zip", "--workers", "2").returncode == 4
    faulty.unlink()
    _, packed = table_rows(project.migrate("growing", "--zip", "--workers", "2").stdout)
    assert packed[:3] == ["growing@1", "new", "40"]
    done = project.bench_kit("verify", "growing", "--staged", "--full")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (("def main():", "def main(:"), ProjectError, ["ProjectDatasets.py, line 28", "SyntaxError"]),
        (("return [(Notes(), ", "return [(Notes, "), ProjectError, ["entry 0", "ProcessorDataset object"]),
        (
            (
                "NotesChunk(IterableChunk):",
                "NotesChunk(IterableChunk):\n    def __init__(self, name, cloud): ...",
            ),
            UsageError,
            ["NotesChunk.__init__", "super().__init__(name, cloud)"],
        ),
        (
            ("yield label, int(", "yield label, {7: 1}[label] if label == 8 else int("),
            SampleError,
            ["'data/0008.txt' ('0008.txt') in chunk ", " of train@1: KeyError: 8"],
        ),
    ],
    ids=["syntax", "class", "super", "decoding"],
)
def test_mistakes_in_the_projects_datasets_are_told_by_their_place(
    migrated: Scratch, change: tuple[str, str], error: type[BenchKitError], words: list[str]
) -> None:
    assert change[0] in NOTES
    migrated.write_datasets(NOTES.replace(*change))
    assert_refused(migrated.manage("migrate-data", "--tdl"), error, *words)


# Damaged bytes.


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink], ids=["flipped", "truncated", "missing"])
def test_a_damaged_chunk_in_staging_is_neither_tried_nor_sent_and_packing_again_mends_it(
    migrated: Scratch, damage: Callable[[Path], object]
) -> None:
    shutil.rmtree(migrated.root / "store")
    whole = migrated.objects("ProjectDatasets")
    damaged = migrated.chunks("ProjectDatasets")[1]
    damage(damaged)
    done = migrated.manage("migrate-data", "--tdl")
    assert_refused(done, CorruptError, damaged.name[:12], "train@1")
    done = migrated.manage("migrate-data", "--up")
    assert_refused(done, CorruptError, damaged.name, "python manage.py migrate-data train")
    assert not migrated.versions("store")

    migrated.migrate("train", "--zip", "--up", "--chunk-mib", "1", "--workers", "2")
    assert migrated.objects("ProjectDatasets") == whole
    assert migrated.bench_kit("verify", "train", "--full").returncode == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 0.0),
        lambda path: flip(path, 0.3),
        lambda path: flip(path, 0.998),  # in the index
        lambda path: flip(path, 1.0),
        truncate,
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(b""),
        Path.unlink,
    ],
    ids=["first", "data", "index", "end", "truncated", "longer", "empty", "missing"],
)
def test_of_a_damaged_chunk_in_the_remote_training_gets_an_error_and_never_a_wrong_sample(
    migrated: Scratch, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]
) -> None:
    damaged = migrated.chunks("store")[1]
    damage(damaged)
    seen: list[tuple[int, int]] = []
    with pytest.raises(CorruptError) as refused:
        read_all(migrated, monkeypatch, seen=seen)
    assert damaged.name[:12] in str(refused.value)
    assert "train@1" in str(refused.value)
    assert "bench-kit verify train" in str(refused.value)
    assert all(label == number for label, number in seen)


def test_two_chunks_of_one_size_that_changed_places_are_noticed(
    migrated: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = sorted(migrated.chunks("store"), key=lambda path: -path.stat().st_size)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert_reported(migrated.bench_kit("verify", "train", "--full"), first.name, second.name)
    seen: list[tuple[int, int]] = []
    with pytest.raises(CorruptError):
        read_all(migrated, monkeypatch, seen=seen)
    assert all(label == number for label, number in seen)


def test_a_flipped_byte_in_a_manifest_is_noticed_by_every_reader(
    migrated: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (manifest,) = migrated.versions("store")
    flip(manifest)
    assert_refused(migrated.bench_kit("show-ds"), CorruptError, "manifest", "of train is corrupt")
    assert_reported(migrated.bench_kit("verify", "train", "--full"), "manifest", "of train is corrupt")
    with pytest.raises(CorruptError, match="manifest"):
        read_all(migrated, monkeypatch, seen=[])
    done = migrated.bench_kit("del-ds", "train", "--yes")
    assert (done.returncode, done.stderr) == (0, "")


def publish_raw(project: Scratch, number: int, data: bytes) -> Path:
    """Write the bytes of a manifest as a version, under their own digest."""
    path = project.root / "store" / layout.version_name("train", number, manifest_digest(data))
    path.write_bytes(data)
    return path


def test_a_manifest_of_a_newer_format_is_refused_with_the_advice_to_upgrade(
    migrated: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = json.loads(migrated.versions("store")[0].read_bytes())
    text = json.dumps(fields | {"format": 2, "new": True}, separators=(",", ":"), sort_keys=True)
    publish_raw(migrated, 2, text.encode())
    for command in (["show-ds", "--json"], ["del-ds", "train@1", "--yes"]):
        done = migrated.bench_kit(*command)
        assert_refused(done, FormatError, "of train has format 2", "upgrade benchkit")
    assert_reported(migrated.bench_kit("verify", "train"), "of train has format 2", "upgrade benchkit")
    with pytest.raises(FormatError, match="upgrade benchkit"):
        read_all(migrated, monkeypatch, seen=[])
    assert migrated.bench_kit("verify", "train@1", "--full").returncode == 0


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b'{"benchkit":"store","format":2}', FormatError, "upgrade benchkit"),
        (b"{}", FormatError, "not this project's"),
        (b"\x80 no json", FormatError, "benchkit.json"),
        (b"[" * 4000, FormatError, "benchkit.json"),
    ],
)
def test_a_store_of_another_format_is_refused(
    migrated: Scratch, data: bytes, error: type[BenchKitError], words: str
) -> None:
    (migrated.root / "store/benchkit.json").write_bytes(data)
    for command in (["show-ds"], ["del-ds", "train", "--yes"]):
        assert_refused(migrated.bench_kit(*command), error, words)
    assert_reported(migrated.bench_kit("verify", "train"), words)
    assert len(migrated.chunks("store")) == 3


# Chunks made to do harm.


def publish_chunk(project: Scratch, name: bytes, label: EncodedLabel) -> str:
    """Publish a version 2 of one hand-made chunk, whole in every digest, and return the chunk's file name."""
    store = LocalStore(project.root / "store")
    with store.temporary() as temporary:
        writer = ChunkWriter(temporary.file, codec="none")
        writer.add_samples(*rows_of([(b"evil", [(name, b"000000000")], label)]))
        entry = writer.finish()
        store.adopt(temporary, layout.chunk_name("train", entry.stored, entry.codec))
    publish(store, Manifest(dataset="train", chunk_bytes=1 << 20, codec="none", chunks=(entry,)))
    return f"{entry.stored}.tar"


ZERO = encode_label(0)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (b"../../evil.txt", ZERO),
        (b"/etc/passwd", ZERO),
        (b"..", ZERO),
        (b"nul\0.txt", ZERO),
        (b"clear\x1b[2J.txt", ZERO),
        (b"", ZERO),
        (b"fine.txt", EncodedLabel("pickle", (b"0",))),
        (b"fine.txt", EncodedLabel(["tuple", ["os.system"]], (b'["ls"]',))),
        (b"fine.txt", EncodedLabel({"__reduce__": "json"}, (b"{}",))),
        (b"fine.txt", EncodedLabel("cls", (b"zero",))),
        (b"fine.txt", EncodedLabel("json", (b'{"a":',))),
        (b"fine.txt", EncodedLabel("json", (b"[" * 100_000,))),
    ],
)
def test_a_chunk_with_a_name_that_leaves_its_folder_or_a_label_of_unknown_kind_is_refused(
    migrated: Scratch, monkeypatch: pytest.MonkeyPatch, name: bytes, label: Any
) -> None:
    chunk = publish_chunk(migrated, name, label)
    seen: list[tuple[int, int]] = []
    with pytest.raises((FormatError, CorruptError), match=chunk[:12]):
        read_all(migrated, monkeypatch, seen=seen)
    assert seen == []
    assert_reported(migrated.bench_kit("verify", "train", "--full"), chunk)


# Places that cannot be used.


def test_a_file_in_the_place_of_a_store_or_the_cache_is_an_error_that_names_it(migrated: Scratch) -> None:
    shutil.rmtree(migrated.root / "store")
    (migrated.root / "store").write_text("a file")
    assert_refused(migrated.manage("migrate-data", "--up"), StoreError, str(migrated.root / "store"))
    migrated.cache.write_text("a file")
    assert_refused(migrated.manage("migrate-data", "--tdl"), CacheError, str(migrated.cache))
    (migrated.root / "store").unlink()
    shutil.rmtree(migrated.root / "ProjectDatasets")
    (migrated.root / "ProjectDatasets").write_text("a file")
    done = migrated.manage("migrate-data", "--zip", "--workers", "1")
    assert_refused(done, StoreError, "ProjectDatasets")


def test_a_path_that_the_terminal_cannot_write_is_shown_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = Scratch.make(tmp_path / "f\u00fcr", files=0).bench_kit("project-info")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/f\\xfcr" in done.stdout
