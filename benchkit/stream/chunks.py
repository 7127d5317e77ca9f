"""`IterableChunk`: what a user's class inherits to say what to do with a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from benchkit.errors import UsageError
from benchkit.format.sample import MemberFile
from benchkit.stream.options import Shard, check_count
from benchkit.stream.sharing import resolve_shard
from benchkit.stream.source import Assigned, Selection, Source


class IterableChunk(IterableDataset[Any]):
    """A dataset version as a stream of samples; override `_data_iterator` to decode and transform them.

    Args:
        name: Name of the dataset.
        cloud: True reads the project's remote store, False its staging.
        version: Number of the version; None is the newest when the dataset is first used, or goes to another
            process. The ranks of a process group all use the one that the first of them found.
        shuffle: True visits the samples in a new order each epoch, False in written order.
        seed: What the shuffled order (and each batch's random numbers) derive from.
        open_chunks: How many chunks the order interleaves; more mix better and take more cache. None is 32
            when shuffled, 1 when not.

    Example::

        class Digits(IterableChunk):
            def __init__(self, name, cloud, is_train):
                super().__init__(name, cloud, shuffle=is_train)

            def _data_iterator(self):
                for label, files in super()._data_iterator():
                    yield label, decode_image(files[0], mode="L")
    """

    collate_fn: Callable[[list[Any]], Any] | None = None
    """Makes a batch of a list of rows where `LoaderOptions` names none; None is torch's `default_collate`."""

    def __init__(
        self,
        name: str,
        cloud: bool,
        *,
        version: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        open_chunks: int | None = None,
    ) -> None:
        super().__init__()
        self.__source = Source(
            Selection(
                name=name, cloud=cloud, version=version, shuffle=shuffle, seed=seed, open_chunks=open_chunks
            )
        )
        self.__epoch = 0
        self.__shard: Shard | None = None

    def _data_iterator(self) -> Iterator[tuple[Any, list[MemberFile] | None]]:
        """Return an iterator over `(label, files)` of the samples at hand.

        The label is what `get_label_and_numeric_data` returned; each file is an in-memory binary file with
        its original base name as `.name`; a sample without files has None for them.
        """
        return source_of(self).samples()

    def __len__(self) -> int:
        """Return the number of samples of the whole dataset."""
        return source_of(self).total

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next pass over the dataset itself follows."""
        self.__epoch = check_count("epoch", epoch, least=0)

    def __iter__(self) -> Iterator[Any]:
        """Iterate this process's and this worker's part of the samples, unbatched.

        Raises:
            UsageError: Accelerate runs several processes: it would split what is split already.
        """
        source = source_of(self)
        sharing = source.sharing()
        if sharing.processes > 1:
            raise UsageError(
                f"{type(self).__name__} is iterated outside its loader while Accelerate runs "
                f"{sharing.processes} processes, and samples would be lost: "
                "make the loader with benchkit.get_dataset(...)"
            )
        self.__shard = shard = resolve_shard(sharing.shard, self.__shard)
        worker = get_worker_info()
        parts = shard.count * (worker.num_workers if worker else 1)
        part = shard.index * (worker.num_workers if worker else 1) + (worker.id if worker else 0)
        start, end = (source.total * edge // parts for edge in (part, part + 1))
        opened = source.open()
        opened.reader.keep = opened.room(workers=worker.num_workers if worker else 0).keep
        return self.__follow(source.assign(self.__epoch, np.arange(start, end, dtype=np.int64)))

    def __follow(self, assigned: Assigned) -> Iterator[Any]:
        """Yield what `_data_iterator` makes of these samples; another pass may have begun meanwhile."""
        source_of(self).assigned = assigned
        yield from self._data_iterator()


ChunkDataset = IterableChunk
"""The documents' other name for `IterableChunk`."""


def source_of(chunk: IterableChunk) -> Source:
    """Return the source behind a user's object.

    Raises:
        UsageError: Its class did not call `super().__init__`.
    """
    source = getattr(chunk, "_IterableChunk__source", None)
    if not isinstance(source, Source):
        raise UsageError(f"{type(chunk).__name__}.__init__ must call super().__init__(name, cloud)")
    return source
