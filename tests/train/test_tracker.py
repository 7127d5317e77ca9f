"""The tracker and the logger: whole history, honoured steps, datasets, other trackers beside them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from support.making import publish_samples

from benchkit import BenchAccelerateTracker, ExperimentLogger, IterableChunk, get_accelerator, get_dataset
from benchkit.errors import ProjectError, UsageError
from benchkit.store.local import LocalStore
from benchkit.train.run_curves import read_curves
from benchkit.train.run_folder import metrics_files, read_lines, read_record
from benchkit.train.run_sync import read_stored


class Numbers(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield torch.tensor([float(label)])


@pytest.fixture(autouse=True)
def fresh_accelerate(project: Path):
    """Forget what Accelerate knew of the test before."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def curves_of(project: Path, run: str):
    files = metrics_files(project / ".benchkit/experiments" / run)
    return read_curves(b"".join(read_lines(file) for file in files))


def test_the_documents_snippet_makes_a_run_with_its_whole_history(project):
    tracker_config = {"epochs": 10, "bs": 16, "lr": 1e-2, "nested": {"a": [1, 2]}}
    tracker = BenchAccelerateTracker("trial tun", tracker_config["epochs"])
    accelerator = get_accelerator(log_with=tracker)
    accelerator.init_trackers("my_project", config=tracker_config)
    accelerator.log({"loss": torch.tensor(0.5)}, step=7)
    accelerator.log({"loss": 0.25, "text": "fine"}, step=9)
    accelerator.log({"loss": float("nan")})
    accelerator.log({"loss": 0.75}, step=3)
    accelerator.log({"loss": 0.375}, step=9)
    assert accelerator.get_tracker("benchkit") is tracker
    accelerator.end_training()

    record = read_record(project / ".benchkit/experiments" / tracker.run)
    assert (record.name, record.epochs, record.state, record.configuration) == (
        "trial tun",
        10,
        "finished",
        tracker_config,
    )
    assert record.ended >= record.started
    read = curves_of(project, tracker.run)
    loss = read.curves["loss"]
    assert (read.calls, loss.steps) == (5, (3, 7, 9, 10))  # a step of its own is the one behind the largest
    assert loss.values[:3] == (0.75, 0.5, 0.375)  # of a step that is logged again the last counts
    assert math.isnan(loss.values[3])
    assert read.texts == {"text": "fine"}
    assert read_stored(LocalStore(project / "store"), tracker.run).state == "finished"


def test_prepared_loaders_are_recorded_with_the_version_they_read(project):
    first = publish_samples(project, "numbers", 20, per_chunk=5)
    second = publish_samples(project, "numbers", 30, per_chunk=5)
    tracker = BenchAccelerateTracker("x", sync_seconds=0)
    accelerator = get_accelerator(log_with=tracker)
    accelerator.init_trackers("x")
    loader = accelerator.prepare(get_dataset(Numbers, True, "numbers", 5, 0))
    loader.load_state_dict(loader.state_dict() | {"manifest": first.digest})  # a run that goes on
    assert sum(1 for _ in loader) == 4
    accelerator.log({"loss": 1.0}, step=1)
    run = project / ".benchkit/experiments" / tracker.run
    assert [(d.label, d.manifest) for d in read_record(run).datasets] == [("numbers@1", first.digest)]
    tracker.log_dataset(get_dataset(Numbers, True, "numbers", 5, 0))
    accelerator.end_training()
    assert [d.label for d in read_record(run).datasets] == ["numbers@1", "numbers@2"]
    assert read_record(run).datasets[1].manifest == second.digest
    with pytest.raises(UsageError, match="no loader of get_dataset"):
        tracker.log_dataset([1, 2])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="no tensorboard: pip install tensorboard"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_tensorboard_beside_it_gets_the_same_values(project):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = BenchAccelerateTracker("both", sync_seconds=0)
    accelerator = get_accelerator(log_with=[tracker, "tensorboard"])
    accelerator.init_trackers("digits", config={"lr": 0.5})
    for step in range(3):
        accelerator.log({"loss": 1 / (step + 1)}, step=step * 10)
    accelerator.end_training()
    ours = curves_of(project, tracker.run).curves["loss"]
    events = EventAccumulator(str(project / ".benchkit/logs/digits"))
    events.Reload()
    theirs = events.Scalars("loss")
    assert [event.step for event in theirs] == list(ours.steps) == [0, 10, 20]
    assert [event.value for event in theirs] == pytest.approx(ours.values)


def test_a_value_that_cannot_be_logged_is_refused_and_the_run_goes_on(project):
    tracker = BenchAccelerateTracker("x", sync_seconds=0)
    accelerator = get_accelerator(log_with=tracker)
    accelerator.init_trackers("x")
    with pytest.raises(UsageError, match="'grads' is a Tensor of shape"):
        accelerator.log({"loss": 1.0, "grads": torch.zeros(4)}, step=1)
    with pytest.raises(UsageError, match="configuration"):
        tracker.store_init_configuration({"model": torch.nn.Linear(1, 1)})
    accelerator.log({"loss": 1.0}, step=2)
    accelerator.end_training()
    assert curves_of(project, tracker.run).curves["loss"].steps == (2,)
    with pytest.raises(UsageError, match="finished"):
        accelerator.log({"loss": 1.0}, step=3)


def test_an_error_on_the_way_to_end_training_is_the_run_s(project):
    tracker = BenchAccelerateTracker("x", sync_seconds=0)
    accelerator = get_accelerator(log_with=tracker)
    accelerator.init_trackers("x")

    def train():
        accelerator.log({"loss": 1.0}, step=1)
        try:
            raise RuntimeError("the GPU fell off")
        finally:
            accelerator.end_training()

    with pytest.raises(RuntimeError):
        train()
    record = read_record(project / ".benchkit/experiments" / tracker.run)
    assert (record.state, record.error) == ("failed", "RuntimeError: the GPU fell off")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, 5, None])
def test_a_name_that_no_terminal_could_show_is_refused(project, name):
    if name is None:
        assert ExperimentLogger(None, sync_seconds=0).run  # the project's own name
        return
    with pytest.raises(UsageError, match="names no run"):
        BenchAccelerateTracker(name)


def test_without_a_project_there_is_no_run(monkeypatch, tmp_path):
    monkeypatch.delenv("BENCHKIT_PROJECT")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError):
        ExperimentLogger()


def test_a_run_that_finishes_while_it_is_waited_for_is_not_gone_on_with(project):
    first = ExperimentLogger("mine", sync_seconds=0)
    ending = threading.Timer(0.3, first.finish)
    ending.start()
    second = ExperimentLogger("mine", resume=True, sync_seconds=0)
    ending.join()
    second.finish()
    assert second.run != first.run
    assert read_record(project / ".benchkit/experiments" / first.run).resumed == 0


def test_resume_goes_on_with_the_newest_run_of_the_name_unless_that_finished(project, monkeypatch):
    first = ExperimentLogger("mine", sync_seconds=0)
    first.log_configuration({"lr": 1, "seed": 2})
    first.log_scalar("loss", 1.0, 1)
    first.log_scalar("loss", 0.5, 2)
    with pytest.raises(UsageError, match="written by another process"):
        ExperimentLogger("mine", resume=True, sync_seconds=0)
    first._handle._writer.folder.close()  # as the end of its process does

    again = ExperimentLogger("mine", resume=True, sync_seconds=0)
    again.log_configuration({"lr": 3})
    again.log_scalar("loss", 0.25, 2)
    again.log_scalar("loss", 0.125)
    again.finish()
    assert again.run == first.run
    record = read_record(project / ".benchkit/experiments" / again.run)
    assert (record.state, record.resumed, record.configuration) == ("finished", 1, {"lr": 3, "seed": 2})
    assert curves_of(project, again.run).curves["loss"].values == (1.0, 0.25, 0.125)

    new = ExperimentLogger("mine", resume=True, sync_seconds=0)
    assert new.run != first.run
    new.finish()


def test_the_logger_s_folders_are_in_the_run_and_secrets_are_not(project, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "key-of-the-environment")
    logger = ExperimentLogger("x", sync_seconds=0)
    run = project / ".benchkit/experiments" / logger.run

    def train():
        with logger:
            logger.log_configuration({"hub": {"token": "abc"}, "note": "with key-of-the-environment in it"})
            logger.log_metric("accuracy", 0.5, 1)
            raise ValueError("the service refused key-of-the-environment")

    assert logger.path_model_checkpoints() == run / "checkpoints"
    assert logger.path_model() == run / "model"
    with pytest.raises(ValueError, match="key-of"):
        train()
    assert "key-of-the-environment" not in (run / "run.json").read_text()
    record = read_record(run)
    assert record.error == "ValueError: the service refused ***"
    assert record.configuration == {"hub": {"token": "***"}, "note": "with *** in it"}
    assert set(record.environment) >= {
        "python",
        "torch",
        "benchkit",
        "accelerate",
        "host",
        "gpus",
        "arguments",
    }
    assert json.loads((run / "run.json").read_text())["state"] == "failed"


def test_a_damaged_line_or_a_missing_dataset_does_not_keep_a_run_from_going_on_or_ending(project):
    first = ExperimentLogger("mine", sync_seconds=0)
    first.log_dataset(get_dataset(Numbers, True, "nowhere", 5, 0))
    first.log_scalar("loss", 1.0, 5)
    run = project / ".benchkit/experiments" / first.run
    with (run / "metrics/000001.jsonl").open("a") as metrics:
        metrics.write("garbage\n")
    first._handle._writer.folder.close()
    with ExperimentLogger("mine", resume=True, sync_seconds=0) as again:
        again.log_dataset(get_dataset(Numbers, True, "nowhere", 5, 0))
        again.log_scalar("loss", 0.5)
    read = curves_of(project, again.run)
    assert (read.curves["loss"].steps, read.unreadable) == ((5, 6), 1)
    assert read_record(run).state == "finished"


def test_a_copy_of_a_run_that_lives_elsewhere_is_not_gone_on_with(project):
    logger = ExperimentLogger("mine")
    logger.log_scalar("loss", 1.0, 1)
    run = project / ".benchkit/experiments" / logger.run
    sender = logger._handle._writer._sync._sender
    sender.send(logger._handle._writer.folder.record, final=False)
    logger._handle._writer._sync.cancel()
    logger._handle._writer.folder.close()  # from here on the folder stands for a pulled copy
    stored = project / "store/experiments" / logger.run / "run.json"
    (run / "run.json").write_bytes(stored.read_bytes())
    with pytest.raises(UsageError, match="is being written on"):
        ExperimentLogger("mine", resume=True, sync_seconds=0)
    long_ago = time.time() - 3600
    os.utime(stored, (long_ago, long_ago))
    with ExperimentLogger("mine", resume=True, sync_seconds=0) as again:
        assert again.run == logger.run
    assert read_record(run).files == ()
