"""`BenchAccelerateTracker`: a run of this project as one of Accelerate's trackers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from benchkit.stream.loader import ChunkLoader
from benchkit.train.run import RunHandle
from benchkit.train.run_writer import SYNC_SECONDS, RunOptions


class BenchAccelerateTracker(GeneralTracker):  # type: ignore[misc]
    """Records what is logged through Accelerate in a run folder of the project, and sends it to the remote.

    The run is `.benchkit/experiments/<time>-<id>/`; `bench-kit experiment` lists and compares runs. The main
    process writes; a call costs some 10 microseconds, and what it logged survives a kill.

    Args:
        run_name: What to call the run; several may have one name.
        epochs: How many passes are planned; it is written down.
        resume: Go on with the newest run of that name on this machine if it did not finish. Steps that are
            logged again replace the older ones wherever the run is shown.
        sync_seconds: How often the run is sent to the project's remote while it runs; 0 keeps it here.

    Example::

        tracker = BenchAccelerateTracker("first try", epochs=10)
        accelerator = get_accelerator(log_with=tracker)
        accelerator.init_trackers("digits", config={"lr": 1e-2})
        accelerator.log({"loss": 0.5}, step=1)
        accelerator.end_training()
    """

    name = "benchkit"
    requires_logging_directory = False
    main_process_only = True

    def __init__(
        self,
        run_name: str,
        epochs: int | None = None,
        *,
        resume: bool = False,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        super().__init__()
        self._handle = RunHandle(
            RunOptions(name=run_name, epochs=epochs, resume=resume, sync_seconds=sync_seconds)
        )

    @property
    def tracker(self) -> RunHandle:
        """What Accelerate's `get_tracker(name, unwrap=True)` returns."""
        return self._handle

    @property
    def run(self) -> str:
        """The run's id; on another rank than the main one it is waited for."""
        return self._handle.run

    def start(self) -> None:
        """Begin the run: Accelerate does this in `init_trackers`."""
        self._handle.begin()

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Record the configuration: numbers, texts, bools, None, and lists and mappings of these."""
        self._handle.configure(values)

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Record values of a step, which is counted where it is None.

        Args:
            values: Numbers, tensors or arrays of one element, texts, or mappings of these, by name.
            step: From 0 on; of values that are logged again for a step the last are shown.

        Raises:
            UsageError: A value that is none of these; it is named.
            StoreError: The disk is full.
        """
        self._handle.log(values, step)

    def log_dataset(self, *loaders: ChunkLoader) -> None:
        """Record which dataset versions loaders read; `prepare` of `get_accelerator` does it by itself."""
        self._handle.watch(*loaders)

    def path_model_checkpoints(self) -> Path:
        """Return the run's folder for checkpoints, on every rank; files at rest are sent."""
        return self._handle.checkpoints

    def path_model(self) -> Path:
        """Return the run's folder for the trained model, on every rank; it is sent when the run ends."""
        return self._handle.model

    def finish(self) -> None:
        """End the run: Accelerate does this in `end_training`."""
        self._handle.finish(sys.exc_info()[1])
