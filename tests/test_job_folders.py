"""The folders of a job: told by variables, else at their usual places, and only inside of a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchkit.settings import (
    JobFolders,
    hides_gpus,
    load_settings,
    read_job_folders,
    read_run_folder,
    set_variables,
)
from benchkit.train import ExperimentLogger

NAMES = ("MDI_DATASET_DIR", "MDI_MODEL_DIR", "MDI_CHECKPOINT_DIR", "MDI_ARTIFACT_DIR")


@pytest.fixture(autouse=True)
def _outside_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENCHKIT_CLOUD", "BENCHKIT_RUN_DIR", "CUDA_VISIBLE_DEVICES", *NAMES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("value", ["", "false", "1", "yes"])
def test_outside_of_a_job_there_are_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDI_MODEL_DIR", "/x")
    assert read_job_folders() is None
    monkeypatch.setenv("BENCHKIT_CLOUD", value)
    assert read_job_folders() is None


def test_they_have_their_usual_places_unless_variables_say_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHKIT_CLOUD", "TRUE")
    assert read_job_folders() == JobFolders(
        dataset=Path("/opt/ml/input/data/training"),
        model=Path("/opt/ml/model"),
        checkpoints=Path("/opt/ml/checkpoints"),
        artifacts=Path("/opt/ml/output/data"),
    )
    for number, name in enumerate(NAMES):
        monkeypatch.setenv(name, f"/{number}")
    folders = read_job_folders()
    assert folders == JobFolders(
        dataset=Path("/0"), model=Path("/1"), checkpoints=Path("/2"), artifacts=Path("/3")
    )


def test_what_is_told_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = JobFolders.below(tmp_path)
    for name, value in folders.variables().items():
        monkeypatch.setenv(name, value)
    assert read_job_folders() == folders


def test_a_jobs_dataset_folder_is_its_remote_where_it_is_a_store(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = tmp_path / "training"
    store.mkdir()
    monkeypatch.setenv("MDI_DATASET_DIR", str(store))
    (store / "benchkit.json").write_text('{"benchkit":"store","format":1}')
    assert load_settings().remote == "store"
    monkeypatch.setenv("BENCHKIT_CLOUD", "true")
    assert load_settings().remote == str(store)
    monkeypatch.setenv("BENCHKIT_REMOTE", "elsewhere")
    assert load_settings().remote == "elsewhere"
    monkeypatch.delenv("BENCHKIT_REMOTE")
    (store / "benchkit.json").unlink()
    assert load_settings().remote == "store"


def test_a_logger_in_a_job_gives_the_jobs_folders(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ExperimentLogger("here", sync_seconds=0) as logger:
        assert logger.path_model().is_relative_to(project)
    for name, value in JobFolders.below(tmp_path / "ml").variables().items():
        monkeypatch.setenv(name, value)
    with ExperimentLogger("there", sync_seconds=0) as logger:
        assert logger.path_model() == tmp_path / "ml/model"
        assert logger.path_model_checkpoints() == tmp_path / "ml/checkpoints"
        assert logger.path_model().is_dir()
    run = project / ".benchkit/experiments" / logger.run / "run.json"
    assert json.loads(run.read_text())["state"] == "finished"


def test_few_variables_say_how_a_job_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_run_folder() is None
    monkeypatch.setenv("BENCHKIT_RUN_DIR", "/opt/ml/run")
    assert read_run_folder() == Path("/opt/ml/run")
    assert set_variables(["BENCHKIT_RUN_DIR", "MDI_MODEL_DIR"]) == ["BENCHKIT_RUN_DIR"]
    assert not hides_gpus()
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert hides_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not hides_gpus()
