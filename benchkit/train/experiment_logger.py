"""`ExperimentLogger`: a run of this project for scripts that do without Accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from benchkit.stream.loader import ChunkLoader
from benchkit.train.run import RunHandle
from benchkit.train.run_writer import SYNC_SECONDS, RunOptions

if TYPE_CHECKING:
    from typing_extensions import Self


class ExperimentLogger:
    """Records configuration, values and files in a run folder of the project, and sends it to the remote.

    The run folder is that of `BenchAccelerateTracker`. It is begun at once; `finish`, the end of a `with`
    block, or the end of the script ends it. Where there are several processes, rank 0 writes.

    Args:
        run_name: What to call the run; None is the project's id.
        resume: Go on with the newest run of that name on this machine if it did not finish.
        sync_seconds: How often the run is sent to the project's remote while it runs; 0 keeps it here.

    Example::

        with ExperimentLogger() as logger:
            logger.log_configuration({"batch_size": 128, "learning_rate": 0.001})
            logger.log_scalar("train/loss", value=0.1, step=100)
            logger.log_metric("validation/accuracy", value=0.95, step=100)
            torch.save(model.state_dict(), logger.path_model() / "model.pt")
    """

    def __init__(
        self, run_name: str | None = None, *, resume: bool = False, sync_seconds: float = SYNC_SECONDS
    ) -> None:
        self._handle = RunHandle(RunOptions(name=run_name, resume=resume, sync_seconds=sync_seconds))
        self._handle.begin()

    @property
    def run(self) -> str:
        """The run's id; on another rank than the main one it is waited for."""
        return self._handle.run

    def log_configuration(self, configuration: Mapping[str, Any]) -> None:
        """Record a configuration: numbers, texts, bools, None, and lists and mappings of these.

        A later call adds to it, and replaces what it names again.
        """
        self._handle.configure(configuration)

    def log_scalar(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a value of a step: a number, a tensor or array of one element, or a text.

        Args:
            name: Its name; a slash groups, as in `train/loss`.
            value: The value.
            step: From 0 on, counted where it is None; of values that are logged again the last is shown.

        Raises:
            UsageError: The value cannot be logged; it is named.
            StoreError: The disk is full.
        """
        self._handle.log({name: value}, step)

    def log_metric(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a result of a step: what `log_scalar` does, under the name that says what it is."""
        self._handle.log({name: value}, step)

    def log_dataset(self, *loaders: ChunkLoader) -> None:
        """Record which dataset versions loaders of `get_dataset` read."""
        self._handle.watch(*loaders)

    def path_model_checkpoints(self) -> Path:
        """Return the run's folder for checkpoints, on every rank; files at rest are sent."""
        return self._handle.checkpoints

    def path_model(self) -> Path:
        """Return the run's folder for the trained model, on every rank; it is sent when the run ends."""
        return self._handle.model

    def finish(self) -> None:
        """End the run; a second call does nothing."""
        self._handle.finish()

    def __enter__(self) -> Self:
        """Return the logger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run, as failed if an error ends the block."""
        self._handle.finish(error)
