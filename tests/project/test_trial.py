"""Laws of the trial: what arrives is counted, and what would not train is told before it is uploaded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchkit.data import ProcessorDataset
from benchkit.data.pack import pack
from benchkit.errors import DatasetError, NotFoundError, SampleError, StallError, UsageError
from benchkit.project.trial import TrialReport, try_dataset
from benchkit.project.userdata import UserDataset
from benchkit.store.local import LocalStore
from benchkit.stream import IterableChunk

SAMPLES = 70


class Words(ProcessorDataset):
    """Seventy small files, each with its own number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for number in range(SAMPLES):
            (folder / f"{number}.txt").write_text(str(number))

    def __len__(self) -> int:
        return SAMPLES

    def get_file(self, item: int) -> list[str]:
        return [str(self.folder / f"{item}.txt")]

    def get_label_and_numeric_data(self, item: int) -> int:
        return item


@pytest.fixture
def words(project: Path) -> Words:
    """Return a dataset that is packed into the project's staging as `words`."""
    dataset = Words(project / "data")
    pack(dataset, "words", staging=LocalStore(project / "ProjectDatasets"), project=project, workers=1)
    return dataset


class Plain(IterableChunk):
    """Yields label and number."""

    def _data_iterator(self):
        for label, files in super()._data_iterator():
            yield label, int(files[0].read())


def trial(words: Words, chunk_class: type[IterableChunk], *args: Any, workers: int = 0, **kwargs: Any):
    entry = UserDataset(processor=words, chunk_class=chunk_class, name="words", args=args, kwargs=kwargs)
    return try_dataset(entry, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kwargs", [{}, {"shuffle": True, "open_chunks": 3}])
def test_every_sample_arrives_once_and_the_filling_of_the_last_batch_does_not_count(
    words: Words, workers: int, kwargs: dict[str, Any]
) -> None:
    report = trial(words, Plain, workers=workers, **kwargs)
    assert isinstance(report, TrialReport)
    assert (report.version, report.samples, report.rows, report.batches) == ("words@1", 70, 70, 3)


def test_progress_ends_at_the_totals(words: Words) -> None:
    told: list[tuple[tuple[int, int], tuple[int, int]]] = []
    entry = UserDataset(processor=words, chunk_class=Plain, name="words", args=[], kwargs={})
    report = try_dataset(entry, workers=0, on_progress=lambda *progress: told.append(progress))
    assert [samples for samples, _ in told] == [(32, 70), (64, 70), (70, 70)]
    assert told[-1][1] == (report.tar_bytes, report.tar_bytes)


def test_batches_of_large_samples_have_fewer_but_two(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchkit.project.trial.BATCH_BYTES", 20_000)
    report = trial(words, Plain)
    assert (report.samples, report.rows) == (70, 70)
    assert report.batches == 8  # of 9 samples, about 2 KB each
    monkeypatch.setattr("benchkit.project.trial.BATCH_BYTES", 1)
    assert trial(words, Plain).batches == 35


class CountsReads(IterableChunk):
    reads = 0

    def _data_iterator(self):
        for label, files in super()._data_iterator():
            CountsReads.reads += 1
            yield label, int(files[0].read())


def test_a_dataset_smaller_than_a_batch_is_read_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Words, "__len__", lambda self: 3)
    words = Words(project / "data")
    pack(words, "words", staging=LocalStore(project / "ProjectDatasets"), project=project, workers=1)
    report = trial(words, CountsReads)
    assert (report.samples, report.batches, CountsReads.reads) == (3, 1, 3)


class Twice(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label
            yield -label


class Odd(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            if label % 2:
                yield label


def test_an_iterator_may_multiply_and_filter_for_samples_are_counted_where_they_go_in(words: Words) -> None:
    with pytest.warns(UserWarning, match="192 rows of the 96 samples of words@1"):
        assert trial(words, Twice).rows == 2 * SAMPLES
    with pytest.warns(UserWarning, match="rows of the 96 samples of words@1"):
        report = trial(words, Odd)
    assert report.samples == SAMPLES
    assert 0 < report.rows < SAMPLES


class FirstOnly(IterableChunk):
    def _data_iterator(self):
        yield next(super()._data_iterator())[0]


class NoSuper(IterableChunk):
    def _data_iterator(self):
        yield from range(32)


@pytest.mark.filterwarnings("ignore:_data_iterator made:UserWarning")
@pytest.mark.parametrize("chunk_class", [FirstOnly, NoSuper])
def test_an_iterator_that_leaves_samples_out_is_refused(
    words: Words, chunk_class: type[IterableChunk]
) -> None:
    with pytest.raises(
        DatasetError, match=rf"of the 70 samples of 'words'.*{chunk_class.__name__}\._data_it"
    ):
        trial(words, chunk_class)


class Fails(IterableChunk):
    def _data_iterator(self):
        for label, files in super()._data_iterator():
            if label == 41:
                raise KeyError("no such class")
            yield label, int(files[0].read())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_fails_is_named_with_its_chunk_and_original_file(words: Words, workers: int) -> None:
    with pytest.raises(SampleError, match=r"'data/41\.txt' \('41\.txt'\) in chunk .* of words@1: KeyError"):
        trial(words, Fails, workers=workers)


class Ragged(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield np.zeros(1 + label % 2)


def test_rows_that_do_not_collate_are_told(words: Words) -> None:
    with pytest.raises(SampleError, match="do not make a batch"):
        trial(words, Ragged)


def test_files_that_are_not_decoded_are_told_for_they_do_not_collate(words: Words) -> None:
    with pytest.raises(SampleError, match="do not make a batch"):
        trial(words, IterableChunk)


class Empty(IterableChunk):
    def _data_iterator(self):
        for _ in super()._data_iterator():
            pass
        yield from ()


def test_an_iterator_that_yields_nothing_at_all_is_told(words: Words) -> None:
    with pytest.raises(DatasetError, match="yielded nothing"):
        trial(words, Empty)


class Dies(IterableChunk):
    def _data_iterator(self):
        time.sleep(0.5)  # by then it is waited for
        os._exit(3)


def test_a_worker_that_dies_is_an_error_and_no_hang(words: Words) -> None:
    with pytest.raises(StallError, match=r"a worker .*died"):
        trial(words, Dies, workers=2)


class Silent(IterableChunk):
    def __init__(self, name, cloud): ...


class Needs(IterableChunk):
    def __init__(self, name, cloud, is_train):
        super().__init__(name, cloud, shuffle=is_train)


class Elsewhere(IterableChunk):
    def __init__(self, name, cloud):
        super().__init__("words", True)


def test_a_class_that_forgets_its_parents_constructor_is_told(words: Words) -> None:
    with pytest.raises(UsageError, match=r"Silent.__init__ must call super\(\).__init__\(name, cloud\)"):
        trial(words, Silent)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [([], {}), ([True, False], {}), ([], {"train": True}), ([True], {"loader": 1}), ([], {1: 2})],
)
def test_arguments_that_do_not_fit_the_class_are_told_with_both(
    words: Words, args: list[Any], kwargs: dict[Any, Any]
) -> None:
    entry = UserDataset(processor=words, chunk_class=Needs, name="words", args=args, kwargs=kwargs)
    with pytest.raises(
        DatasetError, match=r"Needs cannot be made of args .*main\(\) lists for 'words': Type"
    ):
        try_dataset(entry, workers=0)


def test_a_class_that_reads_the_remote_whatever_it_is_told_is_refused(words: Words, project: Path) -> None:
    with pytest.raises(NotFoundError):
        trial(words, Elsewhere)
    pack(words, "words", staging=LocalStore(project / "store"), project=project, workers=1)
    with pytest.raises(DatasetError, match=r"Elsewhere reads words@1 of file://.*not 'words' of staging"):
        trial(words, Elsewhere)


def test_what_is_not_packed_cannot_be_tried(project: Path) -> None:
    entry = UserDataset(
        processor=Words(project / "data"), chunk_class=Plain, name="words", args=[], kwargs={}
    )
    with pytest.raises(NotFoundError, match="migrate-data"):
        try_dataset(entry, workers=0)
