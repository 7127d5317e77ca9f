"""The slots of batches: used again once nobody holds a batch, and never before."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from support.making import publish_samples
from support.reading import Labels, make
from torch.utils.data import default_collate

from benchkit.stream import slots
from benchkit.stream.slots import Loan, Slots, Worker, borrow, can_lend, forget_ended

LARGE = 30_000
BATCHES = 100

pytestmark = pytest.mark.skipif(not can_lend(), reason="only Linux has memory without a name")


@pytest.fixture(autouse=True)
def numbers(project):
    publish_samples(project, "n", 4 * BATCHES, per_chunk=100, size=1)
    yield
    slots._borrowed.clear()  # what this process has lent to itself


def collated(rows) -> torch.Tensor:
    """Make the batch in memory that torch's own function asks for."""
    return default_collate([torch.full((LARGE,), row) for row in rows])


def copied(rows) -> torch.Tensor:
    """Make the batch in memory of the worker's own."""
    return torch.stack([torch.full((LARGE,), row) for row in rows])


def written(rows) -> list[bytes]:
    """Make a batch without a tensor."""
    return [row.to_bytes(2, "big") * LARGE for row in rows]


def growing(rows) -> torch.Tensor:
    return torch.full((LARGE + 1000 * rows[0],), rows[0])


def loader(collate_fn, workers: int = 1, **options):
    return make("n", 4, workers, chunk=Labels, collate_fn=collate_fn, **options)


def slots_here() -> int:
    """Return how many slots are mapped in this process."""
    return Path("/proc/self/maps").read_text().count("/memfd:benchkit")


def check(batch: torch.Tensor, number: int) -> None:
    """Make sure that the batch is the one with this number, in written order."""
    assert (batch == torch.arange(4 * number, 4 * number + 4)[:, None]).all()


@pytest.mark.parametrize("collate_fn", [collated, copied, written])
def test_memory_is_used_again_and_gone_after_the_pass(collate_fn):
    before, most = slots_here(), 0
    for _batch in loader(collate_fn):
        most = max(most, slots_here())
    assert 1 <= most - before <= 6
    del _batch
    assert slots_here() == before


@pytest.mark.parametrize("collate_fn", [collated, copied])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_that_are_held_stay_what_they_are(collate_fn, workers):
    held = list(loader(collate_fn, workers))
    assert len(held) == BATCHES
    for number, batch in enumerate(held):
        check(batch, number)


def test_a_view_of_a_batch_holds_it():
    batches = iter(loader(collated))
    view = next(batches)[2, 5:9].numpy()
    rest = sum(1 for _ in batches)
    assert rest == BATCHES - 1
    assert view.tolist() == [2, 2, 2, 2]


def test_what_is_written_into_a_batch_stays_in_it():
    for number, batch in enumerate(loader(collated)):
        check(batch, number)
        batch.fill_(-1)


def test_batches_may_grow_and_shrink():
    for number, batch in enumerate(loader(growing, 2, shuffle=False)):
        assert batch.tolist() == [4 * number] * (LARGE + 4000 * number)


def test_a_forked_child_keeps_its_batch_when_the_parent_goes_on():
    batches = iter(loader(collated))
    batch = next(batches)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # until the parent has gone on
        os._exit(0 if set(batch.view(-1).tolist()) == {0, 1, 2, 3} else 1)
    del batch
    for number, later in enumerate(batches, start=1):
        check(later, number)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_that_drops_its_batch_takes_nothing_from_the_parent():
    before = slots_here()
    batches = iter(loader(collated))
    first, second, third = (next(batches) for _ in range(3))
    child = os.fork()
    if child == 0:
        del first, second
        os._exit(slots_here() - before)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1, "the child has more than the third"
    for number, later in enumerate(batches, start=3):
        check(later, number)
    for number, batch in enumerate((first, second, third)):
        check(batch, number)


def test_what_a_worker_keeps_of_a_batch_is_not_overwritten_by_later_ones():
    kept: list[torch.Tensor] = []

    def collate(rows):
        if not kept:
            kept.append(collated(rows))
            return kept[0]
        assert set(kept[0].view(-1).tolist()) == {0, 1, 2, 3}
        return collated(rows)

    for number, batch in enumerate(loader(collate)):
        check(batch, number)


def test_a_worker_that_yields_the_same_memory_again_and_again_is_heard_each_time():
    kept: list[torch.Tensor] = []

    def collate(rows):
        kept.append(collated([7] * 4))
        return kept[0]

    held = list(loader(collate))
    assert len(held) == BATCHES
    assert all(set(batch.view(-1).tolist()) == {7} for batch in held)


def test_a_worker_has_few_files_open_however_many_batches_are_held():
    def collate(rows):
        return copied(rows), len(os.listdir("/proc/self/fd"))

    held = list(loader(collate))
    files = [count for _, count in held]
    assert max(files) - files[0] < 3 * slots._MOST_SLOTS < 2 * BATCHES
    for number, (batch, _) in enumerate(held):
        check(batch, number)


def test_slots_of_workers_that_persist_are_used_in_the_next_pass():
    persistent = loader(collated, persistent_workers=True)
    list(persistent)
    before = slots_here()
    for number, batch in enumerate(persistent):
        check(batch, number)
    assert slots_here() <= before + 3


@pytest.mark.parametrize("fields", [12, 20, 40])
def test_batches_of_many_tensors_are_what_they_are_and_held_by_few_slots(fields):
    def collate(rows):
        return [torch.full((LARGE,), 100 * rows[0] + field) for field in range(fields)]

    before, most = slots_here(), 0
    for number, batch in enumerate(loader(collate)):
        for field, tensor in enumerate(batch):
            assert (tensor == 400 * number + field).all()
        most = max(most, slots_here())
    assert most - before <= 5 * fields


def test_a_child_that_a_worker_forks_keeps_what_it_holds_and_takes_nothing():
    forked: list[tuple[int, int]] = []

    def collate(rows):
        if not forked:
            held, free = collated(rows), collated(rows)
            del free
            reading, writing = os.pipe()
            ready, getting_ready = os.pipe()
            child = os.fork()
            if child == 0:
                own = collated([9] * 4)
                os.write(getting_ready, b"!")
                os.close(writing)
                os.read(reading, 1)  # until the worker has gone on
                kept = set(held.view(-1).tolist()) == {0, 1, 2, 3} and set(own.view(-1).tolist()) == {9}
                os._exit(0 if kept else 1)
            forked.append((child, writing))
            os.read(ready, 1)
            return held, -1
        if rows[0] < 4 * (BATCHES - 1):
            return collated(rows), -1
        child, writing = forked[0]
        os.close(writing)
        return collated(rows), os.waitpid(child, 0)[1]

    statuses = []
    for number, (batch, status) in enumerate(loader(collate)):
        check(batch, number)
        statuses.append(status)
    assert statuses == [-1] * (BATCHES - 1) + [0]


def test_threads_of_a_worker_share_no_slot():
    own, held, clashes = Slots(), set(), []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work():
        for _ in range(3000):
            slot, memory = own.take(8)
            if slot in held:
                clashes.append(slot)
            held.add(slot)
            held.discard(slot)
            del memory

    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not clashes


def test_memory_that_cannot_be_had_is_an_error_and_what_is_there_goes_on(monkeypatch):
    own = Slots()
    own.take(8)

    def refuse(*_arguments):
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OSError, match="no memory"):
            own.take(16)
    with open(os.devnull, "rb") as file:  # which may have got the number of a slot that is no more
        slot, memory = own.take(16)
        memory[:] = b"sixteen letters!"
        assert bytes(borrow(slot.lend(16))) == b"sixteen letters!"
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(os.devnull))


@pytest.mark.parametrize("missing", ["memfd_create", "readlink"])
def test_without_such_memory_batches_come_as_torch_hands_them_over(monkeypatch, missing):
    if missing == "readlink":  # a /proc of other processes: those of another container
        monkeypatch.setattr(os, "readlink", lambda _: "1")
    else:
        monkeypatch.delattr(os, missing)
    config = {
        key: value for key, value in multiprocessing.current_process()._config.items() if key != "tempdir"
    }
    monkeypatch.setattr(multiprocessing.current_process(), "_config", config)
    before = slots_here()
    for number, batch in enumerate(loader(collated)):
        check(batch, number)
        assert slots_here() == before
        # The folder of sockets is the training's: it goes even if the worker is killed.
        assert os.listdir(config["tempdir"])


def test_memory_of_a_process_that_has_another_s_number_is_refused():
    own = Slots()
    slot, memory = own.take(8)
    memory[:] = b"contents"
    loan = slot.lend(8)
    for stranger in (loan._replace(worker=Worker(os.getpid(), 7)), loan._replace(slot=loan.slot + 1)):
        with pytest.raises(ProcessLookupError, match="another process has its number"):
            borrow(stranger)
    assert bytes(borrow(loan)) == b"contents"
    del memory
    assert own.take(8)[0] is slot


def test_memory_of_a_worker_that_has_ended_is_an_error_and_forgotten():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(FileNotFoundError):
        borrow(Loan(Worker(child, 7), 0, 3, 8))
    forget_ended()
    assert all(worker.pid != child for worker in slots._borrowed)
