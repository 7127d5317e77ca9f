"""A launched run: a run on record that is the job of a package, from its beginning to how it ended.

The process that launches holds the run until the job has ended, whatever the job logs itself: a tracker or
logger in the job writes to this run, and leaves what only the launcher knows, its exit code, to it.
"""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchkit import __version__
from benchkit.errors import BenchKitError, StoreError
from benchkit.project.job import JobOptions, JobReport, run_job
from benchkit.settings import Settings
from benchkit.store.locks import open_locked
from benchkit.store.urls import open_remote
from benchkit.train.run_folder import LAUNCHER_LOCK, RunFolder
from benchkit.train.run_pull import push_run
from benchkit.train.run_record import CHECKPOINTS, MODEL, RunDataset, RunRecord, RunState, check_run_name
from benchkit.train.runs import RUNS_FOLDER, find_run, list_here


def new_record(
    run: str,
    settings: Settings,
    *,
    name: str | None,
    configuration: Mapping[str, Any],
    code: Mapping[str, Any],
    dataset: RunDataset | None,
) -> RunRecord:
    """Return the record of a run that is about to be launched.

    Args:
        run: Its id.
        settings: The project's.
        name: What its owner calls it; None is the project's id.
        configuration: How it is launched.
        code: Version, and git revision, of the code.
        dataset: What it was told to read.
    """
    now = time.time()
    return RunRecord(
        run=run,
        name=check_run_name(name or settings.project_id[:100]),
        project=settings.project_id,
        started=now,
        updated=now,
        configuration=dict(configuration),
        environment={
            "python": platform.python_version(),
            "benchkit": __version__,
            "host": socket.gethostname(),
        },
        code=dict(code),
        datasets=(dataset,) if dataset else (),
    )


def run_recorded(record: RunRecord, options: JobOptions, settings: Settings) -> JobReport:
    """Run a job as a run on record, and say in the record how it ended.

    Raises:
        BenchKitError: It could not be begun; the record says so.
    """
    folder = RunFolder.create(settings.project / RUNS_FOLDER, record)
    path = folder.path
    lock = open_locked(path / LAUNCHER_LOCK, shared=False, create=True)
    if lock is None:
        raise StoreError(f"{path} is held by another process")
    folder.close()  # the job's tracker or logger is to write it
    state: RunState = "interrupted"
    error: str | None = None
    with lock:
        try:
            report = run_job(
                replace(
                    options,
                    run_folder=path,
                    folders={"model": path / MODEL, "checkpoints": path / CHECKPOINTS},
                    job=record.run,
                ),
                here=settings.project,
                settings=settings,
            )
            if not report.interrupted:
                state = "failed" if report.exit_code else "finished"
                error = f"exit code {report.exit_code}" if report.exit_code else None
        except BenchKitError as failure:
            state, error = "failed", str(failure)
            raise
        finally:
            _end_run(path, state, error)
    return report


def send_run(run: str, settings: Settings) -> None:
    """Send what the remote lacks of a run that has ended.

    Raises:
        StoreError: The remote failed; the run is on this machine, and can be sent again.
    """
    push_run(find_run(list_here(settings.project), run), open_remote(settings))


def _end_run(path: Path, state: RunState, error: str | None) -> None:
    folder = RunFolder.reopen(path)
    told = folder.record.error if state == "failed" else None  # by the job itself, which knows more
    folder.update(state=state, error=told or error, ended=time.time())
    folder.close()
