"""A run in the process that writes it: how it is begun, gone on with, written and ended."""

from __future__ import annotations

import atexit
import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchkit.errors import BenchKitError, UsageError
from benchkit.settings import Settings, child_environment, environment_values, load_settings
from benchkit.store.base import Store
from benchkit.store.urls import open_remote
from benchkit.stream.loader import ChunkLoader
from benchkit.train.exits import EXITS, describe_end
from benchkit.train.redaction import is_secret_name, redact_text, redact_tree
from benchkit.train.revision import describe_code
from benchkit.train.run_curves import read_curves
from benchkit.train.run_folder import RUN_FILE, RunFolder, metrics_files, read_lines, read_record
from benchkit.train.run_record import RunDataset, RunRecord, check_run_name, is_run_id, new_run_id, state_of
from benchkit.train.run_sync import RunSender, RunSync, read_stored, stored_name
from benchkit.train.run_values import check_step, encode_logged, plain_configuration
from benchkit.train.runs import RUNS_FOLDER
from benchkit.train.surroundings import describe_environment

SYNC_SECONDS = 30.0
_MAX_ERROR_CHARACTERS = 500
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run is to be.

    Attributes:
        name: What its owner calls it; None is the project's id.
        epochs: How many passes are planned.
        resume: Go on with the newest run of that name if it did not finish, else begin a new one.
        sync_seconds: How often it is sent to the remote while it runs; 0 keeps it on this machine.
    """

    name: str | None = None
    epochs: int | None = None
    resume: bool = False
    sync_seconds: float = SYNC_SECONDS

    def __post_init__(self) -> None:
        if self.name is not None:
            check_run_name(self.name)
        if self.epochs is not None and (type(self.epochs) is not int or self.epochs < 0):
            raise UsageError(f"epochs {self.epochs!r:.60} is no number of passes")
        if not 0 <= self.sync_seconds <= 86_400:
            raise UsageError(f"sync_seconds {self.sync_seconds} is outside 0..86400; 0 sends nothing")


class RunWriter:
    """The run in the process that writes it, from `begin_run` to `finish`."""

    def __init__(self, folder: RunFolder, sync: RunSync | None, *, step: int, launched: bool = False) -> None:
        self.folder = folder
        self._launched = launched
        self._sync = sync
        self._step = step
        self._secrets = environment_values(is_secret_name)
        atexit.register(self._end_with_python)
        EXITS.watch()

    def log(self, values: Mapping[str, Any], step: object = None) -> None:
        """Write values of a step; None is the one behind the largest so far."""
        number = self._step if step is None else check_step(step)
        self.folder.append(encode_logged(values, number, time.time()))
        if number >= self._step:
            self._step = number + 1

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to the configuration; what is configured again is replaced."""
        added = redact_tree(plain_configuration(values), self._secrets)
        self.folder.update(configuration={**self.folder.record.configuration, **added})

    def record_datasets(self, loaders: list[ChunkLoader]) -> None:
        """Note which versions the loaders read."""
        before = self.folder.record.datasets
        datasets = {dataset.label: dataset for dataset in before}
        for loader in loaders:
            with suppress(BenchKitError):  # one that cannot be opened says so where it is read
                version = loader.opened.version
                entry = RunDataset(name=version.dataset, version=version.number, manifest=version.digest)
                datasets[entry.label] = entry
        if tuple(datasets.values()) != before:
            self.folder.update(datasets=tuple(datasets.values()))

    def finish(self, error: BaseException | None = None) -> None:
        """Say how the run ended, let its folder go, and send what the remote lacks."""
        if self._end(error) and self._sync:
            self._sync.stop()

    def _end(self, error: BaseException | None) -> bool:
        """Close the run; return False where it is another process's, or closed already."""
        atexit.unregister(self._end_with_python)
        if not self.folder.is_open:
            return False
        state, told = describe_end(error)
        try:
            self.folder.update(
                state=state,
                error=told and redact_text(told, self._secrets)[:_MAX_ERROR_CHARACTERS],
                ended=time.time(),
            )
        finally:
            self.folder.close()
        return True

    def _end_with_python(self) -> None:
        """Finish a run that the script did not: what it failed of, if anything, is known to Python.

        It is sent by a process of its own, since Python starts no threads any more, which sending takes.
        """
        try:
            ended = self._end(EXITS.ending())
        except BenchKitError as error:  # nobody could catch it
            _LOG.warning("the end of run %s could not be written down: %s", self.folder.record.run, error)
            return
        if not ended or self._sync is None:
            return
        self._sync.cancel()
        if self._launched:  # who launched it sends it
            return
        project = self.folder.path.parents[2]
        subprocess.run(
            [sys.executable, "-m", "benchkit.cli.main", "experiment", "push", self.folder.record.run],
            env=child_environment({"BENCHKIT_PROJECT": str(project)}, defaults={}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )


def begin_run(options: RunOptions, *, launched_as: Path | None = None) -> RunWriter:
    """Make a run in the project of this process, or go on with one, and return what writes it.

    Args:
        options: What it is to be.
        launched_as: The folder of the run that this process was launched as; its name and code stay.

    Raises:
        ProjectError: There is no project here.
        UsageError: The run to go on with is being written by another process.
        StoreError: Its folder cannot be written.
    """
    settings = load_settings()
    runs = settings.project / RUNS_FOLDER
    now = time.time()
    known = environment_values(is_secret_name)
    surroundings: dict[str, Any] = {
        "epochs": options.epochs,
        "environment": describe_environment(known),
        "code": describe_code(settings.project),
    }
    name = options.name or settings.project_id[:100]
    before = _take_up(runs, name, settings) if options.resume and not launched_as else None
    if launched_as:
        folder = RunFolder.reopen(launched_as)
        folder.update(epochs=options.epochs, environment=surroundings["environment"])
    elif before:
        folder = before
        resumed = folder.record.resumed + 1
        folder.update(state="running", ended=None, error=None, resumed=resumed, files=(), **surroundings)
    else:
        record = RunRecord(
            run=new_run_id(now), name=name, project=settings.project_id, started=now, updated=now
        )
        folder = RunFolder.create(runs, replace(record, **surroundings))
    sync = None
    if options.sync_seconds:
        sender = RunSender(folder.path, partial(open_remote, settings))
        sync = RunSync(sender, lambda: folder.record, seconds=options.sync_seconds)
    step = _next_step(folder.path)
    return RunWriter(folder, sync, step=step, launched=launched_as is not None)


def find_unfinished(runs: Path, name: str) -> Path | None:
    """Return the folder of the newest run of that name here; None if it finished, or there is none."""
    names = sorted((path.name for path in runs.iterdir()), reverse=True) if runs.is_dir() else []
    for run in filter(is_run_id, names):
        try:
            record = read_record(runs / run)
        except (BenchKitError, OSError):  # made by a newer version, or begun and killed at once
            continue
        if record.name == name:
            return runs / run if record.state != "finished" else None
    return None


def _take_up(runs: Path, name: str, settings: Settings) -> RunFolder | None:
    """Return the newest run of that name to go on with; None if it finished, or there is none."""
    path = find_unfinished(runs, name)
    if path is None:
        return None
    if read_record(path).files:  # a copy, made by `pull`
        _refuse_running_elsewhere(path.name, open_remote(settings))
    folder = RunFolder.reopen(path)
    if folder.record.state != "finished":
        return folder
    folder.close()  # its process has finished it just now
    return None


def _refuse_running_elsewhere(run: str, store: Store) -> None:
    """Refuse to go on with a run that another machine writes."""
    info, record = store.stat(stored_name(run, RUN_FILE)), read_stored(store, run)
    if info and record and state_of(record, heard_seconds=time.time() - info.modified) == "running":
        raise UsageError(
            f"run {run} is being written on {record.environment.get('host', 'another machine')!s:.60}: wait "
            "until it has ended, or begin a run of your own, without resume=True"
        )


def _next_step(path: Path) -> int:
    """Return the step behind the largest in the newest file of metrics that has a line."""
    for file in reversed(metrics_files(path)):
        curves = read_curves(read_lines(file))
        if curves.calls:
            return curves.last_step + 1
    return 0
