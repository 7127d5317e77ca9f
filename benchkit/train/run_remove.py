"""Removing a run: its objects in the remote and its folder on this machine, unless a process writes it.

Its record, which lists it, goes last: a removal that was cut off is seen, and goes on when it is asked again.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchkit.errors import StoreError, UsageError
from benchkit.format.layout import EXPERIMENTS
from benchkit.settings import Settings
from benchkit.store.base import ObjectInfo, Store
from benchkit.store.urls import open_remote
from benchkit.train.run_folder import RUN_FILE, hold_ended
from benchkit.train.run_record import PARTS, is_run_id
from benchkit.train.runs import RUNS_FOLDER, RunList, find_run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRemains:
    """All that there is of a run.

    Attributes:
        run: Its id.
        name: What its owner calls it, if its record can be read.
        folder: Its folder on this machine, if it has one.
        store: The remote.
        objects: What the remote has of it, the record last.
    """

    run: str
    name: str | None
    folder: Path | None
    store: Store
    objects: tuple[ObjectInfo, ...]


def find_remains(settings: Settings, found: RunList, text: str) -> RunRemains:
    """Return what there is of the run that is meant; by its whole id also one whose record cannot be read.

    Raises:
        NotFoundError: There is none.
        UsageError: Several are meant, or a process writes it.
        StoreError: The remote failed.
    """
    entry = next((entry for entry in found.entries if entry.record.run == text), None)
    if entry is None and not is_run_id(text):
        entry = find_run(found, text)
    run = entry.record.run if entry else text
    if entry and entry.state == "running":
        host = f"{entry.record.environment.get('host', 'another machine')!s:.60}"
        raise UsageError(f"run {run} is being written on {host}: end it first")
    store = open_remote(settings)
    objects = list(store.list(f"{EXPERIMENTS}{run}/"))
    objects.sort(key=lambda info: info.name.endswith(f"/{run}/{RUN_FILE}"))
    folder = settings.project / RUNS_FOLDER / run
    if not objects and not folder.is_dir():
        find_run(found, text)  # which says what there is
    return RunRemains(
        run=run,
        name=entry.record.name if entry else None,
        folder=folder if folder.is_dir() else None,
        store=store,
        objects=tuple(objects),
    )


def remove_run(remains: RunRemains) -> None:
    """Remove a run in the remote, and then on this machine.

    Raises:
        UsageError: A process has begun to write it.
        StoreError: The remote or the disk failed; what is left can be removed by another call.
    """
    with ExitStack() as held:
        if remains.folder:
            held.enter_context(hold_ended(remains.folder))
        for info in remains.objects:
            remains.store.delete(info.name)
        if remains.folder:
            try:
                for part in PARTS:
                    shutil.rmtree(remains.folder / part, ignore_errors=True)
                shutil.rmtree(remains.folder)
            except OSError as error:
                raise StoreError(f"{remains.folder} cannot be removed: {error}") from error
