"""Packing: every sample once, bit for bit; the same bytes from the same samples, whoever packs them."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from support.making import make_job

from benchkit.data import ProcessorDataset, segments, sources
from benchkit.data.catalogue import find_version, list_versions, read_manifest
from benchkit.data.pack import JOURNAL_FOLDER, PackProgress, PackReport
from benchkit.data.samples import Samples
from benchkit.data.segments import SegmentTask, pack_segment
from benchkit.data.shuffle import shuffle
from benchkit.errors import UsageError
from benchkit.format.digests import digest_key
from benchkit.format.manifest import Manifest
from benchkit.store.local import LocalStore

Pack = Callable[..., PackReport]


class Three(ProcessorDataset):
    """Three samples without files."""

    def __len__(self) -> int:
        return 3

    def get_label_and_numeric_data(self, item: int) -> int:
        return item


def manifest_of(staging: LocalStore, name: str = "train", number: int | None = None) -> Manifest:
    return read_manifest(staging, find_version(staging, name, number=number))


def same(left: Any, right: Any) -> bool:
    """Return whether two labels are the same value, type for type."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def test_every_sample_comes_back_bit_for_bit(
    tmp_path: Path, listed: type[Any], pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    long = "/".join(["d" * 100] * 3)
    names = [
        "plain.png", "no suffix", "two.dots.tar.gz", ".hidden", "ümläut ß.JPG", "x" * 251 + ".bin",
        "日本.npy", f"{long}/deep.bin", "a/same.png", "b/same.png", "empty.txt", "caf\udce9.wav", "-rf",
        "quote'\"$.txt",
    ]  # fmt: skip
    random = np.random.default_rng(5)
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty.txt" else random.bytes(random.integers(1, 3000)))
    files = [[str(tmp_path / name)] for name in names]
    files += [
        [],
        [str(tmp_path / "a/same.png"), str(tmp_path / "b/same.png")],
        [str(tmp_path / "empty.txt")] * 3,
    ]
    labels = [
        1, -(10**30), 1.5, float("inf"), True, None, "text", np.float32(2.5), np.arange(6).reshape(2, 3),
        np.zeros((0, 4), dtype="u1"), torch.ones(3, dtype=torch.bfloat16), {"box": np.eye(2), 3: (1, [2.0])},
        [], (np.bool_(True), torch.tensor(7)), "ß\n", {"": {}}, [[1], [2]],
    ]  # fmt: skip
    report = pack_small(listed(files, labels))
    assert report.samples == len(files)
    found = read_back(staging)
    keys = [*names, str(len(names)), "a/same.png#1", "empty.txt#1"]
    assert set(found) == set(keys)
    for key, paths, label in zip(keys, files, labels, strict=True):
        label_found, files_found = found[key]
        assert same(label_found, label)
        assert files_found == [(os.path.basename(path), Path(path).read_bytes()) for path in paths]


@pytest.mark.parametrize("codec", ["auto", "zstd", "none"])
def test_any_number_of_workers_writes_the_same_bytes(
    tmp_path: Path, many: Any, pack_small: Pack, contents: Callable[..., Any], codec: str
) -> None:
    written = []
    for workers in (1, 2, 4):
        store = LocalStore(tmp_path / f"store{workers}")
        report = pack_small(many, staging=store, workers=workers, codec=codec, project=tmp_path)
        shutil.rmtree(tmp_path / JOURNAL_FOLDER)
        assert report.chunks > 4
        written.append(contents(store))
    assert written[0] == written[1] == written[2]


def test_the_same_files_in_another_place_at_another_time_give_the_same_bytes(
    tmp_path: Path,
    listed: type[Any],
    write_files: Callable[..., list[str]],
    pack_small: Pack,
    contents: Callable[..., Any],
) -> None:
    written = []
    for umask, project in ((0o022, tmp_path / "one"), (0o077, tmp_path / "two" / "deeper")):
        before = os.umask(umask)
        try:
            paths = write_files(project / "data", 100)
            for number, path in enumerate(paths):
                os.utime(path, (umask + number, umask + number))
                Path(path).chmod(0o600 if umask else 0o755)
            if umask == 0o077:
                paths.reverse()
            labels = [os.path.basename(path) for path in paths]
            store = LocalStore(project / "staging")
            pack_small(listed([[path] for path in paths], labels), staging=store, project=project)
        finally:
            os.umask(before)
        written.append(contents(store))
    assert written[0] == written[1]


def test_a_root_of_its_own_makes_a_dataset_independent_of_the_project(
    tmp_path: Path, many: Any, pack_small: Pack, read_back: Callable[..., Any], staging: LocalStore
) -> None:
    many.root = tmp_path / "data"
    pack_small(many, project=tmp_path / "elsewhere" / "project")
    assert set(read_back(staging)) == {f"{n % 3}/{n:05d}.bin" for n in range(300)}


def test_the_same_samples_again_are_no_new_version_and_nothing_is_read(many: Any, pack_small: Pack) -> None:
    first = pack_small(many)
    again = pack_small(many)
    assert (first.new, first.reused_chunks, first.bytes_read) == (True, 0, 300_000)
    assert (again.new, again.reused_chunks, again.bytes_read) == (False, first.chunks, 0)
    assert again.version == first.version
    assert (again.samples, again.chunks, again.tar_bytes, again.stored_bytes) == (
        first.samples, first.chunks, first.tar_bytes, first.stored_bytes,
    )  # fmt: skip


def test_a_lost_journal_costs_reading_alone(tmp_path: Path, many: Any, pack_small: Pack) -> None:
    first = pack_small(many)
    shutil.rmtree(tmp_path / JOURNAL_FOLDER)
    again = pack_small(many)
    assert (again.new, again.version, again.bytes_read) == (False, first.version, 300_000)


def test_labels_that_change_while_no_file_does_are_a_new_version(
    many: Any, pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    pack_small(many)
    for label in (1000, "text", 17.0, np.int64(17), [17], (17,)):
        many.labels[17] = label
        report = pack_small(many)
        assert (report.new, report.added, report.changed, report.removed) == (True, 0, 1, 0)
        assert report.reused_chunks == report.chunks - 1
        found, _ = read_back(staging)["data/2/00017.bin"]
        assert same(found, label)


def test_an_array_of_other_values_and_the_same_shape_is_a_new_version(
    listed: type[Any], pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    labels = [np.full(50, number) for number in range(50)]
    first = pack_small(listed([[] for _ in labels], labels))
    labels[3] = labels[3] + 1
    report = pack_small(listed([[] for _ in labels], labels))
    assert (first.version.number, report.version.number, report.new) == (1, 2, True)
    assert read_back(staging)["3"][0].tolist() == [4] * 50


def test_a_file_that_changes_with_its_time_is_read_again(
    many: Any, pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    first = pack_small(many)
    path = Path(many.files[5][0])
    path.write_bytes(b"n" * 1000)
    os.utime(path, ns=(1, 1))
    report = pack_small(many)
    assert report.new
    assert (report.chunks, report.reused_chunks) == (first.chunks + 1, first.chunks)
    assert report.bytes_read == 2000  # to compare it, and to pack it
    assert read_back(staging)["data/2/00005.bin"][1] == [("00005.bin", b"n" * 1000)]


def test_other_times_of_the_same_files_are_no_new_version(many: Any, pack_small: Pack) -> None:
    first = pack_small(many)
    for [path] in many.files:
        os.utime(path, ns=(1, 1))
    again = pack_small(many)
    assert (again.new, again.version, again.bytes_read) == (False, first.version, 300_000)
    assert pack_small(many).bytes_read == 0


@pytest.mark.parametrize("harm", ["missing", "short", "index"])
def test_a_staged_chunk_that_is_not_whole_is_written_again(
    many: Any,
    pack_small: Pack,
    staging: LocalStore,
    chunk_paths: Callable[..., list[Path]],
    flip: Callable[..., None],
    contents: Callable[..., Any],
    harm: str,
) -> None:
    first = pack_small(many)
    before = contents(staging)
    chunk = manifest_of(staging).chunks[0]
    [path] = [path for path in chunk_paths(staging) if chunk.stored in path.name]
    if harm == "missing":
        path.unlink()
    elif harm == "short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        flip(path, chunk.index.offset + chunk.index.length // 2)
    again = pack_small(many)
    assert (again.new, again.reused_chunks) == (False, first.chunks - 1)
    assert contents(staging) == before


@pytest.mark.parametrize("changed", [{"chunk_bytes": 64 << 10}, {"codec": "none"}])
def test_other_options_are_another_version(many: Any, pack_small: Pack, changed: dict[str, Any]) -> None:
    pack_small(many)
    report = pack_small(many, **changed)
    assert (report.new, report.reused_chunks, report.version.number) == (True, 0, 2)


def test_versions_stay_as_they_are(many: Any, pack_small: Pack, staging: LocalStore) -> None:
    pack_small(many)
    first = manifest_of(staging)
    many.labels[0] = "other"
    pack_small(many)
    assert [version.number for version in list_versions(staging, "train")] == [1, 2]
    assert manifest_of(staging, number=1) == first


def test_a_chunk_is_no_larger_than_asked_unless_one_sample_is(
    tmp_path: Path, listed: type[Any], pack_small: Pack, staging: LocalStore
) -> None:
    random = np.random.default_rng(3)
    files = []
    for number in range(200):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(bytes(200_000 if number == 77 else int(random.integers(0, 9000))))
        files.append([str(path)])
    pack_small(listed(files, [["label"] * int(n) for n in random.integers(0, 500, 200)]))
    chunks = manifest_of(staging).chunks
    assert sum(chunk.samples for chunk in chunks) == 200
    for chunk in chunks:
        assert chunk.tar_bytes <= 128 << 10 or chunk.samples == 1
    assert sum(chunk.tar_bytes > 128 << 10 for chunk in chunks) == 1


def test_labels_that_are_larger_than_planned_make_more_chunks_the_same_for_any_workers(
    tmp_path: Path, listed: type[Any], pack_small: Pack, contents: Callable[..., Any]
) -> None:
    # The probe sees small labels alone, or the allowance would make room for all.
    probed = Samples.of(listed([[]] * 400), tmp_path)
    labels: list[Any] = [np.zeros(2000, dtype="u1")] * 400
    order = sorted_by_key(probed)
    for index in order[:64]:
        labels[index] = 0
    written = []
    for workers in (1, 3):
        store = LocalStore(tmp_path / f"store{workers}")
        report = pack_small(listed([[]] * 400, labels), staging=store, workers=workers)
        shutil.rmtree(tmp_path / JOURNAL_FOLDER)
        written.append(contents(store))
        chunks = manifest_of(store).chunks
        assert len(chunks) == report.chunks > 2 * 400 * 1280 // (128 << 10)
        assert all(chunk.tar_bytes <= 128 << 10 for chunk in chunks)
    assert written[0] == written[1]


def sorted_by_key(samples: Samples) -> list[int]:
    """Return the samples in written order."""
    digests = b"".join(map(digest_key, samples.keys(range(400), [[]] * 400)))
    return shuffle(np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)).tolist()


def test_labels_of_one_size_fill_their_chunks(
    listed: type[Any], pack_small: Pack, staging: LocalStore
) -> None:
    pack_small(listed([[]] * 2000, [np.zeros(1000, dtype="u1")] * 2000))
    chunks = manifest_of(staging).chunks
    assert all(chunk.tar_bytes > 0.8 * (128 << 10) for chunk in chunks[:-1])


def test_a_sample_of_many_and_of_large_files_is_packed_in_blocks(
    tmp_path: Path, listed: type[Any], pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    sizes = [5 << 20, 1 << 20, (1 << 20) + 1, 900_000, 900_000, 900_000, 900_000, 900_000, 0, 3]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.bin").write_bytes(np.random.default_rng(number).bytes(size))
    paths = [str(tmp_path / f"{number}.bin") for number in range(len(sizes))]
    pack_small(listed([paths]))
    [(_, files)] = read_back(staging).values()
    assert files == [(os.path.basename(path), Path(path).read_bytes()) for path in paths]


def test_samples_got_ready_one_by_one_give_the_same_bytes_as_many_together(
    tmp_path: Path,
    listed: type[Any],
    pack_small: Pack,
    contents: Callable[..., Any],
    read_back: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = [900, 0, 513, (1 << 20) + 1, 512]
    paths = [str(tmp_path / f"{number}.bin") for number in range(400)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(np.random.default_rng(number).bytes(sizes[number % 97 % 5]))
    files = [paths[:200], *([paths[number] for number in range(i, i + i % 4)] for i in range(200, 390))]
    labels = [
        {"large": np.zeros(100_000 * (i % 3 == 0)), "pair": (i, "x")} if i % 2 else i for i in range(191)
    ]
    dataset = listed(files, labels)
    written = []
    for together, kept_open, label_bytes in (
        (128, 128, 1 << 20),
        (1, 1, 0),
        (5, 3, 1 << 20),
        (50, 300, 5000),
    ):
        monkeypatch.setattr(segments, "_GROUP_SAMPLES", together)
        monkeypatch.setattr(segments, "_GROUP_LABEL_BYTES", label_bytes)
        for module in (segments, sources):
            monkeypatch.setattr(module, "KEPT_OPEN", kept_open)
        store = LocalStore(tmp_path / f"store{together}")
        assert pack_small(dataset, staging=store).chunks > 10
        shutil.rmtree(tmp_path / JOURNAL_FOLDER)
        written.append(contents(store))
    assert all(found == written[0] for found in written)
    found = read_back(store)
    for label, names in zip(labels, files, strict=True):
        expected = [(os.path.basename(path), Path(path).read_bytes()) for path in names]
        assert any(same(label, other) and expected == got for other, got in found.values())


def test_tar_reads_every_chunk(
    many: Any, pack_small: Pack, staging: LocalStore, chunk_paths: Callable[..., list[Path]]
) -> None:
    many.labels = [{"label": number} for number in range(300)]
    for codec, option in (("none", []), ("zstd", ["--zstd"])):
        pack_small(many, name=codec, codec=codec)
        names: list[str] = []
        for path in chunk_paths(staging):
            if f"/{codec}/" in str(path):
                done = subprocess.run(
                    ["tar", *option, "-tf", str(path)], capture_output=True, text=True, check=True
                )
                assert done.stderr == ""
                names += done.stdout.split()
        samples = {digest_key(f"data/{n % 3}/{n:05d}.bin".encode()).hex() for n in range(300)}
        wanted = [f"{sample}.{suffix}" for sample in samples for suffix in ("0.bin", "json")]
        assert sorted(name for name in names if not name.startswith("__")) == sorted(wanted)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_every_chunk(
    many: Any, pack_small: Pack, staging: LocalStore, chunk_paths: Callable[..., list[Path]]
) -> None:
    wanted = {
        digest_key(f"data/{n % 3}/{n:05d}.bin".encode()).hex(): (n, Path(many.files[n][0]).read_bytes())
        for n in range(300)
    }
    for codec, prefix in (("none", ""), ("zstd", "pipe:zstd -dcq ")):
        pack_small(many, name=codec, codec=codec)
        urls = [prefix + str(path) for path in chunk_paths(staging) if f"/{codec}/" in str(path)]
        found = {
            sample["__key__"]: (sample["cls"], sample["0.bin"])
            for sample in webdataset.WebDataset(urls, shardshuffle=False).decode()
        }
        assert found == wanted
    gc.collect()  # webdataset leaves files open: the warnings of that belong to this test


def test_members_say_nothing_of_time_place_and_owner(
    many: Any, pack_small: Pack, chunk_paths: Callable[..., list[Path]], staging: LocalStore
) -> None:
    pack_small(many, codec="none")
    with tarfile.open(chunk_paths(staging)[0]) as tar:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in tar.getmembers()}
    assert facts == {(0, 0, 0, "", "", 0o644, True)}


def test_what_does_not_shrink_is_stored_as_it_is(
    tmp_path: Path,
    listed: type[Any],
    write_files: Callable[..., list[str]],
    pack_small: Pack,
    staging: LocalStore,
) -> None:
    noise = write_files(tmp_path / "noise", 20, size=60_000)
    for number in range(20):
        (tmp_path / f"{number}.txt").write_bytes(b"the same words " * 4000)
    pack_small(listed([[path] for path in noise]), name="noise")
    pack_small(listed([[str(tmp_path / f"{number}.txt")] for number in range(20)]), name="words")
    assert {chunk.codec for chunk in manifest_of(staging, "noise").chunks} == {"none"}
    assert {chunk.codec for chunk in manifest_of(staging, "words").chunks} == {"zstd"}


def test_progress_grows_to_the_totals(many: Any, pack_small: Pack) -> None:
    told: list[PackProgress] = []
    pack_small(many)
    pack_small(many, chunk_bytes=64 << 10, on_progress=told.append)
    pack_small(many, chunk_bytes=64 << 10, on_progress=told.append)
    stages = {stage: list(steps) for stage, steps in itertools.groupby(told, key=lambda step: step.stage)}
    assert list(stages) == ["walk", "pack", "compare"]
    for steps in stages.values():
        assert [step.samples for step in steps] == sorted(step.samples for step in steps)
        assert (steps[-1].samples, steps[-1].total_samples, steps[-1].bytes) == (300, 300, 300_000)
    assert {step.total_bytes for step in stages["pack"]} == {300_000}
    assert len(stages["pack"]) > 3


def test_nothing_but_objects_of_the_store_is_in_staging(
    many: Any, pack_small: Pack, staging: LocalStore
) -> None:
    pack_small(many)
    files = {path.relative_to(staging.root).as_posix() for path in staging.root.rglob("*") if path.is_file()}
    assert files == {info.name for info in staging.list()}
    assert {name.split("/")[0] for name in files} == {"benchkit.json", "datasets"}


@pytest.mark.parametrize(
    "options", [{"chunk_bytes": 0}, {"codec": "gzip"}, {"workers": 0}, {"name": "../x"}, {"name": ""}]
)
def test_options_that_cannot_be_meant_are_refused(
    many: Any, pack_small: Pack, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        pack_small(many, **options)


def test_what_workers_get_can_be_pickled(tmp_path: Path, staging: LocalStore) -> None:
    """Where processes are spawned, job and tasks travel as pickles."""
    numbers = np.arange(3, dtype=np.uint32)
    checks = [int.from_bytes(digest_key(b"%d" % number)[:4], "little") for number in range(3)]
    job = make_job(Samples.of(Three(), tmp_path), staging)
    task = SegmentTask(
        number=4,
        segment="s",
        indices=numbers,
        repeats=np.zeros_like(numbers),
        checks=np.array(checks, dtype=np.uint32),
        known=None,
    )
    job, task = pickle.loads(pickle.dumps((job, task)))  # noqa: S301
    packed = pickle.loads(pickle.dumps(pack_segment(job, task)))  # noqa: S301
    assert (packed.number, packed.samples, packed.kept) == (4, 3, False)
    assert packed.segment.chunks[0].samples == 3
