"""The runs of a project: those on this machine and those in its remote, as one list."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchkit.data.catalogue import open_catalogue
from benchkit.errors import BenchKitError, CorruptError, FormatError, NotFoundError, UsageError
from benchkit.format.digests import digest_bytes
from benchkit.format.layout import EXPERIMENTS
from benchkit.settings import Settings
from benchkit.store.base import ObjectInfo, Store
from benchkit.store.urls import open_remote
from benchkit.train.run_folder import RUN_FILE, is_metrics_name, is_written, metrics_files, read_record
from benchkit.train.run_record import RunRecord, RunState, is_run_id, state_of
from benchkit.train.run_sync import metrics_bytes, read_stored, stored_name

RUNS_FOLDER = Path(".benchkit") / "experiments"
_READERS = 8
_SHORT_CHARACTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """A run that was found.

    Attributes:
        record: What is known of it, from where there is more of it.
        state: How it stands; one whose process is gone was interrupted.
        folder: Its folder on this machine, if it has one.
        store: The remote that has it, if one has.
        stored: Its record there.
    """

    record: RunRecord
    state: RunState
    folder: Path | None = None
    store: Store | None = None
    stored: RunRecord | None = None

    @property
    def where(self) -> str:
        """Where it is: `here`, `remote` or both."""
        return " + ".join([*["here"] * bool(self.folder), *["remote"] * bool(self.store)])

    @property
    def short(self) -> str:
        """The end of its id, which is enough to name it."""
        return self.record.run[-_SHORT_CHARACTERS:]

    @property
    def is_read_here(self) -> bool:
        """Whether the folder on this machine has at least as much of it as the remote."""
        return self.record is not self.stored


@dataclass(frozen=True, slots=True, kw_only=True)
class RunList:
    """The runs that were found, oldest first, and why others were not: errors that hid some."""

    entries: tuple[RunEntry, ...]
    problems: tuple[BenchKitError, ...]


def list_here(project: Path) -> RunList:
    """Return the runs on this machine."""
    problems: list[BenchKitError] = []
    here = _list_here(project / RUNS_FOLDER, problems)
    return RunList(entries=tuple(here.values()), problems=tuple(problems))


def list_runs(settings: Settings) -> RunList:
    """Return the runs of a project; a remote that fails hides only its own."""
    problems: list[BenchKitError] = []
    here = _list_here(settings.project / RUNS_FOLDER, problems)
    stored: dict[str, RunEntry] = {}
    try:
        stored = _list_stored(open_remote(settings), problems)
    except BenchKitError as error:
        problems.append(error)
    merged = [
        _merge(here[run], stored[run]) if run in here and run in stored else here.get(run) or stored[run]
        for run in sorted({*here, *stored})
    ]
    return RunList(entries=tuple(merged), problems=tuple(problems))


def find_run(found: RunList, text: str) -> RunEntry:
    """Return the run that is meant: by its id, the beginning of that or of its last part, or by its name.

    Raises:
        NotFoundError: None is.
        UsageError: Several are.
    """
    entries = found.entries
    by_id = [
        entry
        for entry in entries
        if text and (entry.record.run.startswith(text) or entry.short.startswith(text))
    ]
    matching = by_id or [entry for entry in entries if entry.record.name == text]
    if len(matching) == 1:
        return matching[0]
    if matching:
        what = "begins the ids" if by_id else "is the name"
        raise UsageError(f"{text!r} {what} of {len(matching)} runs: {_names(matching)}; write more of an id")
    if found.problems:
        raise found.problems[0]
    raise NotFoundError(
        f"there is no run {text!r}; there are: {_names(entries)}"
        if entries
        else f"there is no run {text!r}, nor any: a BenchAccelerateTracker or an ExperimentLogger makes one"
    )


def read_metrics(entry: RunEntry) -> tuple[bytes, bool]:
    """Return the lines of a run's metrics, and whether a line without an end was left out.

    Raises:
        CorruptError: A file in the store is not what the record says.
    """
    if entry.is_read_here and entry.folder:
        try:
            data = b"".join(file.read_bytes() for file in metrics_files(entry.folder))
        except OSError as error:
            raise NotFoundError(f"the metrics of run {entry.record.run} cannot be read: {error}") from error
        end = data.rfind(b"\n") + 1
        return data[:end], end < len(data)
    return b"".join(_stored_metrics(entry)), False


def _stored_metrics(entry: RunEntry) -> Iterable[bytes]:
    store, record = entry.store, entry.record
    for file in record.files:
        if store and is_metrics_name(file.path):
            name = stored_name(record.run, file.path)
            info = store.stat(name)  # a file that is cut short is told apart from a store that fails
            data = store.read(name, length=file.size) if info and info.size >= file.size else b""
            if digest_bytes(data) != file.digest:
                raise CorruptError(
                    f"{name} in {store.url} is missing or corrupt; the run's other files may be whole"
                )
            yield data


def _list_here(folder: Path, problems: list[BenchKitError]) -> dict[str, RunEntry]:
    entries = {}
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for run in filter(is_run_id, names):
        path = folder / run
        try:
            record = read_record(path)
        except FileNotFoundError:  # killed as it began
            continue
        except FormatError as error:
            problems.append(error)
            continue
        heard = 0.0 if is_written(path) else math.inf
        entries[run] = RunEntry(record=record, state=state_of(record, heard_seconds=heard), folder=path)
    return entries


def _list_stored(store: Store, problems: list[BenchKitError]) -> dict[str, RunEntry]:
    open_catalogue(store)
    infos = [info for info in store.list(EXPERIMENTS) if _run_of(info)]

    def read(info: ObjectInfo) -> RunEntry | None:
        try:
            record = read_stored(store, _run_of(info))
        except BenchKitError as error:
            problems.append(error)
            return None
        if record is None:  # removed just now
            return None
        state = state_of(record, heard_seconds=time.time() - info.modified)
        return RunEntry(record=record, state=state, store=store, stored=record)

    with ThreadPoolExecutor(_READERS, thread_name_prefix="benchkit-experiments") as pool:
        return {entry.record.run: entry for entry in pool.map(read, infos) if entry}


def _run_of(info: ObjectInfo) -> str:
    """Return the run whose record an object is by its name, empty for other objects."""
    parts = info.name.split("/")
    return parts[1] if len(parts) == 3 and parts[2] == RUN_FILE and is_run_id(parts[1]) else ""


def _merge(here: RunEntry, stored: RunEntry) -> RunEntry:
    """Return a run that is in both places, read from where there is more of it; the state is its writer's."""
    ours = sum(file.stat().st_size for file in metrics_files(here.folder)) if here.folder else 0
    is_copy = bool(here.record.files)  # a pulled run: its record came from the store, and names files there
    if here.state == "running" or (ours, here.record.updated) >= (
        metrics_bytes(stored.record),
        stored.record.updated,
    ):
        state = stored.state if is_copy and here.state != "running" else here.state
        return replace(here, state=state, store=stored.store, stored=stored.record)
    return replace(stored, folder=here.folder)


def _names(entries: Sequence[RunEntry]) -> str:
    """Return the newest runs as a person tells them apart."""
    newest = [f"{entry.record.run} ({entry.record.name})" for entry in reversed(entries)]
    return ", ".join(newest[:5]) + (", …" if len(newest) > 5 else "")
