"""litdata in `exactness.py`: an optimised dataset, streamed by its own loader."""

from __future__ import annotations

from pathlib import Path

import exactness_torchvision  # noqa: F401  litdata imports torchvision
import litdata
import numpy as np
from exactness_samples import PER_CHUNK, content, sample_of


class Numbers(litdata.StreamingDataset):
    """The samples, counted as they are loaded."""

    def __getitem__(self, index: object) -> tuple[int, np.ndarray]:
        sample = super().__getitem__(index)
        return sample_of(sample["label"], sample["data"])


def write(folder: Path, samples: int) -> None:
    """Write the samples as litdata's chunks."""
    litdata.optimize(
        _make,
        list(range(samples)),
        output_dir=str(folder),
        num_workers=1,
        chunk_size=PER_CHUNK,
        verbose=False,
    )


def load(folder: Path, cache: Path, way: str, workers: int, batch_size: int, *, alone: bool) -> object:
    """Return litdata's loader; the `way` is `drop_last`, its default, or `keep last`, as for validation."""
    del alone
    dataset = Numbers(f"local:{folder}", cache_dir=str(cache), drop_last=way == "drop_last")
    return litdata.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers)


def _make(number: int) -> dict[str, object]:
    return {"label": number, "data": content(number)}
