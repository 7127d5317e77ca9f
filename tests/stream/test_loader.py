"""The loader's laws in one process: exact passes, exact resume, the same batches for any workers."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.making import content, publish_samples
from torch.utils.data import DataLoader, default_collate

from benchkit import IterableChunk, LoaderOptions, Shard, get_dataset
from benchkit.data.catalogue import find_version, publish, read_manifest
from benchkit.errors import (
    CacheError,
    CorruptError,
    DatasetError,
    NotFoundError,
    SampleError,
    StallError,
    StateError,
    UsageError,
)
from benchkit.store.local import LocalStore
from benchkit.stream import batches
from benchkit.stream.chunks import source_of
from benchkit.stream.loader import ChunkLoader
from benchkit.stream.order import Order

SAMPLES, PER_CHUNK = 203, 20


class Numbers(IterableChunk):
    """Yields the label, and a random number that stands for an augmentation."""

    def __init__(self, name: str, cloud: bool, shuffle: bool = True, **more: object) -> None:
        super().__init__(name, cloud, shuffle=shuffle, **more)

    def _data_iterator(self):
        for label, files in super()._data_iterator():
            assert files[0].read() == content(label)
            assert files[0].name == f"f{label}.bin"
            yield label, torch.rand(2) + random.random() + np.random.rand()  # noqa: NPY002


@pytest.fixture(autouse=True)
def numbers(project):
    publish_samples(project, "numbers", SAMPLES, per_chunk=PER_CHUNK)
    return project


def make(batch: int = 16, workers: int = 0, chunk: type = Numbers, **more: object) -> ChunkLoader:
    return get_dataset(chunk, True, "numbers", batch, workers, **more)


def labels_of(batches: list) -> list[int]:
    return torch.cat([batch[0] for batch in batches]).tolist()


def assert_same(batches: list, others: list) -> None:
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_yields_every_sample_once_and_fills_the_last_batch_from_the_start(workers, shuffle):
    loader = make(workers=workers, shuffle=shuffle)
    labels = labels_of(list(loader))
    assert len(labels) == len(loader) * 16
    assert sorted(labels[:SAMPLES]) == list(range(SAMPLES))
    assert loader.report.samples == len(labels)
    if not shuffle:
        assert labels == [*range(SAMPLES), *range(len(labels) - SAMPLES)]


def test_any_number_of_workers_yields_the_same_batches_and_random_numbers():
    expected = list(make(workers=0))
    for workers in (1, 2, 3):
        assert_same(list(make(workers=workers)), expected)


def mixed(rows: list) -> list:
    """Collate as those do who mix the rows of a batch at random."""
    labels, noise = default_collate(rows)
    return [labels, noise + torch.rand(())]


def test_the_random_numbers_of_a_collate_function_are_the_batch_s_too():
    options = LoaderOptions(collate_fn=mixed)
    expected = list(make(workers=0, loader=options))
    for workers in (0, 2):
        assert_same(list(make(workers=workers, loader=options)), expected)
        rest = make(workers=workers, loader=options)
        assert_same(list(rest.skip_batches(5)), expected[5:])


def test_loading_leaves_the_random_numbers_of_training_alone():
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    for workers in (0, 2):
        list(make(workers=workers))
        list(make(workers=workers, loader=LoaderOptions(collate_fn=mixed)))
    assert torch.equal(torch.rand(3), undisturbed)


def test_loaders_in_several_threads_take_turns_with_the_random_numbers():
    class Slow(Numbers):
        def _data_iterator(self):
            for row in super()._data_iterator():
                time.sleep(0.001)
                yield row

    expected = list(make(chunk=Slow))
    generator = np.random.get_bit_generator()
    loaders = [make(chunk=Slow) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for got in threads.map(list, loaders):
            assert_same(got, expected)
    assert np.random.get_bit_generator() is generator


def test_every_pass_is_the_next_epoch_with_an_order_of_its_own():
    loader = make()
    first, second = labels_of(list(loader)), labels_of(list(loader))
    assert first != second
    loader.set_epoch(0)
    assert labels_of(list(loader)) == first
    again = make()
    again.set_epoch(1)
    assert labels_of(list(again)) == second


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_resuming_after_any_batch_yields_the_rest_of_the_undisturbed_run(workers, persistent):
    if persistent and not workers:
        pytest.skip("workers can only persist where there are some")
    options = LoaderOptions(persistent_workers=persistent)
    whole = make(workers=workers, loader=options)
    list(whole)
    expected, states = [], [whole.state_dict()]
    for batch in whole:
        expected.append(batch)
        states.append(whole.state_dict())
    for step in range(0, len(states), 4):
        resumed = make(workers=workers, loader=options)
        resumed.load_state_dict(json.loads(json.dumps(states[step])))
        assert len(resumed) == len(expected) - step
        assert_same(list(resumed), expected[step:])
        assert resumed.state_dict() == whole.state_dict()


def test_a_state_from_inside_the_last_batch_leaves_nothing_and_then_the_next_epoch():
    loader = make()
    for _ in loader:
        last = loader.state_dict()
    assert (last["epoch"], last["position"]) == (0, SAMPLES)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)
    resumed = make()
    resumed.load_state_dict(last)
    assert len(resumed) == 0
    assert list(resumed) == []
    assert len(list(resumed)) == len(loader)


def test_other_ranks_workers_and_batch_sizes_go_on_with_exactly_what_is_left():
    state = make().state_dict()
    seen: list[int] = []
    for world, batch, workers, steps in [(8, 2, 0, 3), (3, 5, 2, 2), (5, 1, 0, 7), (1, 9, 3, None)]:
        loaders = [
            make(batch, workers, loader=LoaderOptions(shard=Shard(index=index, count=world)))
            for index in range(world)
        ]
        passes = []
        for loader in loaders:
            loader.load_state_dict(state)
            batches = []
            for batch_of_rank in loader:
                batches.append(batch_of_rank[0])
                if len(batches) == steps:
                    state_of_rank = loader.state_dict()
                    break
            passes.append(batches)
        real = loaders[0].remainder if steps is None else 0
        for step, parts in enumerate(zip(*passes, strict=True)):
            rows = torch.cat(parts).tolist()
            last = steps is None and step + 1 == len(passes[0])
            seen += rows[:real] if last and real else rows
        if steps is not None:
            state = state_of_rank
    assert sorted(seen) == list(range(SAMPLES))


def test_a_broken_off_pass_is_followed_by_a_clean_epoch():
    loader = make(workers=2)
    for step, _ in enumerate(loader):
        if step == 3:
            break
    assert loader.state_dict()["position"] == 4 * 16
    labels = labels_of(list(loader))
    assert sorted(labels[:SAMPLES]) == list(range(SAMPLES))
    other = make()
    other.set_epoch(1)
    assert labels == labels_of(list(other))


UNFINISHED = """
import threading
from benchkit import IterableChunk, LoaderOptions, get_dataset

loader = get_dataset(IterableChunk, True, "numbers", 16, 0, loader=LoaderOptions(collate_fn=list))
batches = iter(loader)
next(batches)
stopped = threading.Thread(target=loader.opened.reader._in_use.acquire)
stopped.start()
stopped.join()
"""


def test_python_ends_in_the_midst_of_a_pass_although_a_thread_stopped_with_the_reader_in_use():
    subprocess.run([sys.executable, "-c", UNFINISHED], check=True, timeout=60)


LOOKING_AHEAD = """
import threading
import time
from benchkit import IterableChunk, LoaderOptions, get_dataset
from benchkit.stream.lookahead import Lookahead

loader = get_dataset(IterableChunk, True, "numbers", 16, 0, loader=LoaderOptions(collate_fn=list))
course = loader._course(0, 0)

def look_ahead():
    while True:
        Lookahead(loader.opened, course.plan, course.steps, ahead=1)._plan_to(course.steps)

for _ in range(4):
    threading.Thread(target=look_ahead, daemon=True).start()
time.sleep(0.1)
raise SystemExit(3)
"""


def test_python_ends_as_it_was_told_while_it_looks_ahead():
    """A thread that Python ends inside of C++ code aborts the process."""
    done = subprocess.run([sys.executable, "-c", LOOKING_AHEAD], check=False, timeout=60)
    assert done.returncode == 3


INTERRUPTED = """
import multiprocessing
import os
import signal
from benchkit import IterableChunk, LoaderOptions, get_dataset

loader = get_dataset(IterableChunk, True, "numbers", 16, 2, loader=LoaderOptions(collate_fn=list))
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    list(loader)
except KeyboardInterrupt:
    assert not multiprocessing.active_children()
    os._exit(3 if signal.getsignal(signal.SIGINT) is signal.default_int_handler else 4)
"""


@pytest.mark.processes
def test_ctrl_c_is_not_lost_while_workers_are_forked():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], check=False, timeout=60)
    assert done.returncode == 3


UNWINDING = """
import os
import sys
from benchkit import IterableChunk, LoaderOptions, get_dataset

options = LoaderOptions(collate_fn=list, persistent_workers=sys.argv[1] == "persistent", timeout_seconds=10)
loader = get_dataset(IterableChunk, True, "numbers", 16, 2 if sys.argv[1] != "none" else 0, loader=options)
child, batches = None, 0
for batch in loader:
    batches += 1
    if batches == 2:
        child = os.fork()
        if not child:
            break
if not child:
    loader = batch = None
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert batches == len(loader) == len(list(loader))
"""


@pytest.mark.processes
@pytest.mark.parametrize("workers", ["persistent", "new", "none"])
def test_a_process_forked_in_the_loop_that_leaves_it_does_not_end_its_parent_s_workers(workers):
    command = [sys.executable, "-W", "ignore", "-c", UNWINDING, workers]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("workers", "error", "option"), [(0, "CacheError", "open_chunks"), (2, "UsageError", "num_workers")]
)
def test_too_few_open_files_are_told_as_that(workers, error, option):
    code = (
        "import resource; from benchkit import IterableChunk, get_dataset; "
        f"loader = get_dataset(IterableChunk, True, 'numbers', 16, {workers}, shuffle=True); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12)); next(iter(loader))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=60, capture_output=True, text=True
    )
    told = done.stderr.splitlines()[-1]
    assert error in told
    assert "Too many open files" in told
    assert told.endswith(f"raise the limit of open files (ulimit -n), or lower {option}")


@pytest.mark.processes
def test_a_loader_can_be_handed_to_a_spawned_process():
    options = LoaderOptions(collate_fn=list)
    loader = get_dataset(IterableChunk, True, "numbers", 16, 0, loader=options)
    process = multiprocessing.get_context("spawn").Process(target=list, args=(loader,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_passes_of_one_dataset_at_a_time_keep_to_their_own_epochs():
    class Labels(IterableChunk):
        def _data_iterator(self):
            for label, _ in super()._data_iterator():
                yield label

    dataset = Labels("numbers", True, shuffle=True)
    expected = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        expected.append(list(dataset))
    passes = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        passes.append(iter(dataset))
    pairs = list(zip(*passes, strict=True))
    assert [list(labels) for labels in zip(*pairs, strict=True)] == expected


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_plain_dataloader_read_one_version_in_all_passes(method, numbers):
    loader = DataLoader(Numbers("numbers", True), None, num_workers=2, multiprocessing_context=method)
    assert sum(1 for _ in loader) == SAMPLES  # whose length nothing has asked for
    publish_samples(numbers, "numbers", SAMPLES + 1, per_chunk=PER_CHUNK)
    assert sum(1 for _ in loader) == SAMPLES
    assert sum(1 for _ in DataLoader(Numbers("numbers", True), None, num_workers=2)) == SAMPLES + 1


def test_a_dataset_that_is_not_there_is_told_by_the_workers_of_a_plain_dataloader():
    with pytest.raises(NotFoundError, match="no dataset 'other'"):
        list(DataLoader(Numbers("other", True), None, num_workers=1))


def test_a_collate_fn_that_returns_nothing_is_an_error():
    loader = make(loader=LoaderOptions(collate_fn=lambda rows: None))
    with pytest.raises(SampleError, match="collate_fn returned None"):
        next(iter(loader))


class Broken(IterableChunk):
    def _data_iterator(self):
        for _ in super()._data_iterator():
            raise ModuleNotFoundError("no decoder")
        yield


def test_where_no_sample_can_be_used_the_last_error_is_told():
    options = LoaderOptions(on_error="skip", max_errors=1000)
    with pytest.raises(DatasetError, match=r"none of the 208 samples .* ModuleNotFoundError: no decoder"):
        list(get_dataset(Broken, True, "numbers", 16, 0, loader=options))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["load", "epoch", "skip"])
def test_a_pass_whose_position_is_set_meanwhile_does_not_go_on(workers, how):
    loader = make(workers=workers)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    next(batches)
    if how == "load":
        loader.load_state_dict(state)
    elif how == "epoch":
        loader.set_epoch(7)
    else:
        loader.skip_batches(2)
    expected = loader.state_dict()
    with pytest.raises(UsageError, match="leave the loop"):
        next(batches)
    assert loader.state_dict() == expected
    undisturbed = make()
    undisturbed.load_state_dict(expected)
    assert_same(list(loader), list(undisturbed))


def test_the_length_after_a_pass_that_was_broken_off_is_that_of_a_whole_one():
    loader = make()
    whole = len(loader)
    loader.skip_batches(7)
    assert len(loader) == whole - 7
    for _ in loader:
        assert len(loader) == whole - 7
        break
    assert len(loader) == whole == len(list(loader))
    loader.load_state_dict(loader.state_dict())
    assert len(loader) == whole


def test_a_chunk_without_a_loader_looks_up_its_positions_in_parts(monkeypatch):
    chunk = Numbers("numbers", True)
    expected = [label for label, _ in chunk]
    monkeypatch.setattr("benchkit.stream.source._LOCATED_AT_ONCE", 7)
    asked, locate = [], Order.locate

    def note(order, epoch, positions):
        asked.append(len(positions))
        return locate(order, epoch, positions)

    monkeypatch.setattr(Order, "locate", note)
    assert [label for label, _ in chunk] == expected
    assert sorted(expected) == list(range(SAMPLES))
    assert asked == [7] * 29


FORKED = """
import os
from benchkit import IterableChunk, LoaderOptions, get_dataset

options = LoaderOptions(collate_fn=list, persistent_workers=True)
loader = get_dataset(IterableChunk, True, "numbers", 16, 2, loader=options)
list(loader)
workers = [worker.pid for worker in loader._iterator._workers]
child = os.fork()
if not child:
    os._exit(0 if len(list(loader)) == len(loader) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(list(loader)) == len(loader)
assert [worker.pid for worker in loader._iterator._workers] == workers
"""


@pytest.mark.processes
def test_a_forked_process_has_workers_of_its_own_and_leaves_its_parent_s_alone():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=False, timeout=60)
    assert done.returncode == 0


class Leaving(IterableChunk):
    def _data_iterator(self):
        os._exit(0)


def test_a_worker_that_leaves_with_exit_code_0_is_noticed_long_before_the_time_is_over(monkeypatch):
    monkeypatch.setattr("benchkit.stream.workers._LOOK_SECONDS", 0.3)
    options = LoaderOptions(collate_fn=list, timeout_seconds=60)
    started = time.monotonic()
    with pytest.raises(StallError, match="exit code 0"):
        list(get_dataset(Leaving, True, "numbers", 16, 1, loader=options))
    assert time.monotonic() - started < 30


class Slow(IterableChunk):
    def _data_iterator(self):
        time.sleep(1)
        yield from super()._data_iterator()


def test_a_batch_may_take_longer_than_the_time_between_two_looks(monkeypatch):
    monkeypatch.setattr("benchkit.stream.workers._LOOK_SECONDS", 0.1)
    loader = get_dataset(Slow, True, "numbers", 100, 2, loader=LoaderOptions(collate_fn=list))
    assert [len(batch) for batch in loader] == [100, 100, 100]


def test_two_loaders_at_once_do_not_share_state():
    first, second = make(), make(batch=7)
    both = list(zip(first, second, strict=False))
    assert first.state_dict()["position"] != second.state_dict()["position"]
    assert len(both) == len(first)


def test_skipped_batches_are_not_read():
    expected = list(make())
    loader = make()
    assert_same(list(loader.skip_batches(5)), expected[5:])
    assert loader.report.samples == (len(expected) - 5) * 16
    assert len(list(loader)) == len(expected)


def test_set_epoch_keeps_a_loaded_position_of_that_epoch():
    loader = make()
    stop = iter(loader)
    for _ in range(4):
        next(stop)
    state = loader.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert len(resumed) == len(loader) - 4
    resumed.set_epoch(1)
    assert len(resumed) == len(loader)


def test_the_tail_can_be_dropped():
    loader = make(loader=LoaderOptions(tail="drop"))
    labels = labels_of(list(loader))
    assert len(labels) == len(loader) * 16 == SAMPLES // 16 * 16
    assert len(set(labels)) == len(labels)
    assert loader.state_dict()["epoch"] == 1


def test_a_state_is_small_and_loads_with_weights_only(tmp_path):
    torch.save(make().state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == make().state_dict()
    assert len(json.dumps(make().state_dict())) < 300


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"shuffle": False}, "shuffle"),
        ({"open_chunks": 4}, "lanes"),
    ],
)
def test_a_state_of_another_order_is_refused_with_the_difference(change, named):
    with pytest.raises(StateError, match=named):
        make(**change).load_state_dict(make().state_dict())


def test_a_state_reopens_the_version_that_it_names(numbers):
    before = make()
    state = before.state_dict()
    publish_samples(numbers, "numbers", 50, per_chunk=10)
    assert len(make()) == 4
    resumed = make()
    resumed.load_state_dict(state)
    assert_same(list(resumed), list(before))
    with pytest.raises(StateError, match="manifest"):
        make(version=2).load_state_dict(state)
    assert make(version=1).state_dict() == state


def test_unknown_names_and_versions_say_which_there_are():
    with pytest.raises(NotFoundError, match="numbers"):
        len(get_dataset(Numbers, True, "letters", 4, 0))
    with pytest.raises(NotFoundError, match="it has: 1"):
        len(make(version=7))


def test_a_plain_data_loader_over_the_dataset_gets_each_sample_once():
    for workers in (0, 1, 3):
        dataset = Numbers("numbers", True)
        plain = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
        assert sorted(label for label, _ in plain) == list(range(SAMPLES))


def test_a_rank_s_part_of_the_dataset_itself_is_disjoint_from_the_others(monkeypatch):
    labels: list[int] = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        labels += [label for label, _ in Numbers("numbers", True)]
    assert sorted(labels) == list(range(SAMPLES))


def test_a_shard_that_changes_after_the_first_use_is_an_error(monkeypatch):
    loader = make()
    len(loader)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StateError, match="shard 0 of 1"):
        len(loader)


class Picky(Numbers):
    """Filters, multiplies, or fails, by label."""

    def _data_iterator(self):
        for label, files in IterableChunk._data_iterator(self):
            name = files[0].name
            if label % 40 == 7 and self.fails:
                raise ValueError(f"cannot decode {name}")
            for _ in range(label % 3):
                yield label, torch.zeros(2)

    fails = False


class Failing(Picky):
    fails = True


@pytest.mark.filterwarnings("ignore:_data_iterator made")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_that_filters_and_multiplies_keeps_steps_shapes_and_resume(workers):
    loader = make(workers=workers, chunk=Picky)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(batch[0].shape == (16,) for batch in batches)
    assert loader.report.samples == len(loader) * 16
    resumed = make(workers=workers, chunk=Picky)
    resumed.load_state_dict(make(chunk=Picky).skip_batches(4).state_dict())
    assert_same(list(resumed), batches[4:])


class Rare(Numbers):
    """Yields the rows of one sample in fifty, so that most batches are empty."""

    def _data_iterator(self):
        for label, rest in super()._data_iterator():
            if label % 50 == 49:
                yield label, rest


@pytest.mark.filterwarnings("ignore:_data_iterator made")
def test_empty_batches_are_replaced_by_their_neighbours_and_a_pass_without_rows_is_an_error():
    batches = list(make(batch=4, chunk=Rare))
    assert len(batches) == len(make(batch=4))
    assert all(batch[0].shape == (4,) and (batch[0] % 50 == 49).all() for batch in batches)

    class Nothing(Numbers):
        def _data_iterator(self):
            for _ in super()._data_iterator():
                yield from ()

    with pytest.raises(DatasetError, match="yielded nothing"):
        list(make(chunk=Nothing))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_fails_is_named_with_its_chunk_and_file(workers):
    with pytest.raises(SampleError, match=r"'f\d+\.bin'.*in chunk .* of numbers@1.*cannot decode") as caught:
        list(make(workers=workers, chunk=Failing))
    assert "Traceback" in str(caught.value.__cause__)


@pytest.mark.filterwarnings("ignore:_data_iterator made")
@pytest.mark.parametrize("workers", [0, 2])
def test_failing_samples_can_be_skipped_counted_and_limited(workers):
    failing = [label for label in range(SAMPLES) if label % 40 == 7]
    skip = LoaderOptions(on_error="skip", tail="drop")
    loader = make(7, workers, Failing, loader=skip)
    batches = list(loader)
    assert len(batches) == SAMPLES // 7
    assert len(loader.report.errors) == len(failing)
    with pytest.raises(SampleError, match="more than max_errors=2"):
        list(make(7, workers, Failing, loader=LoaderOptions(on_error="skip", max_errors=2)))


class FailingAhead(Numbers):
    """Reads so many samples of a batch before it makes the first row, and makes so many rows of each."""

    def __init__(self, name: str, cloud: bool, ahead: int = 16, copies: int = 1, **more: object) -> None:
        super().__init__(name, cloud, **more)
        self.ahead, self.copies = ahead, copies

    def _data_iterator(self):
        samples = super()._data_iterator()
        waiting = list(itertools.islice(samples, self.ahead))
        while waiting:
            label, data = waiting.pop(0)
            if label % 40 == 7:
                raise ValueError("cannot decode")
            waiting += itertools.islice(samples, 1)
            for _ in range(self.copies):
                yield label, data


@pytest.mark.filterwarnings("ignore:_data_iterator made")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("ahead", "copies"), [(1, 1), (2, 1), (16, 1), (2, 2), (4, 3), (16, 2)])
def test_of_an_iterator_that_reads_ahead_the_samples_that_fail_are_left_out_and_no_others(
    workers, ahead, copies
):
    failing = [label for label in range(SAMPLES) if label % 40 == 7]
    loader = make(
        16, workers, FailingAhead, ahead=ahead, copies=copies, loader=LoaderOptions(on_error="skip")
    )
    labels = set(labels_of(list(loader)))
    if copies == 1:
        assert labels == set(range(SAMPLES)) - set(failing)
    assert loader.report.rows == (loader.report.samples - len(failing)) * copies
    assert loader.report.samples == len(loader) * 16
    named = {error.split("(")[0] for error in loader.report.errors}
    alone = make(16, 0, Failing, loader=LoaderOptions(on_error="skip"))
    list(alone)
    assert len(named) == len(failing)
    assert named == {error.split("(")[0] for error in alone.report.errors}
    with pytest.raises(SampleError) as reading_ahead:
        list(make(workers=workers, chunk=FailingAhead))
    with pytest.raises(SampleError) as one_by_one:
        list(make(workers=workers, chunk=Failing))
    first, second = (str(error.value).split(" at ")[1] for error in (reading_ahead, one_by_one))
    assert first.split("(")[0] == second.split("(")[0]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_error_that_no_sample_alone_gives_ends_the_pass(on_error):
    class Together(Numbers):
        def _data_iterator(self):
            samples = list(super()._data_iterator())
            if len(samples) > 1:
                raise ValueError("too many at a time")
            yield from samples

    with pytest.raises(SampleError, match="failed, of no sample alone: ValueError: too many at a time"):
        list(make(chunk=Together, loader=LoaderOptions(on_error=on_error)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterator_without_an_end_is_an_error_and_takes_little_memory(workers):
    class Endless(Numbers):
        def _data_iterator(self):
            for number in itertools.count():
                assert number <= 16 * batches.MOST_ROWS
                yield number, b""

    with pytest.raises(DatasetError, match=r"Endless._data_iterator made over 1024 rows of a batch"):
        list(make(16, workers, Endless))


@pytest.mark.filterwarnings("ignore:_data_iterator made")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_sample_that_also_fills_up_the_last_batch_is_counted_once(workers):
    class First(Numbers):
        def _data_iterator(self):
            for label, _ in super()._data_iterator():
                if label in (0, 100):
                    raise ValueError(f"cannot decode {object()}")
                yield label

    loader = make(16, workers, First, shuffle=False, loader=LoaderOptions(on_error="skip", max_errors=2))
    list(loader)
    assert len(loader.report.errors) == 2
    assert loader.report.samples == len(loader) * 16


@pytest.mark.filterwarnings("ignore:_data_iterator made")
@pytest.mark.parametrize("workers", [0, 2])
def test_what_replaces_an_empty_batch_is_not_touched_by_what_is_done_to_its_neighbour(workers):
    class Few(Numbers):
        def _data_iterator(self):
            for row in super()._data_iterator():
                if 32 <= row[0] < 48:
                    yield row

    got = []
    for batch in make(16, workers, Few, shuffle=False):
        got.append([part.clone() for part in batch])
        for part in batch:
            part.zero_()
    assert labels_of(got) == list(range(32, 48)) * len(got)
    assert_same(got, got[:1] * len(got))
    assert got[0][1].all()


def test_numbers_of_numpy_are_taken_as_python_s_own():
    size = np.uint8(200)
    shard = Shard(index=np.int64(0), count=np.int32(1))
    options = LoaderOptions(shard=shard, prefetch_factor=np.int16(2), max_errors=np.int8(100))
    theirs = get_dataset(
        Numbers, True, "numbers", size, np.int8(0), seed=np.uint64(5), open_chunks=np.int8(3), loader=options
    )
    ours = make(200, seed=5, open_chunks=3)
    for loader, one in ((theirs, np.int64(1)), (ours, 1)):
        loader.set_epoch(one)
        loader.skip_batches(one)
    state = theirs.state_dict()
    assert json.loads(json.dumps(state)) == state == ours.state_dict()
    theirs.load_state_dict(state)
    assert_same(list(theirs), list(ours))


@pytest.mark.parametrize("wrong", [True, 1.0, "1", None])
def test_what_is_no_whole_number_is_refused(wrong):
    loader = make()
    for call in (loader.set_epoch, loader.skip_batches, loader.dataset._chunk.set_epoch):
        with pytest.raises(UsageError, match="not a whole number"):
            call(wrong)


def test_rows_that_do_not_collate_are_a_sample_error():
    class Ragged(Numbers):
        def _data_iterator(self):
            for label, _ in super()._data_iterator():
                yield torch.zeros(label + 1)

    with pytest.raises(SampleError, match=r"rows of Ragged._data_iterator do not make a batch: .* \(yield "):
        list(make(chunk=Ragged))
    own = LoaderOptions(collate_fn=torch.stack)
    with pytest.raises(
        SampleError, match=r"rows of Ragged._data_iterator do not make a batch: .* at entry 1$"
    ):
        list(make(chunk=Ragged, loader=own))


def test_a_flipped_byte_in_the_cache_is_fetched_again_and_never_served(project):
    expected = list(make())
    for tar in (project.parent / "cache" / "chunks").glob("*.tar"):
        tar.chmod(0o600)
        data = bytearray(tar.read_bytes())
        data[600] ^= 1
        tar.write_bytes(data)
    assert_same(list(make()), expected)


def test_a_flipped_byte_in_the_store_is_an_error_that_names_the_chunk(project):
    chunk = next((project / "store" / "datasets" / "numbers" / "chunks").iterdir())
    data = bytearray(chunk.read_bytes())
    data[600] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(CorruptError, match=f"{chunk.name[:12]}.*numbers@1"):
        list(make())
    data[600] ^= 1
    chunk.write_bytes(data)
    assert len(labels_of(list(make()))) >= SAMPLES


def test_a_cache_limit_that_cannot_work_is_refused_with_the_number_that_would(monkeypatch):
    largest = max(chunk.tar_bytes for chunk in source_of(Numbers("numbers", True)).open().manifest.chunks)
    monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(5 * largest - 1))
    with pytest.raises(CacheError, match=str(5 * largest)):
        list(make(open_chunks=4))
    monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(5 * largest))
    for workers in (0, 2):
        labels = labels_of(list(make(workers=workers, open_chunks=4)))
        assert sorted(labels[:SAMPLES]) == list(range(SAMPLES))


def test_wrong_arguments_are_refused_by_value():
    for call, named in [
        (lambda: make(batch=0), "batch_size 0"),
        (lambda: make(workers=-1), "num_workers -1"),
        (lambda: make(batch="16"), "batch_size is '16', not a whole number"),
        (lambda: make(workers=2.5), "num_workers is 2.5, not a whole number"),
        (lambda: make().set_epoch("1"), "epoch is '1'"),
        (lambda: make().skip_batches(-1), "batches -1 is less than 0"),
        (lambda: Shard(index="0", count=4), "shard index is '0'"),
        (lambda: LoaderOptions(timeout_seconds=math.nan), "timeout_seconds nan"),
        (lambda: LoaderOptions(timeout_seconds="5"), "timeout_seconds '5'"),
        (lambda: Numbers("x", True, version="1"), "version is '1'"),
        (lambda: Numbers("x", "False"), "cloud is 'False', not True or False"),
        (lambda: Numbers("x", True, shuffle=2), "shuffle is 2"),
        (lambda: Numbers(True, "x"), "True is no dataset name"),
        (lambda: get_dataset(Numbers("x", True), True, "x", 4, 0), "Numbers object .* is no class that"),
        (lambda: get_dataset(Numbers, True, "x", 4, 0, loader={"tail": "drop"}), "not a LoaderOptions"),
        (lambda: Shard(index=4, count=4), r"shard index 4 is outside 0\.\.3"),
        (lambda: LoaderOptions(tail="wrap"), "tail is 'wrap'"),
        (lambda: LoaderOptions(on_error="ignore"), "on_error is 'ignore'"),
        (lambda: Numbers("../x", True), "no dataset name"),
        (lambda: Numbers("x", True, open_chunks=0), "open_chunks 0"),
        (lambda: get_dataset(dict, True, "numbers", 1, 0), "dict"),
    ]:
        with pytest.raises((UsageError, TypeError), match=named):
            call()


def test_a_class_that_forgets_its_parent_s_constructor_is_told():
    class Forgetful(IterableChunk):
        def __init__(self, name: str, cloud: bool) -> None:
            pass

    with pytest.raises(UsageError, match=r"super\(\).__init__"):
        get_dataset(Forgetful, True, "numbers", 1, 0)


def test_dead_rows_are_left_out_and_len_is_right(project):
    store = LocalStore(project / "store")
    version = find_version(store, "numbers")
    manifest = read_manifest(store, version)
    first = dataclasses.replace(manifest.chunks[0], dead=bytes([0b10000011, 0b1]))
    publish(store, dataclasses.replace(manifest, chunks=(first, *manifest.chunks[1:])))
    dead = {0, 1, 7, 8}
    assert len(Numbers("numbers", True)) == SAMPLES - len(dead)
    for shuffle in (False, True):
        labels = labels_of(list(make(shuffle=shuffle)))[: SAMPLES - len(dead)]
        assert sorted(labels) == [label for label in range(SAMPLES) if label not in dead]
    assert len(Numbers("numbers", True, version=1)) == SAMPLES


class Deadly(Numbers):
    """Kills, or stops, the worker that comes to one sample."""

    def _data_iterator(self):
        for label, rest in super()._data_iterator():
            if label == 100:
                self.strike()
            yield label, rest

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Sleepy(Deadly):
    def strike(self) -> None:
        time.sleep(30)


# A worker that dies while it hands a tensor over leaves multiprocessing's end of the socket to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("chunk", [Deadly, Sleepy])
def test_a_worker_that_dies_or_stands_still_is_an_error_in_time(chunk):
    started = time.monotonic()
    with pytest.raises(StallError, match="numbers"):
        list(make(workers=2, chunk=chunk, loader=LoaderOptions(timeout_seconds=2)))
    assert time.monotonic() - started < 2 + 5
    gc.collect()


def test_other_numbers_of_rows_are_told_at_the_end_of_a_pass():
    with pytest.warns(UserWarning, match=r"made \d+ rows of the 208 samples of numbers@1"):
        list(make(chunk=Picky))


def test_a_class_can_bring_its_own_collate_function_which_the_options_override():
    class Ragged(Numbers):
        @staticmethod
        def collate_fn(rows):
            return [len(row) for row in rows]

        def _data_iterator(self):
            for label, _ in super()._data_iterator():
                yield torch.zeros(label + 1)

    assert sorted(itertools.chain(*make(chunk=Ragged, batch=29))) == list(range(1, SAMPLES + 1))
    assert next(iter(make(chunk=Ragged, loader=LoaderOptions(collate_fn=len)))) == 16


class Workers(Numbers):
    def _data_iterator(self):
        for _ in super()._data_iterator():
            yield os.getpid()


def test_persistent_workers_stay_from_pass_to_pass_and_others_go():
    loader = make(workers=2, chunk=Workers, loader=LoaderOptions(persistent_workers=True))
    first, second = (set(torch.cat(list(loader)).tolist()) for _ in range(2))
    assert len(first) == 2
    assert first == second
    for _ in loader:
        break
    assert not first & set(torch.cat(list(loader)).tolist())
    fresh = make(workers=2, chunk=Workers)
    assert not set(torch.cat(list(fresh)).tolist()) & set(torch.cat(list(fresh)).tolist())
