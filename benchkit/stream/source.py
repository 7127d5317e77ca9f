"""The source behind an `IterableChunk`: one version of a dataset, its order, and the samples assigned now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from operator import length_hint
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
from torch.utils.data import get_worker_info

from benchkit.data.catalogue import Version, find_version, open_catalogue, read_manifest
from benchkit.errors import BenchKitError, UsageError
from benchkit.format.layout import check_dataset_name
from benchkit.format.manifest import Manifest
from benchkit.format.sample import Sample
from benchkit.settings import Settings, load_settings, read_local_world
from benchkit.store.base import Store
from benchkit.store.layered import open_staging
from benchkit.store.urls import open_remote
from benchkit.stream.cache import TIMEOUT_SECONDS, ChunkCache
from benchkit.stream.options import check_counts
from benchkit.stream.order import Order
from benchkit.stream.patience import await_fetches, call_patiently
from benchkit.stream.reader import ChunkReader, check_rows
from benchkit.stream.room import Room, share_room
from benchkit.stream.sharing import Sharing, agree, look_around

SHUFFLED_LANES = 32
UNSHUFFLED_LANES = 1
_LOCATED_AT_ONCE = 4096
"""So many positions are looked up together: an iterator without a loader is assigned all there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which samples in which order: the arguments of `IterableChunk`."""

    name: str
    cloud: bool = False
    version: int | None = None
    shuffle: bool = False
    seed: int = 0
    open_chunks: int | None = None

    def __post_init__(self) -> None:
        check_dataset_name(self.name)
        for name, value in (("cloud", self.cloud), ("shuffle", self.shuffle)):
            if not isinstance(value, bool):
                raise UsageError(f"{name} is {value!r:.60}, not True or False")
        check_counts(self, seed=0)
        for name in ("version", "open_chunks"):
            if getattr(self, name) is not None:
                check_counts(self, **{name: 1})
        if self.seed >= 1 << 63:
            raise UsageError(f"seed {self.seed} is outside 0..2^63 - 1")

    @property
    def lanes(self) -> int:
        """The number of lanes that the order interleaves."""
        return self.open_chunks or (SHUFFLED_LANES if self.shuffle else UNSHUFFLED_LANES)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedVersion:
    """A version that has been looked up, and what reads its rows.

    Attributes:
        selection: What was asked for.
        settings: The project's.
        store: Where it is.
        version: The version.
        manifest: Its manifest.
        order: The order of its live rows.
        cache: The machine's cache.
        reader: Reads rows in this process; sent to another one it begins anew there.
    """

    selection: Selection
    settings: Settings
    store: Store
    version: Version
    manifest: Manifest
    order: Order
    cache: ChunkCache
    reader: ChunkReader

    @property
    def tar_bytes(self) -> list[int]:
        """Bytes of each tar."""
        return [chunk.tar_bytes for chunk in self.manifest.chunks]

    def room(self, *, workers: int) -> Room:
        """Return how many chunks each process of this machine may hold open."""
        return share_room(
            limit_bytes=self.settings.cache_limit_bytes,
            tar_bytes=self.tar_bytes,
            lanes=self.selection.lanes,
            processes=read_local_world(),
            workers=workers,
        )


def open_version(
    selection: Selection, *, digest: str | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> OpenedVersion:
    """Look up a selection's version: the one with the digest, else the one it names, else the newest.

    The newest is the one that the first rank found, on every rank.

    Raises:
        ProjectError: There is no project here.
        NotFoundError: The store has no such dataset or version.
        CorruptError: Its manifest contradicts itself.
        StallError: The store has not given it in time.
    """
    settings = load_settings()
    store: Store = open_remote(settings) if selection.cloud else open_staging(settings)

    def look_up() -> tuple[Version, Manifest]:
        open_catalogue(store)
        version = find_version(store, selection.name, number=selection.version, digest=digest)
        if selection.version is None and digest is None:
            where = "remote" if selection.cloud else "staging"
            newest = agree(f"the newest {selection.name} in the {where} store", version.digest)
            if newest != version.digest:
                version = find_version(store, selection.name, digest=newest)
        return version, read_manifest(store, version)

    what = f"looking up {selection.name!r} in {store.url}"
    version, manifest = call_patiently(look_up, state=bool, seconds=timeout_seconds, what=what)
    cache = ChunkCache(folder=settings.cache_dir, limit_bytes=settings.cache_limit_bytes)
    return OpenedVersion(
        selection=selection,
        settings=settings,
        store=store,
        version=version,
        manifest=manifest,
        order=Order(
            rows=check_rows(manifest, version.label),
            seed=selection.seed,
            shuffle=selection.shuffle,
            lanes=selection.lanes,
        ),
        cache=cache,
        reader=ChunkReader(
            store=store,
            cache=cache,
            manifest=manifest,
            version=version,
            keep=1,
            scattered=selection.shuffle,
        ),
    )


class Assigned:
    """Some positions of an epoch and what has been read of them: what one `_data_iterator` is handed.

    Attributes:
        epoch: Number of the pass.
    """

    def __init__(
        self, opened: OpenedVersion, epoch: int, positions: npt.NDArray[np.int64], *, early: bool
    ) -> None:
        self.epoch = epoch
        self._opened, self._positions, self._early = opened, positions, early
        self._read = 0
        self._waiting: Iterator[Sample] = iter(())

    @property
    def handed(self) -> npt.NDArray[np.int64]:
        """The positions that have been handed out, (n,), int64."""
        return self._positions[: self._read - length_hint(self._waiting)]

    @property
    def rest(self) -> npt.NDArray[np.int64]:
        """The positions that have not been handed out, (n,), int64."""
        return self._positions[len(self.handed) :]

    def samples(self) -> Iterator[Sample]:
        """Return an iterator over label and files of each sample; `handed` grows as they go out."""
        return chain.from_iterable(self._read_on())

    def _read_on(self) -> Iterator[Iterator[Sample]]:
        """Yield the samples as they are read, some at a time, each time as an iterator that is counted."""
        for start in range(0, len(self._positions), _LOCATED_AT_ONCE):
            part = self._positions[start : start + _LOCATED_AT_ONCE]
            chunks, rows = self._opened.order.locate(self.epoch, part)
            for samples in self._opened.reader.read(chunks, rows, early=self._early):
                self._read += len(samples)
                self._waiting = iter(samples)
                yield self._waiting

    def describe_last(self) -> str:
        """Return the sample that was handed out last, as people look for it."""
        [chunk], [row] = self._opened.order.locate(self.epoch, self.handed[-1:])
        return self._opened.reader.describe(chunk, row)


class Source:
    """Where `_data_iterator` has its samples from: a version, and what of it is assigned at the moment.

    Sent to another process it takes along the version, so that all who share it read the same, and who shares
    it, which a worker by spawn cannot see. A fork has the version too.

    Attributes:
        assigned: What `samples()` yields; None is nothing.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self._timeout_seconds = TIMEOUT_SECONDS
        _unopened.add(self)
        self.assigned: Assigned | None = None
        self._opened: OpenedVersion | None = None
        self._told: tuple[int, Sharing | None] = (os.getpid(), None)

    def __getstate__(self) -> dict[str, Any]:
        self.open()
        return self.__dict__ | {"assigned": None, "_told": self.sharing()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _told=(os.getpid(), state["_told"]))

    def serve_loader(self, *, timeout_seconds: float) -> None:
        """Leave it to a loader when the version is looked up, and how long that may take."""
        self._timeout_seconds = timeout_seconds
        _unopened.discard(self)

    def open(self, *, digest: str | None = None) -> OpenedVersion:
        """Return the version, looked up at the first call; another digest looks it up again."""
        if self._opened is None or digest not in (None, self._opened.version.digest):
            self._opened = open_version(self.selection, digest=digest, timeout_seconds=self._timeout_seconds)
            _unopened.discard(self)
        return self._opened

    def sharing(self) -> Sharing:
        """Return who shares the samples; a worker that this was sent to is told by who sent it."""
        process, told = self._told
        return told if told and get_worker_info() and process == os.getpid() else look_around()

    @property
    def total(self) -> int:
        """The number of samples."""
        return self.open().order.total

    def assign(self, epoch: int, positions: npt.NDArray[np.int64], *, early: bool = False) -> Assigned:
        """Say which positions of which epoch the next `samples()` yields, and whether it may read early."""
        self.assigned = Assigned(self.open(), epoch, positions, early=early)
        return self.assigned

    def samples(self) -> Iterator[Sample]:
        """Return an iterator over label and files of each sample that is assigned now."""
        return self.assigned.samples() if self.assigned else iter(())


_unopened: WeakSet[Source] = WeakSet()
"""Those whose version nobody has looked up; loaders do so before they make workers."""


def _before_fork() -> None:
    """Look up versions before a plain `DataLoader` makes workers: each would do so, in every pass anew."""
    if sources := list(_unopened):
        for source in sources:
            with suppress(BenchKitError):  # the worker that needs it says why there is none
                source.open()
        await_fetches()


os.register_at_fork(before=_before_fork)
