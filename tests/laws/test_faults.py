"""The laws of faults: no wrong sample, an error in time that names its cause, health once that is mended."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from laws.resuming import in_child
from PIL import Image
from support.locking import is_free_soon
from support.making import make_project, publish_samples
from support.processes import torchrun
from support.reading import Numbers, labels_of, make, wait_for
from support.small_disk import mount_small_disk

from benchkit import IterableChunk, decode_image
from benchkit.data.catalogue import find_version, read_manifest
from benchkit.errors import CacheError, CorruptError, SampleError, StallError
from benchkit.format.digests import digest_bytes
from benchkit.store.local import LocalStore
from benchkit.stream.course import BatchPlan
from benchkit.stream.lookahead import Lookahead

SAMPLES, PER_CHUNK, BATCH = 96, 4, 4
ALL = list(range(SAMPLES))

Damage = Callable[[list[Path]], None]


def overwrite(path: Path, data: bytes) -> None:
    """Write into the file itself, as a failing disk does, whoever has it open."""
    path.chmod(0o600)
    path.write_bytes(data)


def flip(paths: list[Path]) -> None:
    """Flip bits everywhere, so that no sample is spared."""
    for path in paths:
        data = bytearray(path.read_bytes())
        data[::101] = bytes(byte ^ 4 for byte in data[::101])
        overwrite(path, bytes(data))


def cut(paths: list[Path]) -> None:
    for path in paths:
        overwrite(path, path.read_bytes()[:700])


def empty(paths: list[Path]) -> None:
    for path in paths:
        overwrite(path, b"")


def swap(paths: list[Path]) -> None:
    """Give each file the contents of another."""
    contents = [path.read_bytes() for path in paths]
    for path, data in zip(paths, contents[1:] + contents[:1], strict=True):
        overwrite(path, data)


def lose(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


DAMAGES = [flip, cut, empty, swap, lose]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("packed"))
    publish_samples(folder, "numbers", SAMPLES, per_chunk=PER_CHUNK)
    return folder


@pytest.fixture
def numbers(project: Path, packed: Path) -> Path:
    shutil.copytree(packed / "store", project / "store")
    return project


def train(loader) -> list[int]:
    """Return the labels of a pass, all bytes of whose samples are right."""
    return labels_of(list(loader))


def fail(loader, error: type[Exception], match: str, at: Callable[[int], object] = bool) -> list[int]:
    """Return the labels of a pass up to its error, where the training does something after every step."""
    got: list[int] = []

    def run() -> None:
        for step, batch in enumerate(loader):
            got.extend(labels_of([batch]))
            at(step)

    with pytest.raises(error, match=match):
        run()
    return got


def loader_of(workers: int, **more: object):
    return make("numbers", BATCH, workers, Numbers, **more)


def cached(project: Path) -> list[Path]:
    return sorted((project.parent / "cache" / "chunks").iterdir())


def stored(project: Path) -> list[Path]:
    """Return the files of the store's chunks in the order in which an unshuffled pass comes to them."""
    store = LocalStore(project / "store")
    manifest = read_manifest(store, find_version(store, "numbers"))
    return [project / "store" / manifest.chunk_object(chunk) for chunk in manifest.chunks]


def largest_tar() -> int:
    return max(loader_of(0).opened.tar_bytes)


def check_cache(project: Path) -> None:
    """Make sure that all tars in the cache are whole and right; a broken-off fetch leaves a `.part`."""
    for path in cached(project):
        assert path.suffix == ".part" or path.name == f"{digest_bytes(path.read_bytes())}.tar"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_goes_bad_in_the_cache_is_never_served_and_fetched_again(numbers, damage, workers):
    loader = loader_of(workers)
    assert train(loader) == ALL
    damage(cached(numbers))
    assert train(loader_of(workers)) == ALL
    check_cache(numbers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_goes_bad_in_the_cache_under_a_pass_is_never_served_and_fetched_again(numbers, damage, workers):
    assert train(loader_of(0)) == ALL
    loader = loader_of(workers, shuffle=True, open_chunks=8)
    batches = iter(loader)
    got = list(itertools.islice(batches, 5))
    damage(cached(numbers))
    got += list(batches)
    assert sorted(labels_of(got)) == ALL
    assert train(loader_of(workers)) == ALL
    check_cache(numbers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_bad_in_the_store_is_an_error_and_once_mended_all_is_well(numbers, damage, workers):
    bad = stored(numbers)[7:9]
    right = [path.read_bytes() for path in bad]
    damage(bad)
    loader = loader_of(workers, on_error="skip")
    told = rf"chunk {bad[0].name[:12]}….* of numbers@1 .*bench-kit verify"
    assert fail(loader, CorruptError, told) == ALL[: 7 * PER_CHUNK]
    check_cache(numbers)
    for path, data in zip(bad, right, strict=True):
        path.write_bytes(data)
    assert train(loader) == ALL
    check_cache(numbers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_goes_bad_in_the_store_under_a_pass_is_an_error_and_once_mended_it_goes_on(
    numbers, monkeypatch, damage, workers
):
    monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(4 * largest_tar()))
    bad = stored(numbers)[-2:]
    right = [path.read_bytes() for path in bad]
    loader = loader_of(workers)
    got = fail(loader, CorruptError, bad[0].name[:12], lambda step: step == 3 and damage(bad))
    assert got == ALL[: -2 * PER_CHUNK]
    state = loader.state_dict()
    check_cache(numbers)
    for path, data in zip(bad, right, strict=True):
        path.write_bytes(data)
    loader.load_state_dict(state)
    assert train(loader) == ALL[-2 * PER_CHUNK :]


class Struck(Numbers):
    """Strikes the process that comes to a sample, while a file says how."""

    def __init__(self, name: str, cloud: bool, *, order: Path) -> None:
        super().__init__(name, cloud)
        self.order = order

    def _data_iterator(self):
        for row in super()._data_iterator():
            if row[0] == STRUCK and self.order.exists():
                STRIKES[self.order.read_text()]()
            yield row


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


STRUCK = 50
STRIKES: dict[str, Callable[[], object]] = {
    "kill": send(signal.SIGKILL),
    "segv": send(signal.SIGSEGV),
    "abort": os.abort,
    "usr1": send(signal.SIGUSR1),
    "stop": send(signal.SIGSTOP),
    "sleep": lambda: time.sleep(60),
    "exit": lambda: os._exit(3),
    "leave": lambda: os._exit(0),
    "quit": lambda: sys.exit(4),
}
ENDS = {
    "kill": r"reads 'numbers' died: it was killed by signal 9 .*memory is short .*take fewer num_workers",
    "segv": r"signal 11 .*a library that _data_iterator calls has crashed; the stack is on stderr",
    "abort": r"signal 6 ",
    "usr1": r"signal 10 .*see who sent it",
    "stop": r"no batch of 'numbers' within 2 s",
    "sleep": r"no batch of 'numbers' within 2 s; where each thread stands is on stderr",
    "exit": r"exit code 3: something that _data_iterator calls ends its process",
    "leave": r"exit code 0",
    "quit": r"exit code 4",
}
SHOWN = {
    "segv": "in _data_iterator",
    "abort": "in _data_iterator",
    "sleep": "in _data_iterator",
    "stop": "in _next",
}
"""What is on stderr of those that leave a stack there."""
SECONDS = 2.0


# A worker that dies while it hands a tensor over leaves multiprocessing's end of the socket to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.processes
@pytest.mark.parametrize(("strike", "persistent"), [*((strike, False) for strike in STRIKES), ("kill", True)])
def test_a_worker_that_is_struck_is_an_error_in_time_and_the_next_pass_has_new_ones(
    numbers, tmp_path, capfd, strike, persistent
):
    order = tmp_path / "order"
    order.write_text(strike)
    options = {"timeout_seconds": SECONDS, "persistent_workers": persistent}
    loader = make("numbers", BATCH, 2, Struck, order=order, **options)
    started = time.monotonic()
    got = fail(loader, StallError, ENDS[strike])
    assert time.monotonic() - started < SECONDS + 5
    assert got == ALL[: len(got)]
    assert STRUCK not in got
    assert SHOWN.get(strike, "") in capfd.readouterr().err
    state = loader.state_dict()
    order.unlink()
    loader.load_state_dict(state)
    assert got + train(loader) == ALL
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.processes
@pytest.mark.parametrize("moment", ["in the loop", "between passes"])
def test_a_worker_killed_while_nobody_waits_for_it_is_told_at_the_next_batch(numbers, moment):
    loader = loader_of(2, persistent_workers=True, timeout_seconds=30)

    def kill() -> None:
        worker = loader._iterator._workers[0]
        worker.kill()
        worker.join()
        sum(range(100_000))  # the training goes on, undisturbed
        killed.append(time.monotonic())

    killed: list[float] = []
    if moment == "between passes":
        assert train(loader) == ALL
        kill()
        assert fail(loader, StallError, "signal 9") == []
    else:
        assert len(fail(loader, StallError, "signal 9", lambda step: step == 2 and kill())) == 3 * BATCH
    assert time.monotonic() - killed[0] < 5
    assert train(loader) == ALL
    gc.collect()


class Pictures(IterableChunk):
    def _data_iterator(self):
        for label, files in super()._data_iterator():
            yield label, decode_image(files[0], size=4)


BROKEN = {13: slice(0, 300), 27: slice(0, 0), 41: slice(40, None)}
"""What is left of some pictures: a first part, nothing, all but the head."""


@pytest.fixture
def pictures(project: Path) -> Path:
    def picture(number: int) -> bytes:
        out = io.BytesIO()
        Image.effect_noise((16, 16), number).save(out, "JPEG")
        return out.getvalue()[BROKEN.get(number, slice(None))]

    publish_samples(project, "pictures", SAMPLES, per_chunk=PER_CHUNK, contents=picture)
    return project


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_does_not_decode_is_named_or_left_out_and_counted(workers):
    named = [rf"sample '{number}' \('f{number}\.bin'\) in chunk .* of pictures@1: " for number in BROKEN]
    got = fail(make("pictures", BATCH, workers, Pictures), SampleError, named[0])
    assert got == ALL[:12]
    loader = make("pictures", BATCH, workers, Pictures, on_error="skip", max_errors=3)
    with pytest.warns(
        UserWarning, match=r"93 rows of the 96 samples .*\(3 failed\): 3 of 24 batches were cut, or"
    ):
        got = train(loader)
    assert [label for label in got if label not in ALL or label in BROKEN] == []
    assert set(got) == set(ALL) - set(BROKEN)
    assert len(got) == SAMPLES
    assert len(loader.report.errors) == 3
    for text, error in zip(named, loader.report.errors, strict=True):
        assert re.search(text, error)
    strict = make("pictures", BATCH, workers, Pictures, on_error="skip", max_errors=2)
    assert max(fail(strict, SampleError, rf"3 samples .* more than max_errors=2; the last: {named[2]}")) < 40


def hang(path: Path) -> None:
    """Have whoever opens the file wait for ever, as on a file system that does not answer."""
    path.rename(path.with_suffix(".away"))
    os.mkfifo(path)


def answer(path: Path) -> None:
    """Put the file back, and let go who waits."""
    waits = path.with_suffix(".waits")
    path.rename(waits)
    path.with_suffix(".away").rename(path)
    os.close(os.open(waits, os.O_RDWR))
    waits.unlink()


@pytest.mark.parametrize(("workers", "ahead"), [(0, True), (0, False), (2, True), (2, False)])
def test_a_store_that_stops_answering_is_an_error_in_time_and_goes_on_when_it_answers(
    numbers, monkeypatch, capfd, workers, ahead
):
    if not ahead:  # else it is the thread that looks ahead which hangs, and the reader waits for that
        monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(2 * largest_tar()))
    chunk = stored(numbers)[5]
    hang(chunk)
    loader = loader_of(workers, timeout_seconds=SECONDS)
    started = time.monotonic()
    got = fail(
        loader,
        StallError,
        rf"chunk {chunk.name[:12]}.* of numbers@1 .*{(numbers / 'store').as_uri()}.* for 2 s",
    )
    assert time.monotonic() - started < SECONDS + 5
    assert got == ALL[: 5 * PER_CHUNK]
    assert "Thread 0x" in (shown := capfd.readouterr().err)
    assert "in stream" in shown or "in _await_fetch" in shown
    state = loader.state_dict()
    answer(chunk)
    loader.load_state_dict(state)
    assert train(loader) == ALL[5 * PER_CHUNK :]


def on_full_disk(numbers: Path, size: int, function: Callable[[], object]) -> None:
    """Run the function in a process whose cache lies on a disk of so many bytes."""
    cache = numbers.parent / "cache"
    cache.mkdir(mode=0o700)

    def run() -> str | None:
        if problem := mount_small_disk(cache, size):
            return problem
        function()
        check_cache(numbers)
        return None

    if problem := in_child(run):
        pytest.skip(problem)


@pytest.mark.processes
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_smaller_than_the_cache_s_limit_is_enough_if_it_holds_the_lanes_and_one_chunk(
    numbers, workers, lanes
):
    def run() -> None:
        loader = loader_of(workers, shuffle=True, open_chunks=lanes)
        assert sorted(train(loader)) == ALL

    on_full_disk(numbers, (lanes + 1) * on_disk(largest_tar()), run)


@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_others_fill_is_a_clear_error_and_once_there_is_room_it_goes_on(numbers, workers):
    def run() -> None:
        other = numbers.parent / "cache" / "other"
        status = os.statvfs(other.parent)
        other.write_bytes(bytes(status.f_bavail * status.f_frsize))
        loader = loader_of(workers)
        told = r"no space for chunk .*: No space left on device, and nothing is left .*BENCHKIT_CACHE_DIR"
        assert fail(loader, CacheError, told) == []
        assert [path for path in cached(numbers) if path.suffix == ".tar"] == []
        other.unlink()
        loader.set_epoch(0)
        assert train(loader) == ALL

    on_full_disk(numbers, 6 * on_disk(largest_tar()), run)


def on_disk(size: int) -> int:
    """Return what a file takes there, in whole pages."""
    return -(-size // 4096) * 4096


def test_a_crash_of_the_thread_that_looks_ahead_reaches_the_training(numbers):
    opened = loader_of(0).opened

    def plan(step: int) -> BatchPlan:
        raise ArithmeticError("a plan gone wrong")

    with Lookahead(opened, plan, steps=3, ahead=2) as lookahead:
        lookahead.start()
        wait_for(lambda: lookahead._failure)
        with pytest.raises(ArithmeticError, match="gone wrong"):
            lookahead.advance()


def processes_of(project: Path) -> list[psutil.Process]:
    """Return the processes that have this project in their environment, other than this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("BENCHKIT_PROJECT") == str(project) and process.pid != os.getpid():
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.processes
def test_a_killed_rank_ends_its_job_in_time_and_the_next_one_goes_on_with_what_was_left(numbers, tmp_path):
    script, notes = Path(__file__).parent / "struck.py", tmp_path / "notes.json"
    with pytest.raises(AssertionError, match="SIGKILL"):
        torchrun(script, 3, str(tmp_path), "4", project=numbers, timeout=60)
    wait_for(lambda: not processes_of(numbers), 5)
    assert len(json.loads(notes.read_text())["received"]) == 4 * 3 * 3
    for path in (numbers.parent / "cache").rglob("*.*"):
        assert is_free_soon(path), path
    torchrun(script, 2, str(tmp_path), "-1", project=numbers, timeout=60)
    told = json.loads(notes.read_text())
    assert sorted(told["received"]) == ALL
    check_cache(numbers)
