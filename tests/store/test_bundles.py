"""Bundles: a folder of files in a store, whole or not at all, and never overwritten."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.s3_servers import Bucket

from benchkit.errors import CorruptError, FormatError, NotFoundError, StoreError, UsageError
from benchkit.format import canonical
from benchkit.format.digests import digest_bytes
from benchkit.format.layout import numbered_name
from benchkit.format.record import BundleFile, Record, decode_record, encode_record
from benchkit.settings import S3Settings
from benchkit.store.base import Store
from benchkit.store.bundles import Shelf, list_names, new_folder
from benchkit.store.folders import fresh_folder
from benchkit.store.local import LocalStore
from benchkit.store.locks import LockedFile, open_locked
from benchkit.store.memory import MemoryStore
from benchkit.store.urls import open_store

FILES = {"weights.bin": b"w" * 3_000_000, "empty": b"", "deep/er/état 1.txt": b"hello", "deep/z": b"\0" * 17}


def shelf(store: Store, name: str = "cats") -> Shelf:
    return Shelf(store=store, prefix=f"checkpoints/{name}/", kind="checkpoint", name=name, maker="a training")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", FILES)


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def check_round_trip(store: Store, folder: Path, target: Path) -> None:
    ours = shelf(store)
    seen: list[int] = []
    first = ours.put(folder, details={"step": 3})
    second = ours.put(folder, details={"step": 4}, on_progress=seen.append)
    assert (first.number, second.number) == (1, 2)
    assert sum(seen) == sum(map(len, FILES.values()))
    assert [bundle.number for bundle in ours.versions()] == [1, 2]
    record = ours.fetch(ours.find(), target)
    assert record.details == {"step": 4}
    assert contents(target) == FILES
    assert list_names(store, "checkpoints/") == ["cats"]
    ours.remove(first)
    assert [bundle.number for bundle in ours.versions()] == [2]
    ours.remove(second)
    assert list(store.list()) == []


def test_what_is_put_is_fetched_the_same_from_memory(folder: Path, tmp_path: Path) -> None:
    check_round_trip(MemoryStore(), folder, tmp_path / "target")


def test_what_is_put_is_fetched_the_same_from_a_folder(folder: Path, tmp_path: Path) -> None:
    check_round_trip(LocalStore(tmp_path / "store"), folder, tmp_path / "target")


def test_what_is_put_is_fetched_the_same_from_swift(
    folder: Path, tmp_path: Path, swift_bucket: Bucket
) -> None:
    store = open_store(swift_bucket.url, s3=S3Settings(endpoint_url=swift_bucket.server.endpoint))
    check_round_trip(store, folder, tmp_path / "target")


def test_an_upload_that_was_cut_off_is_seen_by_nobody_until_it_is_cleaned_away(folder: Path) -> None:
    store = MemoryStore()
    ours = shelf(store)
    whole = ours.put(folder)
    into = new_folder()
    files = ours.send(folder, into=into)
    assert ours.versions() == [whole]
    assert ours.abandoned(older_than_seconds=60) == []
    (left,) = ours.abandoned(older_than_seconds=0)
    assert (left.folder, len(left.names), left.size) == (into, 4, sum(map(len, FILES.values())))
    ours.publish(files, into=into)
    assert ours.abandoned(older_than_seconds=0) == []


def test_a_removal_that_was_cut_off_leaves_no_half_bundle_but_abandoned_files(folder: Path) -> None:
    class Dying(MemoryStore):
        deletions = 0

        def delete(self, name: str) -> None:
            self.deletions += 1
            if self.deletions > 2:
                raise StoreError("gone")
            super().delete(name)

    store = Dying()
    ours = shelf(store)
    bundle = ours.put(folder)
    with pytest.raises(StoreError, match="gone"):
        ours.remove(bundle)
    assert ours.versions() == []
    store.deletions = -9
    (left,) = ours.abandoned(older_than_seconds=0)
    assert len(left.names) == 3


def test_files_that_vanished_before_the_record_are_an_error(folder: Path) -> None:
    store = MemoryStore()
    ours, into = shelf(store), new_folder()
    files = ours.send(folder, into=into)
    store.delete(f"checkpoints/cats/files/{into}/weights.bin")
    with pytest.raises(StoreError, match=r"1 files of checkpoint 'cats', 'weights\.bin' for one, vanished"):
        ours.publish(files, into=into)
    assert ours.versions() == []


@pytest.mark.parametrize("damage", ["flipped", "longer", "shorter", "missing"])
def test_damaged_files_are_corrupt_and_nothing_stands_at_the_target(
    damage: str, folder: Path, tmp_path: Path
) -> None:
    store = MemoryStore()
    ours = shelf(store)
    bundle = ours.put(folder)
    name = next(info.name for info in store.list() if info.name.endswith("weights.bin"))
    data = store.read(name)
    if damage == "missing":
        store.delete(name)
    else:
        store.write(name, {"flipped": b"x" + data[1:], "longer": data + b"w", "shorter": data[1:]}[damage])
    with pytest.raises(
        CorruptError, match=r"'weights\.bin' of checkpoint 'cats' in memory:// is (corrupt|missing)"
    ):
        ours.fetch(bundle, tmp_path / "target")
    assert not list(tmp_path.glob("*target*")) + list(tmp_path.glob(".*"))


def test_a_target_that_holds_something_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    ours = shelf(MemoryStore())
    bundle = ours.put(folder)
    target = make_folder(tmp_path / "target", {"mine": b"1"})
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for place in (target, target / "mine", link):
        with pytest.raises(UsageError, match="is there already"):
            ours.fetch(bundle, place)
    assert contents(target) == {"mine": b"1"}
    (tmp_path / "empty").mkdir()
    ours.fetch(bundle, tmp_path / "empty")
    assert contents(tmp_path / "empty") == FILES


def test_links_are_not_followed_when_sending(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="link is no plain file"):
        shelf(MemoryStore()).put(folder)


def test_an_unknown_number_is_an_error_naming_the_known_ones(folder: Path) -> None:
    ours = shelf(MemoryStore())
    with pytest.raises(NotFoundError, match="there is no checkpoint 'cats' in memory://"):
        ours.find()
    ours.put(folder)
    ours.put(folder)
    with pytest.raises(NotFoundError, match="has no version 3; it has: 1, 2"):
        ours.find(3)


def hostile(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "benchkit": "checkpoint",
        "format": 1,
        "name": "cats",
        "folder": "20260101-000000-00000000",
        "created": 1,
        "files": [{"path": "a", "bytes": 1, "digest": "0" * 64}],
        "details": {},
    }
    return canonical.encode(fields | changes)


def file(path: str) -> dict[str, object]:
    return {"path": path, "bytes": 1, "digest": "0" * 64}


@pytest.mark.parametrize(
    "changes",
    [
        {"files": [file("../a")]},
        {"files": [file("/etc/passwd")]},
        {"files": [file("a//b")]},
        {"files": [file("a\\b")]},
        {"files": [file("a\x1b[2J")]},
        {"files": [file("a"), file("a")]},
        {"files": [file("b"), file("a")]},
        {"files": [{"path": "a", "bytes": -1, "digest": "0" * 64}]},
        {"files": [{"path": "a", "bytes": 1, "digest": "0"}]},
        {"files": {"path": "a"}},
        {"folder": "../other"},
        {"folder": ""},
        {"format": 2},
        {"details": []},
        {"unknown": 1},
        {"name": "dogs"},
        {"benchkit": "code"},
    ],
)
def test_a_record_that_is_not_as_it_should_be_is_refused(changes: dict[str, object]) -> None:
    data = hostile(**changes)
    with pytest.raises((FormatError, CorruptError)):
        decode_record(data, digest=digest_bytes(data), kind="checkpoint", name="cats")
    good = hostile()
    assert decode_record(good, digest=digest_bytes(good), kind="checkpoint", name="cats").files[0].path == "a"


def test_a_record_comes_back_as_it_was() -> None:
    record = Record(
        kind="code",
        name="code",
        folder=new_folder(),
        created=5,
        files=(BundleFile(path="a/b", size=3, digest="f" * 64),),
        details={"note": "é", "list": [1, 2.5, None]},
    )
    data = encode_record(record)
    assert decode_record(data, digest=digest_bytes(data), kind="code", name="code") == record
    with pytest.raises(CorruptError, match="is corrupt"):
        decode_record(data + b" ", digest=digest_bytes(data), kind="code", name="code")


def test_while_a_record_cannot_be_read_nothing_is_taken_for_abandoned(folder: Path) -> None:
    store = MemoryStore()
    ours = shelf(store)
    bundle = ours.put(folder)
    store.write(bundle.object_name, b"{}")
    with pytest.raises(CorruptError):
        ours.abandoned(older_than_seconds=0)
    ours.remove(bundle)
    assert len(ours.abandoned(older_than_seconds=0)) == 1


def test_files_of_a_record_that_lost_its_number_are_not_abandoned(folder: Path) -> None:
    store = MemoryStore()
    ours = shelf(store)
    lost = ours.put(folder)
    winner = encode_record(ours.read(lost))[:-1] + b" }"
    store.delete(lost.object_name)
    store.write(numbered_name("checkpoints/cats/versions/", 1, digest_bytes(winner)), winner)
    data = hostile(folder=(into := new_folder()), files=[])
    store.write(numbered_name("checkpoints/cats/versions/", 1, digest_bytes(data)), data)
    store.write(f"checkpoints/cats/files/{into}/a", b"1")
    assert len(ours.versions()) == 1
    assert ours.abandoned(older_than_seconds=0) == []


def test_what_another_user_left_does_not_stop_a_fresh_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".target-theirs.part"
    left.mkdir()

    def lock(path: Path, **how: bool) -> LockedFile | None:
        if path == left:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_locked(path, shared=False, writable=False, blocking=False)

    monkeypatch.setattr("benchkit.store.folders.open_locked", lock)
    with fresh_folder(tmp_path / "target") as fresh:
        (fresh / "a").write_bytes(b"1")
    assert contents(tmp_path) == {"target/a": b"1"}
    assert left.exists()


def test_a_fresh_folder_that_a_killed_process_left_is_swept_and_a_live_one_is_not(tmp_path: Path) -> None:
    target = tmp_path / "target"
    script = (
        "import sys, time; from pathlib import Path; from benchkit.store.folders import fresh_folder\n"
        "with fresh_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_bytes(b'1'); print(folder, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        left = Path(process.stdout.readline().decode().strip())
        with fresh_folder(tmp_path / "target") as fresh:
            (fresh / "whole").write_bytes(b"2")
        assert left.exists()
        os.kill(process.pid, signal.SIGKILL)
    (target / "whole").unlink()
    with fresh_folder(target) as fresh:
        (fresh / "whole").write_bytes(b"3")
    assert not left.exists()
    assert contents(tmp_path) == {"target/whole": b"3"}
