"""Laws of sending a run: what its record names is there, and a store that fails stops nothing."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchkit.errors import StoreError, UsageError
from benchkit.format.digests import digest_bytes
from benchkit.store.memory import MemoryStore
from benchkit.train import run_sync
from benchkit.train.run_folder import RunFolder
from benchkit.train.run_record import RunRecord, new_run_id
from benchkit.train.run_sync import RunSender, RunSync, read_stored, stored_name
from benchkit.train.run_values import encode_logged


class WatchedStore(MemoryStore):
    """A store that fails when told to, and checks after every write that what a record names is there."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.fail: str | None = None
        self.changed: dict[str, Path] = {}

    def write(self, name, source):
        if self.fail is not None and self.fail in name:
            raise StoreError("the store is away")
        super().write(name, source)
        self.writes.append(name.partition("/")[2].partition("/")[2])
        for ending, path in self.changed.items():
            if name.endswith(ending):
                path.write_text("changed while it was sent")
        for info in self.list("experiments/"):
            if info.name.endswith("/run.json"):
                run = info.name.split("/")[1]
                for file in read_stored(self, run).files:
                    data = self.read(stored_name(run, file.path))
                    assert digest_bytes(data[: file.size]) == file.digest, (name, file)


@pytest.fixture
def folder(tmp_path):
    made = RunFolder.create(
        tmp_path, RunRecord(run=new_run_id(), name="n", project="p", started=1.0, updated=1.0)
    )
    yield made
    made.close()


@pytest.fixture
def store():
    return WatchedStore()


def paths(store, folder) -> list[str]:
    return [file.path for file in read_stored(store, folder.record.run).files]


def log(folder, *steps):
    for step in steps:
        folder.append(encode_logged({"x": step}, step, 0.0))


def test_metrics_go_at_once_checkpoints_at_rest_and_the_model_at_the_end(folder, store):
    sender = RunSender(folder.path, lambda: store)
    log(folder, 0)
    checkpoint = folder.path / "checkpoints/deep/a.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_text("half")
    (folder.path / "model/m.pt").write_text("model")
    assert sender.send(folder.record, final=False) == 1
    assert paths(store, folder) == ["metrics/000001.jsonl"]
    checkpoint.write_text("whole now")
    assert sender.send(folder.record, final=False) == 0
    assert sender.send(folder.record, final=False) == 1
    assert paths(store, folder) == ["checkpoints/deep/a.pt", "metrics/000001.jsonl"]
    log(folder, 1)
    assert sender.send(replace(folder.record, state="finished"), final=True) == 2
    assert paths(store, folder) == ["checkpoints/deep/a.pt", "metrics/000001.jsonl", "model/m.pt"]
    stored = read_stored(store, folder.record.run)
    assert stored.state == "finished"
    assert store.read(stored_name(stored.run, "metrics/000001.jsonl")).count(b"\n") == 2


def test_what_has_not_changed_is_not_sent_again(folder, store):
    sender = RunSender(folder.path, lambda: store)
    log(folder, 0)
    (folder.path / "checkpoints/a").write_text("a")
    for _ in range(5):
        sender.send(folder.record, final=False)
    assert store.writes.count("metrics/000001.jsonl") == store.writes.count("checkpoints/a") == 1
    assert store.writes.count("run.json") == 2
    before = len(store.writes)
    assert RunSender(folder.path, lambda: store).send(folder.record, final=True) == 0
    assert len(store.writes) == before


def test_a_checkpoint_that_is_written_over_leaves_the_record_before_its_object_changes(folder, store):
    sender = RunSender(folder.path, lambda: store)  # WatchedStore checks the law after each write
    file = folder.path / "checkpoints/last.pt"
    for content in ("one", "two and longer", "three"):
        file.write_text(content)
        sender.send(folder.record, final=False)
        sender.send(folder.record, final=False)
        assert store.read(stored_name(folder.record.run, "checkpoints/last.pt")) == content.encode()
    assert store.writes.count("checkpoints/last.pt") == 3


def test_a_file_that_changes_while_it_is_sent_is_not_named_and_goes_later(folder, store):
    sender = RunSender(folder.path, lambda: store)
    file = folder.path / "checkpoints/a"
    file.write_text("before")
    store.changed = {"checkpoints/a": file}
    sender.send(folder.record, final=False)
    sender.send(folder.record, final=False)
    assert paths(store, folder) == ["metrics/000001.jsonl"]
    store.changed = {}
    sender.send(folder.record, final=True)
    assert paths(store, folder) == ["checkpoints/a", "metrics/000001.jsonl"]


def test_a_run_killed_while_a_checkpoint_was_replaced_in_the_store_is_whole_without_it(folder, store):
    sender = RunSender(folder.path, lambda: store)
    file = folder.path / "checkpoints/last"
    file.write_text("one")
    sender.send(folder.record, final=True)
    file.write_text("two, longer")
    store.fail = "checkpoints/last"
    with pytest.raises(StoreError):
        sender.send(folder.record, final=True)
    assert paths(store, folder) == ["metrics/000001.jsonl"]


def test_an_older_copy_of_a_run_never_replaces_a_longer_one(folder, store, tmp_path):
    log(folder, 0, 1)
    RunSender(folder.path, lambda: store).send(folder.record, final=True)
    older = RunFolder.create(tmp_path / "other", folder.record)
    log(older, 0)
    with pytest.raises(UsageError, match="older copy"):
        RunSender(older.path, lambda: store).send(older.record, final=True)
    older.close()


def test_a_failing_store_is_told_once_tried_again_and_told_at_the_end(folder, store, caplog):
    caplog.set_level(logging.WARNING)
    store.fail = ""
    sync = RunSync(RunSender(folder.path, lambda: store), lambda: folder.record, seconds=0.02)
    time.sleep(0.3)
    log(folder, 0)
    assert len(caplog.records) == 1
    assert "the store is away" in caplog.text
    assert "tried again every 0.02 seconds" in caplog.text
    assert not sync.stop()
    assert len(caplog.records) == 2
    assert f"bench-kit experiment push {folder.record.run}" in caplog.text


def test_a_store_that_comes_back_gets_everything(folder, store, caplog):
    store.fail = "metrics/"
    log(folder, 0)
    sync = RunSync(RunSender(folder.path, lambda: store), lambda: folder.record, seconds=0.02)
    time.sleep(0.2)
    store.fail = None
    deadline = time.monotonic() + 20
    while "is sent to the remote again" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sync.stop()
    assert "is sent to the remote again" in caplog.text
    assert paths(store, folder) == ["metrics/000001.jsonl"]
    assert not sync._thread.is_alive()


def test_a_run_that_says_nothing_new_is_seen_to_live(folder, store, monkeypatch):
    sender = RunSender(folder.path, lambda: store)
    sender.send(folder.record, final=False)
    sender.send(folder.record, final=False)
    assert store.writes.count("run.json") == 1
    monkeypatch.setattr(run_sync, "HEARTBEAT_SECONDS", 0.0)
    sender.send(folder.record, final=False)
    assert store.writes.count("run.json") > 1


def test_names_that_no_store_takes_are_told_once_and_left_here(folder, store, caplog):
    (folder.path / "checkpoints" / "a\nb").write_text("x")
    sender = RunSender(folder.path, lambda: store)
    for _ in range(3):
        sender.send(folder.record, final=True)
    assert paths(store, folder) == ["metrics/000001.jsonl"]
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
