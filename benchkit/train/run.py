"""A run as the training script holds it: begun and written by the main process, known to all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchkit.errors import UsageError
from benchkit.settings import find_project, read_job_folders, read_run_folder
from benchkit.stream.loader import ChunkLoader
from benchkit.train import run_sharing
from benchkit.train.run_record import CHECKPOINTS, MODEL
from benchkit.train.run_writer import RunOptions, RunWriter, begin_run
from benchkit.train.runs import RUNS_FOLDER


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
