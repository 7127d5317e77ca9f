"""The journal: what is finished survives anything; what is torn, strange or lost costs time alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchkit.data.journal import Journal, Segment
from benchkit.errors import StoreError, UsageError
from benchkit.format.manifest import ChunkEntry, IndexPlace


def segment(name: str, samples: int = 3) -> Segment:
    digest = (name * 64)[:64]
    place = IndexPlace(object=None, offset=512, length=9, tar_offset=512, tar_length=9, digest=digest)
    chunk = ChunkEntry(
        stored=digest,
        stored_bytes=2048,
        tar=digest,
        tar_bytes=2048,
        codec="none",
        level=0,
        library="",
        samples=samples,
        dead=b"",
        index=place,
    )
    return Segment(segment=name, sources=f"files of {name}", chunks=(chunk, chunk))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "project" / ".benchkit" / "journal" / "train.jsonl"


def test_finished_segments_are_read_back(path: Path) -> None:
    with Journal(path, "train") as journal:
        assert journal.read() == {}
        journal.append(segment("a"))
        journal.append(segment("b"))
    with Journal(path, "train") as journal:
        assert journal.read() == {"a": segment("a"), "b": segment("b")}
        journal.append(segment("c"))
        assert set(journal.read()) == {"a", "b", "c"}


def test_the_last_line_of_a_segment_counts(path: Path) -> None:
    with Journal(path, "train") as journal:
        journal.append(segment("a", samples=3))
        journal.append(segment("a", samples=4))
        assert journal.read() == {"a": segment("a", samples=4)}


def test_a_line_torn_anywhere_is_ignored_and_the_next_one_stands_by_itself(path: Path) -> None:
    with Journal(path, "train") as journal:
        journal.append(segment("a"))
        whole = path.stat().st_size
        journal.append(segment("b"))
    data = path.read_bytes()
    for length in range(whole, len(data) - 1, 37):
        path.write_bytes(data[:length])
        with Journal(path, "train") as journal:
            assert journal.read() == {"a": segment("a")}
            journal.append(segment("c"))
            assert journal.read() == {"a": segment("a"), "c": segment("c")}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"5",
        b'{"segment":"x"}',
        b'{"segment":"x","sources":"y","manifest":{}}',
        b"[" * 100_000,
        b"\0" * 4096,
    ],
)
def test_a_strange_line_is_ignored(path: Path, line: bytes) -> None:
    with Journal(path, "train") as journal:
        journal.append(segment("a"))
    path.write_bytes(line + b"\n" + path.read_bytes() + line)
    with Journal(path, "train") as journal:
        assert journal.read() == {"a": segment("a")}


def test_a_segment_of_a_strange_type_is_ignored(path: Path) -> None:
    with Journal(path, "train") as journal:
        journal.append(segment("a"))
    path.write_bytes(path.read_bytes().replace(b'"segment":"a"', b'"segment":["a"]'))
    with Journal(path, "train") as journal:
        assert journal.read() == {}


def test_a_journal_of_another_dataset_says_nothing(path: Path) -> None:
    with Journal(path, "train") as journal:
        journal.append(segment("a"))
    with Journal(path, "val") as journal:
        assert journal.read() == {}


def test_a_rewritten_journal_holds_what_it_was_given(path: Path) -> None:
    with Journal(path, "train") as journal:
        for name in "abc":
            journal.append(segment(name))
        journal.rewrite([segment("b")])
    with Journal(path, "train") as journal:
        assert journal.read() == {"b": segment("b")}
    assert os.listdir(path.parent) == ["train.jsonl"]


def test_one_process_at_a_time_holds_a_journal(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from benchkit.data.journal import Journal\n"
        "with Journal(Path(sys.argv[1]), 'train'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(UsageError, match="'train' is being packed by another process"),
            Journal(path, "train"),
        ):
            pass
        other.kill()
    with Journal(path, "train") as journal:
        assert journal.read() == {}


def test_a_place_that_cannot_be_written_is_an_error(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_bytes(b"a file")
    with pytest.raises(StoreError, match=r"journal .* cannot be used"), Journal(path, "train"):
        pass
