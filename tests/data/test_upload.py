"""An upload sends what is missing, verified, manifest last; cut off anywhere, it goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchkit.data.catalogue import find_version, list_versions, publish, read_manifest
from benchkit.data.intents import REFRESH_SECONDS, decode_intent, intended_chunks
from benchkit.data.pack import PackReport
from benchkit.data.upload import UploadProgress, upload
from benchkit.errors import CorruptError, FormatError, NotFoundError, StoreError
from benchkit.format.layout import uploads_prefix
from benchkit.format.manifest import Manifest
from benchkit.store.local import LocalStore
from benchkit.store.memory import MemoryStore

Pack = Callable[..., PackReport]


class Watched(MemoryStore):
    """A store in memory that notes what is written, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.fail_after: int | None = None

    def write(self, name: str, source: bytes | Path) -> None:
        if self.fail_after is not None and len(self.written) >= self.fail_after:
            raise StoreError("the line was cut")
        super().write(name, source)
        self.written.append(name)

    def intents(self) -> list[str]:
        return [info.name for info in self.list(uploads_prefix("train"))]


@pytest.fixture
def remote() -> Watched:
    return Watched()


def test_the_remote_holds_what_staging_holds(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched, contents: Callable[..., Any]
) -> None:
    packed = pack_small(many)
    report = upload(staging, remote, "train")
    assert contents(remote) == contents(staging)
    assert (report.new, report.version.number, report.chunks_sent) == (True, 1, packed.chunks)
    assert (report.chunks_skipped, report.bytes_sent) == (0, packed.stored_bytes)


def test_the_manifest_is_written_last_and_the_intent_before_everything(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched
) -> None:
    pack_small(many)
    report = upload(staging, remote, "train")
    kinds = [name.split("/")[2] if "/" in name else name for name in remote.written]
    assert kinds == ["benchkit.json", "uploads", *["chunks"] * report.chunks_sent, "versions"]
    assert remote.intents() == []


def test_a_damaged_newest_manifest_of_the_remote_is_mended(
    many: Any, pack_small: Callable[..., PackReport], staging: LocalStore, remote: Watched
) -> None:
    pack_small(many)
    version = upload(staging, remote, "train").version
    good = remote.read(version.object_name)
    remote.write(version.object_name, good[:-1] + b" ")
    mended = upload(staging, remote, "train")
    assert (mended.version.number, mended.new, mended.chunks_sent) == (version.number, False, 0)
    assert remote.read(version.object_name) == good


def test_the_same_version_again_writes_nothing(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched
) -> None:
    pack_small(many)
    first = upload(staging, remote, "train")
    written = len(remote.written)
    again = upload(staging, remote, "train")
    assert (again.new, again.version, again.chunks_sent, again.bytes_sent) == (False, first.version, 0, 0)
    assert again.chunks_skipped == first.chunks_sent
    assert len(remote.written) == written


def test_a_new_version_sends_only_chunks_that_the_remote_lacks(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched, read_back: Callable[..., Any]
) -> None:
    pack_small(many)
    upload(staging, remote, "train")
    many.labels[5] = "another"
    packed = pack_small(many)
    second = upload(staging, remote, "train")
    assert (second.version.number, second.chunks_sent, second.chunks_skipped) == (2, 1, packed.chunks - 1)
    assert read_back(remote)["data/2/00005.bin"][0] == "another"
    assert read_back(remote, number=1)["data/2/00005.bin"][0] == 5


def test_only_the_newest_version_of_staging_is_sent_under_the_next_number_of_the_remote(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched
) -> None:
    for label in ("one", "two", "three"):
        many.labels[0] = label
        pack_small(many)
    report = upload(staging, remote, "train")
    assert (find_version(staging, "train").number, report.version.number) == (3, 1)
    assert len(list_versions(remote, "train")) == 1


def test_cut_off_after_any_write_a_rerun_sends_only_what_is_missing(
    many: Any, pack_small: Pack, staging: LocalStore, contents: Callable[..., Any]
) -> None:
    packed = pack_small(many)
    for writes in range(packed.chunks + 3):
        remote = Watched()
        remote.fail_after = writes
        with pytest.raises(StoreError, match="the line was cut"):
            upload(staging, remote, "train", workers=1)
        assert list_versions(remote, "train") == []
        arrived = sum("/chunks/" in name for name in remote.written)
        assert set(remote.intents()) == {name for name in remote.written if "/uploads/" in name}
        remote.fail_after = None
        report = upload(staging, remote, "train")
        assert (report.chunks_sent, report.chunks_skipped) == (packed.chunks - arrived, arrived)
        left = {name: data for name, data in contents(remote).items() if "/uploads/" not in name}
        assert left == contents(staging)


@pytest.mark.processes
def test_killed_while_it_sends_a_rerun_completes(
    tmp_path: Path, many: Any, pack_small: Pack, staging: LocalStore, contents: Callable[..., Any]
) -> None:
    packed = pack_small(many, chunk_bytes=16 << 10)
    script = (
        "import sys, time; from pathlib import Path\n"
        "from benchkit.data.upload import upload; from benchkit.store.local import LocalStore\n"
        "upload(*(LocalStore(Path(folder)) for folder in sys.argv[1:]), 'train', workers=2,"
        " on_progress=lambda _: (print('sent', flush=True), time.sleep(0.01)))"
    )
    remote = LocalStore(tmp_path / "remote")
    for sent in (1, 5, 20):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(staging.root), str(remote.root)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout
            for _ in range(sent):
                assert process.stdout.readline() == b"sent\n"
            os.kill(process.pid, signal.SIGKILL)
        assert list_versions(remote, "train") == []
        assert contents(remote, "datasets/train/chunks/").items() <= contents(staging).items()
    there = len(contents(remote, "datasets/train/chunks/"))
    report = upload(staging, remote, "train")
    assert there >= 20
    assert (report.chunks_sent, report.chunks_skipped) == (packed.chunks - there, there)
    assert contents(remote, "datasets/train/chunks/") == contents(staging, "datasets/train/chunks/")


def test_a_damaged_staged_chunk_is_not_sent_and_packing_again_heals(
    many: Any,
    pack_small: Pack,
    staging: LocalStore,
    remote: Watched,
    chunk_paths: Callable[..., list[Path]],
    flip: Callable[..., None],
    contents: Callable[..., Any],
) -> None:
    packed = pack_small(many)
    before = contents(staging)
    damaged = chunk_paths(staging)[2]
    flip(damaged, 600)
    with pytest.raises(CorruptError, match=r"is corrupt.*staging now lacks 1 chunks.*migrate-data train"):
        upload(staging, remote, "train")
    assert not any(damaged.name in name for name in remote.written)
    assert list_versions(remote, "train") == []
    again = pack_small(many)
    assert (again.new, again.reused_chunks) == (False, packed.chunks - 1)
    assert contents(staging) == before
    assert upload(staging, remote, "train").new


def test_a_missing_staged_chunk_is_an_error_saying_what_to_do(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched, chunk_paths: Callable[..., list[Path]]
) -> None:
    pack_small(many)
    chunk_paths(staging)[0].unlink()
    with pytest.raises(CorruptError, match=r"staging now lacks 1 chunks.*migrate-data train"):
        upload(staging, remote, "train")


def test_chunks_that_only_the_remote_holds_are_not_asked_of_staging(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched, read_back: Callable[..., Any]
) -> None:
    pack_small(many)
    upload(staging, remote, "train")
    many.labels[5] = "another"
    packed = pack_small(many)
    for name, _ in read_manifest(staging, find_version(staging, "train", number=1)).objects():
        staging.delete(name)
    second = upload(staging, remote, "train")
    assert (second.version.number, second.chunks_sent, second.chunks_skipped) == (2, 1, packed.chunks - 1)
    assert len(read_back(remote)) == 300


@pytest.mark.parametrize("chunk_bytes", [16 << 10, 128 << 10])
def test_a_chunk_costs_one_request_beside_a_few_for_the_whole_upload(
    many: Any, pack_small: Pack, staging: LocalStore, chunk_bytes: int
) -> None:
    class Asked(Watched):
        requests = 0

        def __getattribute__(self, name: str) -> Any:
            if name in ("read", "stream", "stat", "list", "delete"):
                self.requests += 1
            return super().__getattribute__(name)

    packed = pack_small(many, chunk_bytes=chunk_bytes)
    remote = Asked()
    upload(staging, remote, "train")
    assert len(remote.written) == packed.chunks + 3
    assert remote.requests <= 8


def test_a_chunk_of_the_wrong_size_in_the_remote_is_sent_again(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched, contents: Callable[..., Any]
) -> None:
    pack_small(many)
    upload(staging, remote, "train")
    [first, second, *_] = [info.name for info in remote.list("datasets/train/chunks/")]
    remote.write(first, b"short")
    remote.delete(second)
    report = upload(staging, remote, "train")
    assert (report.new, report.chunks_sent) == (False, 2)
    assert contents(remote) == contents(staging)


def test_chunks_removed_while_it_publishes_are_sent_again(
    many: Any, pack_small: Pack, staging: LocalStore
) -> None:
    class Cleaned(Watched):
        """Somebody looked before the intent was there, and removes a chunk just before the manifest."""

        def write(self, name: str, source: bytes | Path) -> None:
            if "/versions/" in name:
                self.delete(next(info.name for info in self.list("datasets/train/chunks/")))
            super().write(name, source)

    packed = pack_small(many)
    remote = Cleaned()
    report = upload(staging, remote, "train")
    assert report.chunks_sent == packed.chunks + 1
    manifest = read_manifest(remote, report.version)
    assert all(remote.stat(name) for name, _ in manifest.objects())
    assert remote.intents() == []


def test_a_store_that_keeps_losing_chunks_is_an_error(
    many: Any, pack_small: Pack, staging: LocalStore
) -> None:
    class Losing(Watched):
        def write(self, name: str, source: bytes | Path) -> None:
            if not name.endswith(".tar"):
                super().write(name, source)

    pack_small(many, codec="none")
    with pytest.raises(StoreError, match=r"chunks of 'train' vanish from memory://"):
        upload(staging, Losing(), "train")


def test_an_upload_before_packing_says_what_to_run(staging: LocalStore, remote: Watched) -> None:
    with pytest.raises(NotFoundError, match=r"no dataset 'train' .*manage.py migrate-data"):
        upload(staging, remote, "train")


def test_a_remote_of_a_newer_format_is_left_alone(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched
) -> None:
    pack_small(many)
    remote.write("benchkit.json", b'{"benchkit":"store","format":99}')
    with pytest.raises(FormatError, match="upgrade benchkit"):
        upload(staging, remote, "train")
    assert remote.written == ["benchkit.json"]


def test_two_uploads_of_one_number_both_have_a_version(
    many: Any, pack_small: Pack, staging: LocalStore, tmp_path: Path
) -> None:
    class Raced(Watched):
        """Another machine publishes the same number between this one's look and its put."""

        def write(self, name: str, source: bytes | Path) -> None:
            if "/versions/1-" in name and self.other:
                other, self.other = self.other, None
                publish(self, other)
            super().write(name, source)

        other: Manifest | None = Manifest(dataset="train", chunk_bytes=1, codec="auto", chunks=())

    pack_small(many)
    remote = Raced()
    report = upload(staging, remote, "train")
    versions = {version.digest: version.number for version in list_versions(remote, "train")}
    assert sorted(versions.values()) == [1, 2]
    assert versions[report.version.digest] == report.version.number
    assert read_manifest(remote, report.version) == read_manifest(staging, find_version(staging, "train"))


def test_the_intent_names_every_chunk_and_counts_while_it_runs(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched
) -> None:
    seen: list[set[str]] = []
    pack_small(many)
    upload(staging, remote, "train", on_progress=lambda _: seen.append(set(intended_chunks(remote, "train"))))
    manifest = read_manifest(staging, find_version(staging, "train"))
    assert all(chunks == {name for name, _ in manifest.objects()} for chunks in seen)


def test_a_long_upload_writes_its_intent_again(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_small(many)
    clock = iter(range(0, 1 << 40, REFRESH_SECONDS + 1))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    report = upload(staging, remote, "train", workers=1)
    assert sum("/uploads/" in name for name in remote.written) > report.chunks_sent // 2
    assert remote.intents() == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"benchkit":"upload","format":1}',
        b'{"benchkit":"upload","chunks":[],"dataset":"train","format":2}',
        b'{"benchkit":"upload","chunks":[1],"dataset":"train","format":1}',
        b'{"benchkit":"manifest","chunks":[],"dataset":"train","format":1}',
    ],
)
def test_an_intent_that_cannot_be_read_is_an_error(data: bytes) -> None:
    with pytest.raises(FormatError, match="the intent"):
        decode_intent(data, dataset="train", what="the intent")


def test_progress_ends_at_the_totals(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched
) -> None:
    packed = pack_small(many)
    told: list[UploadProgress] = []
    upload(staging, remote, "train", on_progress=told.append)
    assert [step.chunks for step in told] == list(range(1, packed.chunks + 1))
    assert (told[-1].total_chunks, told[-1].bytes, told[-1].total_bytes) == (
        packed.chunks,
        packed.stored_bytes,
        packed.stored_bytes,
    )


def test_object_names_of_the_remote_are_those_of_the_format(
    many: Any, pack_small: Pack, staging: LocalStore, remote: Watched, contents: Callable[..., Any]
) -> None:
    pack_small(many)
    upload(staging, remote, "train")
    shape = re.compile(
        r"benchkit\.json|datasets/train/chunks/[0-9a-f]{64}\.tar(\.zst)?|datasets/train/versions/1-[0-9a-f]{64}\.json"
    )
    assert all(shape.fullmatch(name) for name in contents(remote))
