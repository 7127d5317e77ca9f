"""Hugging Face datasets: Parquet files by way of Arrow, streamed as an iterable dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cases import BATCH_SIZE, Case, Place
from datasets import Dataset, Features, Value, load_dataset
from rows import MakeRow, collate_of, row_maker
from torch.utils.data import DataLoader

_SHUFFLE_BUFFER = 1000  # its default


class Loader(DataLoader[Any]):
    """A loader whose state is its dataset's, and whose passes are epochs."""

    epoch = 0

    def __iter__(self) -> Iterator[Any]:
        self.dataset.set_epoch(self.epoch)
        self.epoch += 1
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        return self.dataset.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.dataset.load_state_dict(state)


def pack(files: Sequence[str], out: Path, case: Case, place: Place) -> None:
    """Write Parquet files, compressed by Snappy, its default."""
    dataset = Dataset.from_generator(
        _generate,
        gen_kwargs={"numbered": list(enumerate(files))},
        features=Features(label=Value("int64"), data=Value("binary")),
        num_proc=case.workers if case.workers > 1 else None,
        cache_dir=str(place.cache),
    )
    out.mkdir(parents=True)
    parts = max(case.workers, -(-place.total_bytes // place.chunk_bytes))
    for part in range(parts):
        dataset.shard(parts, part, contiguous=True).to_parquet(out / f"{part:05d}.parquet")


def load(case: Case, place: Place) -> Loader:
    """Return a loader of the streamed dataset."""
    files = [str(path) for path in sorted(place.packed.iterdir())]
    options = {"split": "train", "streaming": True, "cache_dir": str(place.cache)}
    dataset = load_dataset("parquet", data_files=files, **options)
    if case.shuffle:
        dataset = dataset.shuffle(seed=0, buffer_size=_SHUFFLE_BUFFER)
    collate = partial(_collate, row_maker(case.form), collate_of(case.form))
    return Loader(dataset, batch_size=BATCH_SIZE, num_workers=case.workers, collate_fn=collate)


def _generate(numbered: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    for number, path in numbered:
        yield {"label": number, "data": Path(path).read_bytes()}


def _collate(make_row: MakeRow, collate: Callable[..., Any], samples: Sequence[Mapping[str, Any]]) -> Any:
    return collate([make_row(sample["label"], sample["data"]) for sample in samples])
