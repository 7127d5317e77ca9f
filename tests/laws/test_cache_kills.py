"""The laws of a cache that whole trainings share: one fetch, a limit that holds, kills that leave nothing."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from support.job import Job, Training
from support.locking import is_free_soon
from support.making import make_project, publish_samples
from support.noted_store import NotedStore
from support.reading import wait_for
from support.watch import Watch

from benchkit.data.catalogue import find_version, read_manifest
from benchkit.format.manifest import Manifest
from benchkit.store.local import LocalStore

NAMES_OF_SHARED_MEMORY = ("torch_*", "sem.*", "psm_*")
SAMPLES = {"small": 150, "large": 90}

pytestmark = pytest.mark.processes


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a project of two datasets: `large` has half as many chunks as `small`, four times as long."""
    project = make_project(tmp_path / "project")
    publish_samples(project, "small", SAMPLES["small"], per_chunk=5, size=20_000, codec="zstd")
    publish_samples(project, "large", SAMPLES["large"], per_chunk=6, size=60_000)
    return project


def manifest_of(project: Path, name: str) -> Manifest:
    store = LocalStore(project / "store")
    return read_manifest(store, find_version(store, name))


def largest(project: Path, name: str) -> int:
    return max(chunk.tar_bytes for chunk in manifest_of(project, name).chunks)


def cache_of(project: Path) -> Path:
    return project.parent / "cache"


def shared_memory() -> set[Path]:
    """Return what torch and Python have left under a name; other files there are not theirs."""
    return {path for names in NAMES_OF_SHARED_MEMORY for path in Path("/dev/shm").glob(names)}


def semaphores(left: set[Path]) -> set[Path]:
    """Return those that `sem_open(3)` was making: a kill right then leaves one, under at most two names."""
    return {path for path in left if path.name.startswith("sem.")}


def check_told(told: list[list[int]], training: Training) -> None:
    """Make sure that the ranks got every sample, and padding up to a whole number of batches."""
    total, stride = SAMPLES[training.name], training.ranks * training.batch
    for labels in told:
        assert set(labels) == set(range(total))
        assert len(labels) == -(-total // stride) * stride


def check_at_rest(project: Path, *, limit_bytes: int) -> None:
    """Make sure that the folder holds whole tars within the limit, and that nobody has any of it locked."""
    cache = cache_of(project)
    files = [path for path in cache.rglob("*") if path.is_file()]
    tars = [path for path in files if path.suffix == ".tar"]
    assert sorted(set(files) - set(tars)) == [cache / "cache.lock"]
    assert sum(path.stat().st_size for path in files) <= limit_bytes
    for path in files:
        assert is_free_soon(path), path


def test_the_processes_of_a_machine_fetch_every_chunk_once_where_all_fit(machine):
    training = Training(name="small", ranks=3, workers=2, epochs=2, limit_bytes=1 << 30, pause_seconds=0.002)
    with Job(training, machine, machine / "job") as job:
        check_told(job.result(), training)
    manifest = manifest_of(machine, "small")
    names = sorted(manifest.chunk_object(chunk) for chunk in manifest.chunks)
    assert sorted(NotedStore(machine / "store").fetches()) == names


@pytest.mark.parametrize(
    ("ranks", "workers", "lanes"), [(1, 0, 1), (1, 3, 2), (2, 0, 4), (3, 2, 4), (4, 1, 2)]
)
def test_the_limit_that_a_refusal_names_is_enough_and_is_kept(machine, ranks, workers, lanes):
    def training(limit_bytes):
        return Training(
            name="small", ranks=ranks, workers=workers, lanes=lanes, limit_bytes=limit_bytes, epochs=2
        )

    def refusal(limit_bytes):
        with Job(training(limit_bytes), machine, machine / f"refused{limit_bytes}") as job:
            troubles = job.troubles()
        assert len(troubles) == ranks
        assert not NotedStore(machine / "store").fetches()
        return {int(text.rpartition("to at least ")[2].partition(",")[0]) for text in troubles}

    (limit,) = refusal(1)
    assert limit == (lanes + 1) * largest(machine, "small")
    assert refusal(limit - 1) == {limit}
    with Watch(cache_of(machine)) as watch, Job(training(limit), machine, machine / "job") as job:
        check_told(job.result(), training(limit))
    assert watch.looks > 10
    assert limit // 2 < watch.peak_bytes <= limit
    check_at_rest(machine, limit_bytes=limit)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_and_started_again_a_training_completes_and_leaves_nothing(machine, seed):
    chance, before = random.Random(seed), shared_memory()
    small = Training(name="small", ranks=3, workers=2, lanes=3, limit_bytes=4 * largest(machine, "small"))
    endless = replace(small, epochs=99, pause_seconds=0.001)
    killed: list[Job] = []
    with Watch(cache_of(machine)) as watch, ExitStack() as jobs:
        for number, workers in enumerate((0, 2, 1, 0, 2, 1)):
            job = jobs.enter_context(
                Job(replace(endless, workers=workers), machine, machine / f"job{number}")
            )
            killed.append(job)
            time.sleep(chance.random() * 0.3)
            dead = chance.randrange(3)
            job.kill(dead)
            for rank in {0, 1, 2} - {dead}:
                job.wait_for_batches(rank, 3)
            time.sleep(chance.random() * 0.2)
            job.kill_all(workers=chance.random() < 0.5)  # the other half of the time these are left behind
            assert not list(job.temporary.iterdir())
        job = jobs.enter_context(Job(small, machine, machine / "again"))
        check_told(job.result(), small)
        assert small.limit_bytes // 2 < watch.peak_bytes <= small.limit_bytes
        wait_for(lambda: not any(job.lives() for job in killed))
    check_at_rest(machine, limit_bytes=small.limit_bytes)
    left = shared_memory() - before  # other tests' as well, which go on, but not for long with the same
    wait_for(lambda: (left - semaphores(left)).isdisjoint(shared_memory()))
    most = 2 * small.ranks * len(killed)  # for each process that makes them, and was killed
    wait_for(lambda: len(semaphores(left) & shared_memory()) <= most)


def test_what_a_killed_training_left_is_swept_by_one_that_reads_something_else(machine):
    small = Training(name="small", ranks=2, limit_bytes=8 * largest(machine, "small"), pause_seconds=0.05)
    large = Training(name="large", ranks=1, limit_bytes=8 * largest(machine, "large"))
    parts = cache_of(machine) / "chunks"
    with Job(small, machine, machine / "small") as job:
        wait_for(lambda: list(parts.glob("*.part")))
        job.kill_all(workers=True)
    assert list(parts.glob("*.part"))
    with Job(large, machine, machine / "large") as job:
        check_told(job.result(), large)
    check_at_rest(machine, limit_bytes=large.limit_bytes)


def test_a_killed_training_whose_forked_child_lives_on_blocks_nobody(machine):
    limit = 3 * largest(machine, "small")
    first = Training(
        name="small", ranks=1, lanes=2, limit_bytes=limit, epochs=99, pause_seconds=0.002, fork_at=4
    )
    with Job(first, machine, machine / "first") as job:
        job.wait_for_batches(0, 6)
        job.kill(0)
        assert job.lives(), "the child that was forked in the midst of a pass is gone too"
        second = Training(name="small", ranks=1, lanes=2, limit_bytes=limit)
        with Job(second, machine, machine / "second") as other:
            check_told(other.result(5), second)
        assert job.lives()
        check_at_rest(machine, limit_bytes=limit)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_jobs_with_limits_and_datasets_of_their_own_share_a_folder(machine, workers):
    tight = Training(
        name="small", ranks=2, workers=workers, lanes=3, limit_bytes=4 * largest(machine, "small"), epochs=2
    )
    wide = Training(
        name="large", ranks=1, workers=workers, lanes=4, limit_bytes=8 * largest(machine, "large"), epochs=2
    )
    with (
        Watch(cache_of(machine)) as watch,
        Job(tight, machine, machine / "tight") as one,
        Job(wide, machine, machine / "wide") as other,
    ):
        check_told(one.result(), tight)
        check_told(other.result(), wide)
    assert tight.limit_bytes < watch.peak_bytes <= wide.limit_bytes
    check_at_rest(machine, limit_bytes=wide.limit_bytes)
