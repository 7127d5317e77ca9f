"""Packing that fails or is killed publishes nothing, says why, and goes on where it stopped."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from support.making import make_job

from benchkit.data.catalogue import list_versions
from benchkit.data.pack import JOURNAL_FOLDER, PackProgress, PackReport
from benchkit.data.samples import Samples
from benchkit.data.segments import SegmentTask, pack_segment
from benchkit.data.shuffle import shuffle
from benchkit.data.sources import KEPT_OPEN, Sources
from benchkit.data.walk import WalkBuilder, walk_range
from benchkit.errors import DatasetError, LabelTypeError, SampleError, StallError
from benchkit.format.digests import digest_key
from benchkit.store.local import LocalStore

Pack = Callable[..., PackReport]

SCRIPT = textwrap.dedent(
    """
    import os, resource, sys, time
    from pathlib import Path
    from benchkit.data import ProcessorDataset
    from benchkit.data.pack import pack
    from benchkit.errors import BenchKitError
    from benchkit.store.local import LocalStore

    class Folder(ProcessorDataset):
        def __init__(self, files, pause):
            self.files, self.pause = files, pause

        def __len__(self):
            return len(self.files)

        def get_file(self, item):
            return [str(self.files[item])]

        def get_label_and_numeric_data(self, item):
            time.sleep(self.pause)
            return item % 10

    project, pause, limit, chunk_bytes = Path(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    files = sorted(project.glob("data/*/*"))
    print("started", flush=True)
    try:
        report = pack(
            Folder(files, pause), "train", staging=LocalStore(project / "staging"), project=project,
            chunk_bytes=chunk_bytes, workers=2,
        )
    except BenchKitError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(report.version.digest, report.reused_chunks, report.chunks, flush=True)
    """
)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that packs `data/` in a process group of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(*, pause: float = 0.0, limit: int = 0, chunk_bytes: int = 64 << 10) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), *map(str, (tmp_path, pause, limit, chunk_bytes))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        return process

    return run


def finish(process: subprocess.Popen[str]) -> tuple[str, int, int]:
    """Return the digest of the version, and how many of its chunks were there."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    digest, reused, chunks = out.split()
    return digest, int(reused), int(chunks)


def published(staging: LocalStore) -> int:
    return len(list_versions(staging, "train"))


@pytest.mark.processes
def test_killed_at_any_moment_a_rerun_gives_the_undisturbed_bytes(
    tmp_path: Path,
    many: Any,
    staging: LocalStore,
    start: Callable[..., subprocess.Popen[str]],
    contents: Callable[..., Any],
) -> None:
    wanted, _, chunks = finish(start())
    undisturbed = contents(staging)
    journal = tmp_path / JOURNAL_FOLDER / "train.jsonl"
    moments = random.Random(7)
    for lines in (0, 0, 0, 1, 1, 2, 3, 4, 6, 8):
        shutil.rmtree(staging.root)
        journal.unlink()
        process = start(pause=0.002)
        while lines and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.03 if lines else 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        left = contents(staging)
        assert left.items() <= undisturbed.items()
        assert published(staging) == 0 or left == undisturbed
        digest, reused, _ = finish(start())
        assert digest == wanted
        assert lines <= reused <= chunks
        assert contents(staging) == undisturbed
        assert not list((staging.root / ".tmp").iterdir())


@pytest.mark.processes
def test_killed_while_comparing_or_packing_again_a_rerun_gives_the_undisturbed_bytes(
    tmp_path: Path,
    many: Any,
    staging: LocalStore,
    start: Callable[..., subprocess.Popen[str]],
    contents: Callable[..., Any],
) -> None:
    journal, saved = tmp_path / JOURNAL_FOLDER / "train.jsonl", tmp_path / "saved"
    finish(start())
    shutil.copytree(staging.root, saved)
    shutil.copy(journal, tmp_path / "journal")
    for number, [path] in enumerate(many.files):
        os.utime(path, ns=(2, 2))  # so that there is something to read
        if number % 3 == 0:
            Path(path).write_bytes(bytes([number % 251]) * 1200)
    wanted, _, _ = finish(start())
    undisturbed = contents(staging)
    moments = random.Random(8)
    for lines in (0, 0, 1, 2, 4, 6, 8, 10, 11, 12):
        shutil.rmtree(staging.root)
        shutil.copytree(saved, staging.root)
        shutil.copy(tmp_path / "journal", journal)
        before = journal.read_bytes().count(b"\n")
        process = start(pause=0.002)
        while lines and process.poll() is None and journal.read_bytes().count(b"\n") < before + lines:
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.03 if lines else 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        left = contents(staging)
        assert left.items() <= undisturbed.items()
        assert published(staging) == 1 or left == undisturbed
        digest, _, _ = finish(start())
        assert digest == wanted
        assert contents(staging) == undisturbed


@pytest.mark.processes
def test_workers_end_with_the_process_that_leads_them(
    many: Any, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(pause=0.02)
    leader = psutil.Process(process.pid)
    while len(workers := leader.children()) < 2:
        time.sleep(0.01)
    process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    for worker in alive:
        worker.kill()
    process.communicate()
    assert len(gone) == 2


@pytest.mark.processes
def test_interrupting_ends_at_once_and_without_words(
    many: Any, staging: LocalStore, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(pause=0.02, chunk_bytes=1 << 30)  # one worker has nothing to do, the other one much
    while len(psutil.Process(process.pid).children()) < 2:
        time.sleep(0.01)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert published(staging) == 0


@pytest.mark.processes
def test_a_full_disk_is_an_error_and_nothing_is_published(
    many: Any, staging: LocalStore, start: Callable[..., subprocess.Popen[str]], contents: Callable[..., Any]
) -> None:
    process = start(limit=20 << 10)
    _, err = process.communicate(timeout=60)
    assert "StoreError: the disk of" in err
    assert "Traceback" not in err
    assert published(staging) == 0
    assert not list((staging.root / ".tmp").iterdir())
    _, reused, _ = finish(start())
    assert reused == 0


def test_a_file_that_goes_missing_is_named_and_a_rerun_goes_on(
    many: Any, pack_small: Pack, staging: LocalStore
) -> None:
    keys = [digest_key(f"data/{n % 3}/{n:05d}.bin".encode()) for n in range(300)]
    last = int(shuffle(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16))[-1])
    missing = Path(many.files[last][0])
    data = missing.read_bytes()

    def vanish(step: PackProgress) -> None:
        if step.stage == "pack":
            missing.unlink(missing_ok=True)

    message = f"sample {last}: cannot read '{missing}': No such file or directory"
    with pytest.raises(SampleError, match=message):
        pack_small(many, workers=1, on_progress=vanish)
    assert published(staging) == 0
    missing.write_bytes(data)
    report = pack_small(many)
    assert (report.new, report.reused_chunks) == (True, report.chunks - 1)


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_a_file_that_changes_while_it_is_packed_is_named_and_a_rerun_goes_on(
    size: int, many: Any, pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    class Growing(type(many)):  # type: ignore[misc]
        def get_label_and_numeric_data(self, item: int) -> int:
            if item == 123 and list((staging.root / "datasets").rglob("*.tar*")):
                with large.open("ab") as file:
                    file.write(b"more")
            return item

    # A small file is read before its label is made, a large one after it.
    large = Path(many.files[123][0])
    large.write_bytes(bytes(size))
    with pytest.raises(SampleError, match=rf"sample 123: '{large}' changed while it was packed"):
        pack_small(Growing(many.files), workers=1)
    assert published(staging) == 0
    done = len(list((staging.root / "datasets").rglob("*.tar*")))
    report = pack_small(many)
    assert report.new
    assert report.reused_chunks >= done - 1 > 0
    [(_, data)] = read_back(staging)["data/0/00123.bin"][1]
    assert data == large.read_bytes()


def test_a_file_that_is_replaced_while_its_label_is_made_is_named(many: Any, pack_small: Pack) -> None:
    path = Path(many.files[123][0])

    class Replaced(type(many)):  # type: ignore[misc]
        def get_label_and_numeric_data(self, item: int) -> int:
            if item == 123:
                other = path.with_suffix(".new")
                other.write_bytes(path.read_bytes())
                os.utime(other, ns=(7, 7))  # neither size nor time tells it from the one before
                other.replace(path)
            return item

    os.utime(path, ns=(7, 7))
    with pytest.raises(SampleError, match=rf"sample 123: '{path}' changed while it was packed"):
        pack_small(Replaced(many.files), workers=1)
    assert pack_small(many).samples == len(many.files)


def test_a_file_whose_size_is_not_what_it_holds_has_changed() -> None:
    with pytest.raises(SampleError, match=r"sample 4: '/proc/self/status' changed while it was packed"):
        read_next(Sources([4], [["/proc/self/status"]]))


@pytest.mark.parametrize("keep_open", [True, False])
@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite", "touch", "replace"])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, change: str, keep_open: bool) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(3 << 20))
    os.utime(path, ns=(1, 1))
    sources = look_at(path, keep_open=keep_open)
    assert (sources.names[-1], sources.sizes[-1], sources.statuses[-1].st_mtime_ns) == (
        b"file.bin",
        3 << 20,
        1,
    )
    sources.read_part(memoryview(bytearray(1 << 20)))
    if change in ("grow", "shrink"):
        os.truncate(path, (3 << 20) + (1 if change == "grow" else -1))
        os.utime(path, ns=(1, 1))
    elif change == "rewrite":
        path.write_bytes(bytes([1]) * (3 << 20))
    elif change == "touch":
        os.utime(path, ns=(2, 2))
    else:
        other = tmp_path / "other"
        other.write_bytes(bytes(3 << 20))
        os.utime(other, ns=(1, 1))
        other.replace(path)
    with pytest.raises(SampleError, match=rf"sample 7: '{path}' changed while it was packed"):
        sources.read_part(memoryview(bytearray(2 << 20)))
    sources.close()


@pytest.mark.parametrize("keep_open", [True, False])
def test_a_file_that_changed_before_it_is_read_is_named(tmp_path: Path, keep_open: bool) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(100))
    sources = look_at(path, keep_open=keep_open)
    os.utime(path, ns=(2, 2))
    with pytest.raises(SampleError, match=rf"sample 7: '{path}' changed while it was packed"):
        read_next(sources)


@pytest.mark.parametrize("failing", [0, 4, KEPT_OPEN - 1])
def test_a_file_that_cannot_be_looked_at_once_it_is_open_is_named(
    tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()

    def look(descriptor: int) -> os.stat_result:
        if next(looks) == failing:
            raise OSError(errno.ESTALE, "Stale file handle")
        return os.stat(descriptor)

    paths = [str(tmp_path / f"{number}.bin") for number in range(KEPT_OPEN + 2)]
    for path in paths:
        Path(path).touch()
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fstat", look)
    with pytest.raises(SampleError, match=f"sample 7: cannot read '{paths[failing]}': Stale file handle"):
        Sources([7], [paths])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_opened_once_whatever_its_label_takes(
    tmp_path: Path, listed: type[Any], staging: LocalStore, write_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_files(tmp_path / "data", 100)
    labels = [np.zeros(40_000 * (number % 5)) for number in range(100)]
    samples = Samples.of(listed([[path] for path in paths], labels), tmp_path)
    walk = WalkBuilder(100)
    walk.add(walk_range(samples, range(100)))
    indices, repeats, checks = walk.finish(samples).describe(np.arange(100, dtype=np.uint32))
    opened = []

    def note(path: Any, *rest: Any, **more: Any) -> int:
        opened.append(path)
        return true_open(path, *rest, **more)

    true_open = os.open
    monkeypatch.setattr(os, "open", note)
    pack_segment(
        make_job(samples, staging, chunk_bytes=4 << 20, codec="none"),
        SegmentTask(number=0, segment="", indices=indices, repeats=repeats, checks=checks, known=None),
    )
    assert [path for path in opened if path in paths] == paths


def test_a_sample_of_very_many_files_is_packed(
    tmp_path: Path, listed: type[Any], pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    paths = []
    for number in range(300):
        paths.append(tmp_path / f"{number}.bin")
        paths[-1].write_bytes(b"%d" % number)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        pack_small(listed([[str(path) for path in paths]]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    [(_, files)] = read_back(staging).values()
    assert [data for _, data in files] == [b"%d" % number for number in range(300)]


def look_at(path: Path, *, keep_open: bool) -> Sources:
    """Return sources whose next file this is, held open or behind so many others that it is not."""
    others = [] if keep_open else [str(path.with_name("other.bin"))] * KEPT_OPEN
    for other in others[:1]:
        Path(other).write_bytes(b"other")
    sources = Sources([3, 7], [others, [str(path)]])
    sources.read([memoryview(bytearray(5)) for _ in others])
    return sources


def read_next(sources: Sources) -> None:
    """Read the last file, and close all."""
    try:
        sources.read([memoryview(bytearray(sources.sizes[-1]))])
    finally:
        sources.close()


def test_an_unreadable_file_is_named(listed: type[Any], pack_small: Pack) -> None:
    # Reading it fails even for root, while looking at it does not.
    with pytest.raises(SampleError, match=r"sample 0: cannot read '/proc/self/mem': Input/output error"):
        pack_small(listed([["/proc/self/mem"]]))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_earliest_bad_label_in_written_order_is_named_for_any_number_of_workers(
    many: Any, pack_small: Pack, staging: LocalStore, workers: int
) -> None:
    class Broken(type(many)):  # type: ignore[misc]
        def get_label_and_numeric_data(self, item: int) -> int:
            if item in bad:
                raise ValueError(f"no class for {item}")
            return item

    bad = set(range(0, 300, 4))
    with pytest.raises(SampleError) as caught:
        pack_small(Broken(many.files), workers=workers)
    with pytest.raises(SampleError) as again:
        pack_small(Broken(many.files), workers=2)
    assert str(caught.value) == str(again.value)
    assert "get_label_and_numeric_data failed: ValueError: no class for" in str(caught.value)
    assert published(staging) == 0


def test_the_users_traceback_is_kept_as_the_cause(many: Any, pack_small: Pack) -> None:
    class Broken(type(many)):  # type: ignore[misc]
        def get_label_and_numeric_data(self, item: int) -> int:
            return int("not a number")

    with pytest.raises(SampleError) as caught:
        pack_small(Broken(many.files))
    cause = str(caught.value.__cause__)
    assert 'return int("not a number")' in cause
    assert "ValueError: invalid literal" in cause


def test_a_label_of_a_type_that_cannot_be_stored_is_named(many: Any, pack_small: Pack) -> None:
    many.labels[200] = {"x": [1, object()]}
    with pytest.raises(
        LabelTypeError, match=r"sample 200: label\['x'\]\[1\] is of type builtins.object; what can"
    ):
        pack_small(many)


def test_keys_that_differ_from_call_to_call_are_refused(
    tmp_path: Path, many: Any, pack_small: Pack, staging: LocalStore
) -> None:
    class Moody(type(many)):  # type: ignore[misc]
        def get_key(self, item: int) -> str:
            calls = tmp_path / f"call-{item}"
            if item == 150 and calls.exists():
                return "another"
            calls.touch()
            return str(item)

    with pytest.raises(SampleError, match="sample 150: its key is now 'another'"):
        pack_small(Moody(many.files))
    assert published(staging) == 0


def test_a_worker_that_dies_is_an_error_and_a_rerun_goes_on(
    tmp_path: Path, many: Any, pack_small: Pack, staging: LocalStore
) -> None:
    class Deadly(type(many)):  # type: ignore[misc]
        def get_label_and_numeric_data(self, item: int) -> int:
            if not (tmp_path / "died").exists() and list((staging.root / "datasets").rglob("*.tar*")):
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return item

    with pytest.raises(StallError, match=r"a worker process died .*run it again"):
        pack_small(Deadly(many.files))
    assert published(staging) == 0
    report = pack_small(Deadly(many.files))
    assert report.new
    assert report.samples == 300


@pytest.mark.timeout(60)
def test_labels_made_with_torch_do_not_wait_for_threads_that_were_not_forked(
    many: Any, pack_small: Pack
) -> None:
    class Computed(type(many)):  # type: ignore[misc]
        def get_label_and_numeric_data(self, item: int) -> float:
            return float(torch.ones(1000, 1000).mul(2).sum())

    assert float(torch.ones(1000, 1000).mul(2).sum()) == 2e6  # the parent's threads are started
    assert pack_small(Computed(many.files)).samples == 300


@pytest.mark.parametrize("method", ["get_file", "get_label_and_numeric_data", "get_key"])
def test_a_method_that_leaves_by_sys_exit_has_failed(
    method: str, many: Any, pack_small: Pack, staging: LocalStore
) -> None:
    leaving = type("Leaving", (type(many),), {method: lambda _self, _item: sys.exit(0)})
    with pytest.raises(SampleError, match=rf"sample \d+: {method} failed: SystemExit: 0"):
        pack_small(leaving(many.files))
    assert published(staging) == 0


def test_an_empty_dataset_is_refused_before_anything_is_written(
    listed: type[Any], pack_small: Pack, staging: LocalStore
) -> None:
    with pytest.raises(DatasetError, match="Listed is empty"):
        pack_small(listed([]))
    assert not staging.root.exists()
