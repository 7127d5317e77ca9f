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

DIGESTS = {name: name * 64 for name in "abcd"}


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
    return Segment(segment=name, chunks=(chunk, chunk), facts=(b"%8d" % samples,) * 2)


def known(journal: Journal) -> set[str]:
    """Return which of the segments a to d the journal knows, as they were written."""
    return {name for name in "abcd" if journal.segment(name) == segment(name)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "project" / ".benchkit" / "journal" / "train.jsonl"


def test_finished_segments_are_read_back(path: Path) -> None:
    with Journal(path, "train") as journal:
        assert known(journal) == set()
        journal.add_segment(segment("a"))
        journal.add_segment(segment("b"))
        assert known(journal) == {"a", "b"}
    with Journal(path, "train") as journal:
        assert known(journal) == {"a", "b"}
        journal.add_segment(segment("c"))
        assert known(journal) == {"a", "b", "c"}


def test_facts_are_known_from_segments_and_from_comparisons(path: Path) -> None:
    with Journal(path, "train") as journal:
        assert journal.facts(DIGESTS["a"]) == b""
        journal.add_segment(segment("a"))
        journal.add_facts(DIGESTS["b"], b"facts of b")
        journal.add_facts(DIGESTS["c"], b"")
    with Journal(path, "train") as journal:
        assert [journal.facts(DIGESTS[name]) for name in "abcd"] == [b"       3", b"facts of b", b"", b""]


def test_the_last_line_counts(path: Path) -> None:
    with Journal(path, "train") as journal:
        journal.add_segment(segment("a", samples=3))
        journal.add_segment(segment("a", samples=4))
        assert journal.segment("a") == segment("a", samples=4)
        journal.add_facts(DIGESTS["a"], b"newer")
    with Journal(path, "train") as journal:
        assert journal.segment("a") == segment("a", samples=4)
        assert journal.facts(DIGESTS["a"]) == b"newer"
        journal.add_segment(segment("a"))
        assert journal.facts(DIGESTS["a"]) == b"       3"


def test_a_line_torn_anywhere_is_ignored_and_the_next_one_stands_by_itself(path: Path) -> None:
    for tell in (
        lambda journal: journal.add_segment(segment("b")),
        lambda journal: journal.add_facts(DIGESTS["b"], bytes(500)),
    ):
        path.unlink(missing_ok=True)
        with Journal(path, "train") as journal:
            journal.add_segment(segment("a"))
            whole = path.stat().st_size
            tell(journal)
        data = path.read_bytes()
        for length in range(whole, len(data) - 1, 37):
            path.write_bytes(data[:length])
            with Journal(path, "train") as journal:
                assert known(journal) == {"a"}
                assert journal.facts(DIGESTS["b"]) == b""
                journal.add_segment(segment("c"))
            with Journal(path, "train") as journal:
                assert known(journal) == {"a", "c"}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"5",
        b'{"segment":"x"}',
        b'{"segment":"x","facts":[],"manifest":{}}',
        b'{"chunk":5,"facts":""}',
        b'{"chunk":"x","facts":"no base64"}',
        b'{"chunk":"x","facts":"\xc3\x9f"}',
        b'{"chunk":"x","facts":7}',
        b'{"chunk":"x"}',
        b"[" * 100_000,
        b"\0" * 4096,
    ],
)
def test_a_strange_line_is_ignored(path: Path, line: bytes) -> None:
    with Journal(path, "train") as journal:
        journal.add_segment(segment("a"))
    path.write_bytes(line + b"\n" + path.read_bytes() + line)
    with Journal(path, "train") as journal:
        assert known(journal) == {"a"}
        assert journal.facts("x") == b""


@pytest.mark.parametrize(
    ("told", "instead"),
    [
        (b'"segment":"a"', b'"segment":["a"]'),
        (b'"facts":["ICAgICAgIDM=",', b'"facts":['),
        (b'"facts":[', b'"sources":['),
    ],
)
def test_a_segment_of_a_strange_shape_is_ignored(path: Path, told: bytes, instead: bytes) -> None:
    with Journal(path, "train") as journal:
        journal.add_segment(segment("a"))
    assert told in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(told, instead))
    with Journal(path, "train") as journal:
        assert known(journal) == set()


def test_a_journal_of_another_dataset_knows_no_segment(path: Path) -> None:
    with Journal(path, "train") as journal:
        journal.add_segment(segment("a"))
    with Journal(path, "val") as journal:
        assert known(journal) == set()


def test_a_rewritten_journal_holds_what_is_told_of_the_chunks_alone(path: Path) -> None:
    with Journal(path, "train") as journal:
        for name in "abc":
            journal.add_segment(segment(name))
        journal.add_facts(DIGESTS["b"], b"newer")
        journal.add_facts(DIGESTS["c"], b"newer")
        journal.add_facts(DIGESTS["d"], b"other")
        journal.rewrite([DIGESTS["b"], DIGESTS["d"]])
    with Journal(path, "train") as journal:
        assert known(journal) == {"b"}
        assert [journal.facts(DIGESTS[name]) for name in "abcd"] == [b"", b"newer", b"", b"other"]
    assert path.read_bytes().count(b"\n") == 3
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
        assert known(journal) == set()


def test_a_place_that_cannot_be_written_is_an_error(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_bytes(b"a file")
    with pytest.raises(StoreError, match=r"journal .* cannot be used"), Journal(path, "train"):
        pass
