"""Cleaning: what a store holds and nothing counts on, left by uploads and packings that were cut off.

It is listed first and then removed, being looked at again in between: what something has come to count on
since then stays. Ages are told by the store's clock alone. Objects that are none of this project's are left
alone, and so are the chunks of a dataset of which it is not known which ones are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from benchkit.data.catalogue import dataset_of, list_superseded
from benchkit.data.intents import YOUNG_SECONDS, list_intents, read_clock
from benchkit.data.journal import Journal
from benchkit.data.named import NamedChunks
from benchkit.errors import CorruptError, FormatError, UsageError
from benchkit.format import layout
from benchkit.store.base import ObjectInfo, Store, Sweepable, Unfinished
from benchkit.store.bundles import Abandoned, Shelf

Kind = Literal["manifest", "chunk", "intent", "upload", "unfinished"]

_CHUNK = re.compile(r"chunks/[0-9a-f]{64}\.tar(\.zst)?")
_INTENT = re.compile(r"uploads/[0-9a-f]{32}\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that nothing counts on.

    Attributes:
        kind: A manifest that lost its number and was published again, a chunk that no manifest and no young
            intent names, the intent of a dead upload, a folder of files that no bundle's record names, or a
            write that was not finished.
        dataset: The dataset it belongs to; empty where that is not known.
        name: Its object name; of a write, the name of what was written, or what the store calls it.
        size: Bytes that it holds.
        modified: Since when it is there: seconds since 1970, the store's clock.
        write: The unfinished write.
    """

    kind: Kind
    dataset: str
    name: str
    size: int
    modified: float
    write: Unfinished | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What is to be removed; nothing has been removed yet.

    Attributes:
        leftovers: What nothing counts on, by kind and name.
        left_alone: Datasets that are left alone, or whose chunks are, and why.
        unknown: Objects among the datasets that are none of this project's; they are left alone.
        older_than_seconds: The age from which on intents and unfinished writes are of the dead.
        journals: Where packing has its journals, for staging.
        shelves: Where cut-off uploads of bundles were looked for.
        now: The store's time; 0 where there is no leftover.
    """

    leftovers: tuple[Leftover, ...]
    left_alone: dict[str, str]
    unknown: tuple[str, ...]
    older_than_seconds: float
    journals: Path | None
    shelves: tuple[Shelf, ...]
    now: float

    @property
    def freed_bytes(self) -> int:
        """The sizes of all leftovers together."""
        return sum(leftover.size for leftover in self.leftovers)

    def names(self, kind: Kind, dataset: str) -> list[str]:
        """Return the names of a dataset's leftovers of one kind."""
        return [left.name for left in self.leftovers if (left.kind, left.dataset) == (kind, dataset)]


def plan_clean(
    store: Store,
    *,
    older_than_seconds: float = YOUNG_SECONDS,
    dataset: str | None = None,
    journals: Path | None = None,
    shelves: Iterable[Shelf] = (),
) -> Cleaning:
    """Return what cleaning would remove.

    Args:
        store: The store.
        older_than_seconds: The age from which on an intent or an unfinished write is of a dead upload. A
            running one renews its intent every hour; 0 is for those who know that none runs.
        dataset: The only dataset to look at; None is all.
        journals: Where packing has its journals, for staging: a dataset that is being packed is left alone.
        shelves: Where to look for cut-off uploads of bundles, as checkpoints are.

    Raises:
        UsageError: The age is less than 0.
        StoreError: The store failed.
    """
    if older_than_seconds < 0:
        raise UsageError(f"an age of {older_than_seconds:g} seconds is less than 0")
    # Objects are listed before it is looked which are named, so that none of those that came since is taken.
    objects, unknown = _list_objects(store, dataset)
    leftovers: list[Leftover] = []
    left_alone: dict[str, str] = {}
    for name, infos in objects.items():
        with _held(journals, name) as busy:
            found, fault = ([], busy) if busy else _find(store, name, infos, older_than_seconds)
        leftovers += found
        if fault:
            left_alone[name] = fault
    shelves = tuple(shelves)
    for shelf in shelves:
        found, fault = _find_uploads(shelf, older_than_seconds)
        leftovers += found
        if fault:
            left_alone[f"{shelf.kind} {shelf.name}"] = fault
    writes = list(store.unfinished()) if isinstance(store, Sweepable) else []
    prefix = layout.dataset_prefix(dataset) if dataset else ""
    writes = [write for write in writes if write.name.startswith(prefix)]
    now = read_clock(store, min(objects, default="clock")) if leftovers or writes else 0.0
    oldest = now - older_than_seconds
    leftovers += [_of_write(write) for write in writes if write.abandoned or write.modified <= oldest]
    order = get_args(Kind)
    return Cleaning(
        leftovers=tuple(sorted(leftovers, key=lambda left: (order.index(left.kind), left.name))),
        left_alone=left_alone,
        unknown=tuple(unknown),
        older_than_seconds=older_than_seconds,
        journals=journals,
        shelves=shelves,
        now=now,
    )


def clean(store: Store, cleaning: Cleaning) -> dict[str, str]:
    """Remove what was planned, except for what something has come to count on since.

    Returns:
        Datasets that were planned and then left alone, or whose chunks were, and why.

    Raises:
        StoreError: The store failed; or an upload that began meanwhile has lost chunks.
    """
    left_alone: dict[str, str] = {}
    for dataset in sorted({left.dataset for left in cleaning.leftovers if left.dataset and not left.write}):
        with _held(cleaning.journals, dataset) as busy:
            fault = busy or _clean_dataset(store, dataset, cleaning)
        if fault:
            left_alone[dataset] = fault
    for shelf in cleaning.shelves:
        fault = _remove_uploads(shelf, cleaning)
        if fault:
            left_alone[f"{shelf.kind} {shelf.name}"] = fault
    for leftover in cleaning.leftovers:
        if leftover.write and isinstance(store, Sweepable):
            store.discard(leftover.write)
    return left_alone


def _list_objects(store: Store, dataset: str | None) -> tuple[dict[str, list[ObjectInfo]], list[str]]:
    """Return the objects of each dataset, by its name, and the names of unknown objects among them."""
    objects: dict[str, list[ObjectInfo]] = {}
    unknown = []
    for info in store.list(layout.dataset_prefix(dataset) if dataset else layout.DATASETS):
        owner = dataset_of(info.name)
        rest = info.name.removeprefix(layout.dataset_prefix(owner)) if owner else ""
        if owner and (
            layout.parse_version_name(owner, info.name) or _CHUNK.fullmatch(rest) or _INTENT.fullmatch(rest)
        ):
            objects.setdefault(owner, []).append(info)
        else:
            unknown.append(info.name)
    return objects, unknown


def _find(
    store: Store, dataset: str, objects: list[ObjectInfo], older_than_seconds: float
) -> tuple[list[Leftover], str]:
    """Return a dataset's leftovers, and why its chunks are not among them; empty where they are."""
    superseded = {version.object_name for version in list_superseded(store, dataset)}
    intents = {info.name for info in list_intents(store, dataset, young_seconds=older_than_seconds)[1]}
    fault, chunks = "", set()
    try:
        named = NamedChunks(store, dataset, young_seconds=older_than_seconds).look()
        prefix = layout.chunks_prefix(dataset)
        chunks = {info.name for info in objects if info.name.startswith(prefix)} - named
    except (CorruptError, FormatError) as error:
        fault = str(error)
    kinds: dict[Kind, set[str]] = {"manifest": superseded, "chunk": chunks, "intent": intents}
    found = [
        Leftover(kind=kind, dataset=dataset, name=info.name, size=info.size, modified=info.modified)
        for kind, names in kinds.items()
        for info in objects
        if info.name in names
    ]
    return found, fault


def _find_uploads(shelf: Shelf, older_than_seconds: float) -> tuple[list[Leftover], str]:
    """Return what uploads left on a shelf that were cut off, and why it is not known, if so."""
    try:
        found = shelf.abandoned(older_than_seconds=older_than_seconds)
    except (CorruptError, FormatError) as error:
        return [], str(error)
    return [
        Leftover(kind="upload", dataset="", name=_place(shelf, left), size=left.size, modified=left.modified)
        for left in found
    ], ""


def _remove_uploads(shelf: Shelf, cleaning: Cleaning) -> str:
    """Remove what still is left on a shelf, and return why nothing was, if so."""
    planned = {name for name in cleaning.names("upload", "") if name.startswith(shelf.prefix)}
    try:
        found = shelf.abandoned(older_than_seconds=cleaning.older_than_seconds) if planned else []
    except (CorruptError, FormatError) as error:
        return str(error)
    for left in found:
        for name in left.names if _place(shelf, left) in planned else ():
            shelf.store.delete(name)
    return ""


def _place(shelf: Shelf, left: Abandoned) -> str:
    return f"{shelf.prefix}files/{left.folder}/"


def _of_write(write: Unfinished) -> Leftover:
    return Leftover(
        kind="unfinished",
        dataset=dataset_of(write.name) or "",
        name=write.name or write.key,
        size=write.size,
        modified=write.modified,
        write=write,
    )


def _clean_dataset(store: Store, dataset: str, cleaning: Cleaning) -> str:
    """Remove what still is a dataset's leftover, and return why its chunks were not touched, if so."""
    young_seconds = cleaning.older_than_seconds
    superseded = {version.object_name for version in list_superseded(store, dataset)}
    for name in superseded.intersection(cleaning.names("manifest", dataset)):
        store.delete(name)
    fault = ""
    try:
        named = NamedChunks(store, dataset, young_seconds=young_seconds)
        named.remove_others(cleaning.names("chunk", dataset))
    except (CorruptError, FormatError) as error:
        fault = str(error)
    old = {info.name for info in list_intents(store, dataset, young_seconds=young_seconds)[1]}
    for name in old.intersection(cleaning.names("intent", dataset)):
        store.delete(name)
    return fault


@contextmanager
def _held(journals: Path | None, dataset: str) -> Iterator[str]:
    """Hold a dataset's packing journal, where there are journals; gives why not, if a packing has it."""
    with ExitStack() as stack:
        busy = ""
        if journals:
            try:
                stack.enter_context(Journal(journals / f"{dataset}.jsonl", dataset))
            except UsageError as error:
                busy = str(error)
        yield busy
