"""A run as the training script holds it: begun and written by the main process, known to all ranks."""

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
from benchkit.settings import (
    child_environment,
    environment_values,
    find_project,
    load_settings,
    read_job_folders,
    read_run_folder,
)
from benchkit.store.base import Store
from benchkit.store.urls import open_remote
from benchkit.stream.loader import ChunkLoader
from benchkit.train import run_sharing
from benchkit.train.redaction import is_secret_name, redact_text, redact_tree
from benchkit.train.revision import describe_code
from benchkit.train.run_curves import read_curves
from benchkit.train.run_folder import RUN_FILE, RunFolder, metrics_files, read_lines, read_record
from benchkit.train.run_record import (
    CHECKPOINTS,
    MODEL,
    RunDataset,
    RunRecord,
    RunState,
    check_run_name,
    is_run_id,
    new_run_id,
    state_of,
)
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
        state: RunState = "finished"
        if error is not None:
            state = "failed" if isinstance(error, Exception) else "interrupted"
        told = f"{type(error).__name__}: {error}" if state == "failed" else None
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
            ended = self._end(getattr(sys, "last_value", None))
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


class RunHandle:
    """The run behind a tracker or a logger, on any rank.

    Nothing is made before the first use. Only the main process writes; on the others logging does nothing.
    """

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._number = run_sharing.next_number()
        self._launched_as = read_run_folder() if self._number == 0 else None
        self._writer: RunWriter | None = None
        self._run: str | None = None
        self._decided = self._told = False
        self._waiting: list[ChunkLoader] = []
        self._loaders: list[ChunkLoader] = []

    def begin(self) -> RunWriter | None:
        """Return what writes the run, begun at the first call; None on other ranks than the main one."""
        if not self._decided:
            if run_sharing.is_main_process():
                self._writer = begin_run(self._options, launched_as=self._launched_as)
                self._run = self._writer.folder.record.run
            self._decided = True
        if self._run and self._writer and not self._told:
            self._told = run_sharing.tell_run(self._number, self._run)
        return self._writer

    def log(self, values: Mapping[str, Any], step: object = None) -> None:
        """Log values of a step."""
        writer = self.begin()
        if writer:
            if self._waiting:
                self._record_datasets(writer)
            writer.log(values, step)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to the run's configuration."""
        writer = self.begin()
        if writer:
            writer.configure(values)

    def watch(self, *loaders: ChunkLoader) -> None:
        """Record the datasets of loaders, when something is next logged: a loaded state may change them."""
        for loader in loaders:
            if not isinstance(loader, ChunkLoader):
                raise UsageError(f"{loader!r:.60} is no loader of get_dataset, whose version can be recorded")
        self._waiting += loaders

    @property
    def run(self) -> str:
        """The run's id, on every rank."""
        self.begin()
        if self._run is None:
            self._run = run_sharing.ask_run(self._number)
        return self._run

    def part(self, name: str) -> Path:
        """Return a folder of the user's own, in the run's folder or a job's own, made where it is missing."""
        folders = read_job_folders()
        if folders:
            folder = {CHECKPOINTS: folders.checkpoints, MODEL: folders.model}[name]
        else:
            folder = find_project() / RUNS_FOLDER / self.run / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints."""
        return self.part(CHECKPOINTS)

    @property
    def model(self) -> Path:
        """The folder for the model."""
        return self.part(MODEL)

    def finish(self, error: BaseException | None = None) -> None:
        """End the run; without one there is nothing to do."""
        if self._writer and self._writer.folder.is_open:
            self._waiting, self._loaders = [*self._loaders, *self._waiting], []
            self._record_datasets(self._writer)
            self._writer.finish(error)

    def _record_datasets(self, writer: RunWriter) -> None:
        writer.record_datasets(self._waiting)
        self._loaders += self._waiting
        self._waiting = []


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
    before = find_unfinished(runs, name) if options.resume and not launched_as else None
    if launched_as:
        folder = RunFolder.reopen(launched_as)
        folder.update(epochs=options.epochs, environment=surroundings["environment"])
    elif before:
        if read_record(before).files:  # a copy, made by `pull`
            _refuse_running_elsewhere(before.name, open_remote(settings))
        folder = RunFolder.reopen(before)
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
