"""Laws of checkpoints: whole or not at all, numbered, loaded exactly, and trusted no further than tensors."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.checkpoints import NAME, Notes, Touch, Training, copies, publish_data, shelf, tamper
from support.processes import environment
from support.scratch import flip

from benchkit import load_model_checkpoint, upload_model_checkpoint
from benchkit.errors import BenchKitError, CorruptError, NotFoundError, StateError, StoreError, UsageError
from benchkit.store.local import LocalStore
from benchkit.train.checkpoint_folder import LocalCopies
from benchkit.train.checkpoint_record import Checkpoint
from benchkit.train.uploads import UPLOADS


@pytest.fixture(autouse=True)
def data(project: Path) -> Iterator[None]:
    publish_data(project)
    yield
    with suppress(BenchKitError):
        UPLOADS.wait()


def numbers() -> list[int]:
    return [bundle.number for bundle in shelf().versions()]


def what_follows(training: Training) -> list:
    """Return what a training does next: losses under dropout, random numbers of all kinds, weights, rates."""
    told: list = [training.steps(9), training.steps(2), random.random(), np.random.rand()]  # noqa: NPY002
    told += [{name: value.tolist() for name, value in training.model.state_dict().items()}]
    return [*told, training.scheduler.get_last_lr()]


def saved(training: Training, steps: int = 3) -> Checkpoint:
    training.steps(steps)
    return upload_model_checkpoint(training.accelerator, NAME, wait=True)


@pytest.mark.parametrize("local", [True, False], ids=["local copy", "from the store"])
def test_what_follows_a_load_is_what_followed_the_save(project: Path, local: bool) -> None:
    held = [1, 2.5, "x", torch.arange(3), np.arange(2.0), {"deep": (None, True)}]
    training = Training(notes=Notes(held))
    checkpoint = saved(training)
    assert (checkpoint.label, checkpoint.epoch, checkpoint.position) == ("cats@1", 0, 12)
    again = Training(notes=Notes())
    again.steps(1)
    if local:
        shutil.rmtree(project / "store/checkpoints/cats/files")
    else:
        shutil.rmtree(project / "checkpoint")
    loaded = load_model_checkpoint(again.accelerator, NAME)
    after_load = what_follows(again)
    assert again.notes
    assert str(again.notes.value) == str(held)
    assert (loaded.number, loaded.id, loaded.loaders) == (1, checkpoint.id, checkpoint.loaders)

    third = Training(notes=Notes())
    load_model_checkpoint(third.accelerator, NAME, 1)
    assert what_follows(third) == after_load
    assert len(after_load[0]) == 2


def test_a_load_restores_the_random_numbers_and_the_weights_of_the_save(project: Path) -> None:
    training = Training()
    saved(training)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    weights = [value.tolist() for value in training.model.state_dict().values()]
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    training.steps(2)
    load_model_checkpoint(training.accelerator, NAME)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == after[:2]  # noqa: NPY002
    assert torch.get_rng_state().tolist() == after[2]
    assert [value.tolist() for value in training.model.state_dict().values()] == weights


def test_versions_are_numbered_and_the_newest_is_loaded_unless_one_is_named(project: Path) -> None:
    training = Training()
    for _ in range(3):
        saved(training, 1)
    assert numbers() == [1, 2, 3]
    assert load_model_checkpoint(training.accelerator, NAME).number == 3
    assert training.loader.state_dict()["epoch"] == 2
    assert load_model_checkpoint(training.accelerator, NAME, 1).number == 1
    assert training.loader.state_dict()["epoch"] == 0


def test_keep_leaves_the_newest_versions_and_the_disk_holds_the_newest_alone(project: Path) -> None:
    training = Training()
    for _ in range(4):
        training.steps(1)
        checkpoint = upload_model_checkpoint(training.accelerator, NAME, keep=2, wait=True)
    assert numbers() == [3, 4]
    assert {path.name.split(".")[0] for path in (project / "checkpoint" / NAME).iterdir()} == {
        "",
        checkpoint.id,
    }
    assert len(list((project / "store/checkpoints/cats/files").iterdir())) == 2
    with pytest.raises(UsageError, match="keep 0"):
        upload_model_checkpoint(training.accelerator, NAME, keep=0)


def test_an_accelerator_without_a_model_is_refused_with_the_reason(project: Path) -> None:
    training = Training()
    saved(training)
    training.accelerator.free_memory()
    for action in (upload_model_checkpoint, load_model_checkpoint):
        with pytest.raises(UsageError, match=r"holds no model.*free_memory"):
            action(training.accelerator, NAME)
    assert numbers() == [1]


def test_gradients_that_wait_for_the_optimizer_are_not_lost_in_silence(project: Path) -> None:
    training = Training(accumulate=3)
    training.steps(2)
    with pytest.raises(UsageError, match="sync_gradients"):
        upload_model_checkpoint(training.accelerator, NAME)
    training.loader.set_epoch(0)
    training.steps(1)
    upload_model_checkpoint(training.accelerator, NAME, wait=True)


@pytest.mark.parametrize("name", ["", "../cats", "a/b", "cats@1", "tr\x1bain", ".."])
def test_what_is_no_name_is_refused(project: Path, name: str) -> None:
    training = Training()
    for action in (upload_model_checkpoint, load_model_checkpoint):
        with pytest.raises(UsageError, match="no checkpoint name"):
            action(training.accelerator, name)
    assert not (project / "checkpoint").exists()


def test_an_unknown_name_or_version_says_which_there_are(project: Path) -> None:
    training = Training()
    with pytest.raises(NotFoundError, match="it holds: none; upload_model_checkpoint"):
        load_model_checkpoint(training.accelerator, NAME)
    saved(training)
    with pytest.raises(NotFoundError, match=r"no checkpoint 'dogs'.*it holds: cats"):
        load_model_checkpoint(training.accelerator, "dogs")
    with pytest.raises(NotFoundError, match="no version 9; it has: 1"):
        load_model_checkpoint(training.accelerator, NAME, 9)
    for version in (0, -1, "newest", True):
        with pytest.raises(UsageError, match="neither a number from 1 on"):
            load_model_checkpoint(training.accelerator, NAME, version)


def test_a_checkpoint_without_its_marker_is_as_if_it_were_not_there(project: Path) -> None:
    training = Training()
    checkpoint = saved(training)
    local = copies(project)
    shutil.copytree(local.folder(checkpoint.id), local.folder("20990101-000000-00000000"))
    (local.root / "20990101-000000-00000000.lock").touch()
    files = project / "store/checkpoints/cats/files"
    shutil.copytree(files / checkpoint.id, files / "20990101-000000-00000000")
    assert load_model_checkpoint(training.accelerator, NAME).id == checkpoint.id
    saved(training)
    assert not local.folder("20990101-000000-00000000").exists()
    assert numbers() == [1, 2]


def test_a_checkpoint_whose_upload_was_cut_off_is_loaded_and_uploaded_after_all(project: Path) -> None:
    training = Training()
    saved(training)
    training.steps(1)
    newest = upload_model_checkpoint(training.accelerator, NAME, wait=True)
    local = copies(project)
    shelf().store.delete(shelf().find(2).object_name)
    local.complete(newest.numbered(None))

    loaded = load_model_checkpoint(training.accelerator, NAME)
    assert (loaded.id, loaded.number) == (newest.id, None)
    assert UPLOADS.wait() == 2
    assert numbers() == [1, 2]
    assert load_model_checkpoint(training.accelerator, NAME).label == "cats@2"
    (local.root / f"{newest.id}.json").unlink()
    assert load_model_checkpoint(training.accelerator, NAME, 2).id == newest.id


def test_a_checkpoint_that_gets_whole_while_others_are_removed_stays(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training()
    newest = saved(training)
    local, lock = copies(project), LocalCopies._lock
    (local.root / f"{newest.id}.json").unlink()  # as if it was being saved

    def complete_and_lock(
        self: LocalCopies, checkpoint_id: str, *, shared: bool, blocking: bool = True
    ) -> Any:
        local.complete(newest.numbered(None))
        return lock(self, checkpoint_id, shared=shared, blocking=blocking)

    with monkeypatch.context() as patch:
        patch.setattr(LocalCopies, "_lock", complete_and_lock)
        local.tidy()
    local.check(newest.id)
    assert local.find_all() == [newest.numbered(None)]


def test_an_older_local_checkpoint_never_stands_in_for_a_newer_one_in_the_store(project: Path) -> None:
    training = Training()
    old = saved(training)
    new = saved(training)
    local = copies(project)
    shelf().remove(shelf().find(1))
    shutil.copytree(local.folder(new.id), local.folder(old.id))
    local.complete(old.numbered(None))
    assert load_model_checkpoint(training.accelerator, NAME).id == new.id
    assert UPLOADS.wait() is None
    assert numbers() == [2]


def test_a_deleted_version_is_not_brought_back_from_the_local_copy(project: Path) -> None:
    training = Training()
    first = saved(training)
    saved(training)
    shelf().remove(shelf().find(2))
    assert load_model_checkpoint(training.accelerator, NAME).id == first.id


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl"])
def test_a_flipped_byte_in_the_store_is_an_error_and_in_a_local_copy_it_is_mended(
    project: Path, name: str
) -> None:
    training = Training()
    checkpoint = saved(training)
    flip(copies(project).folder(checkpoint.id) / name)
    assert load_model_checkpoint(training.accelerator, NAME) == checkpoint
    copies(project).check(checkpoint.id)
    shutil.rmtree(project / "checkpoint")
    flip(project / "store/checkpoints/cats/files" / checkpoint.id / name)
    with pytest.raises(CorruptError, match=f"cats@1: .*{name}.*del-check cats@1"):
        load_model_checkpoint(training.accelerator, NAME)
    assert copies(project).find_all() == []


def test_a_flipped_byte_in_a_local_copy_that_is_nowhere_else_is_an_error(project: Path) -> None:
    training = Training()
    checkpoint = saved(training)
    shelf().remove(shelf().find())
    local = copies(project)
    local.complete(checkpoint.numbered(None))
    flip(local.folder(checkpoint.id) / "optimizer.bin")
    with pytest.raises(CorruptError, match=r"optimizer\.bin; remove the folder"):
        load_model_checkpoint(training.accelerator, NAME)


def test_a_flipped_byte_in_the_record_names_the_version(project: Path) -> None:
    training = Training()
    saved(training)
    (record,) = (project / "store/checkpoints/cats/versions").iterdir()
    flip(record)
    with pytest.raises(CorruptError, match=r"cats@1: .*del-check cats@1"):
        load_model_checkpoint(training.accelerator, NAME)


@pytest.mark.parametrize("local", [True, False], ids=["local", "stored"])
@pytest.mark.parametrize(
    "name",
    ["optimizer.bin", "scheduler.bin", "random_states_0.pkl", "dl_state_dict.bin", "custom_checkpoint_0.pkl"],
)
@pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_whose_unpickling_would_run_something_is_refused(
    project: Path, name: str, local: bool, save: Callable
) -> None:
    training = Training(notes=Notes())
    checkpoint = saved(training)
    touched = project / "touched"

    def poison(folder: Path) -> None:
        save({"state": Touch(touched), "value": 1}, folder / name)

    if local:
        poison(copies(project).folder(checkpoint.id))
        copies(project).complete(checkpoint)
    else:
        tamper(project, checkpoint, poison)
    with pytest.raises(CorruptError, match="more than tensors and plain values"):
        load_model_checkpoint(training.accelerator, NAME)
    assert not touched.exists()


def test_a_pickled_model_in_place_of_safetensors_is_refused_too(project: Path) -> None:
    training = Training()

    def poison(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(Touch(project / "touched"), folder / "pytorch_model.bin")

    tamper(project, saved(training), poison)
    with pytest.raises(CorruptError, match="more than tensors"):
        load_model_checkpoint(training.accelerator, NAME)
    assert not (project / "touched").exists()


def test_loading_leaves_torch_as_it_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    training = Training()
    saved(training)
    before = set(torch.serialization.get_safe_globals())
    load_model_checkpoint(training.accelerator, NAME)
    assert set(torch.serialization.get_safe_globals()) == before
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_an_object_that_could_never_be_loaded_is_refused_when_it_is_saved(project: Path) -> None:
    training = Training(notes=Notes(Path("x")))
    with pytest.raises(StateError, match="register_for_checkpointing"):
        upload_model_checkpoint(training.accelerator, NAME)
    assert copies(project).find_all() == []
    assert numbers() == []


def test_a_checkpoint_of_something_else_is_refused_saying_so(project: Path) -> None:
    saved(Training())
    with pytest.raises(StateError, match=r"cats@1 does not fit.*size mismatch"):
        load_model_checkpoint(Training(width=4).accelerator, NAME)
    more = Training()
    more.accelerator.prepare(torch.nn.Linear(1, 1))
    with pytest.raises(StateError, match="holds 1 models, and 2 are here"):
        load_model_checkpoint(more.accelerator, NAME)


def test_the_model_alone_can_be_loaded(project: Path) -> None:
    training = Training()
    saved(training)
    weights = [value.tolist() for value in training.model.state_dict().values()]
    other = Training()
    other.accelerator.free_memory()
    other.accelerator.prepare_model(other.model)
    load_model_checkpoint(other.accelerator, NAME)
    assert [value.tolist() for value in other.model.state_dict().values()] == weights


def test_a_compiled_model_is_saved_under_its_own_names_and_loaded_by_one_that_is_not(project: Path) -> None:
    compiled = Training(compiled=True)
    upload_model_checkpoint(compiled.accelerator, NAME, wait=True)
    plain = Training()
    load_model_checkpoint(plain.accelerator, NAME)
    weights = [value.tolist() for value in compiled.model.state_dict().values()]
    assert [value.tolist() for value in plain.model.state_dict().values()] == weights
    assert "0.weight" in load_file(
        copies(project).folder(shelf().read(shelf().find()).folder) / "model.safetensors"
    )


def test_the_error_of_an_upload_is_raised_at_the_next_call_and_that_is_saved_too(project: Path) -> None:
    training = Training()
    store = project / "store/checkpoints"
    store.write_text("in the way")
    training.steps(1)
    upload_model_checkpoint(training.accelerator, NAME)
    training.steps(1)
    with pytest.raises(StoreError, match="cats"):
        upload_model_checkpoint(training.accelerator, NAME)
    store.unlink()
    loaded = load_model_checkpoint(training.accelerator, NAME)
    assert (loaded.number, loaded.epoch) == (None, 1)
    assert UPLOADS.wait() == 1
    upload_model_checkpoint(training.accelerator, NAME, wait=True)
    assert numbers() == [1, 2]


def test_training_goes_on_while_an_upload_is_under_way(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_again, write = threading.Event(), LocalStore.write

    def wait_and_write(store: LocalStore, name: str, source: bytes | Path) -> None:
        if name.startswith("checkpoints/"):
            assert open_again.wait(60)
        write(store, name, source)

    monkeypatch.setattr(LocalStore, "write", wait_and_write)
    training = Training()
    first = upload_model_checkpoint(training.accelerator, NAME)
    assert first.number is None
    assert training.steps(3)
    assert numbers() == []
    assert copies(project).find(first.id) == first
    threading.Timer(0.3, open_again.set).start()
    upload_model_checkpoint(
        training.accelerator, NAME
    )  # waits for the first, so that at most one is under way
    assert numbers()[:1] == [1]
    assert UPLOADS.wait() == 2


SCRIPT = """\
import resource, sys
from support.checkpoints import NAME, Training
from benchkit import upload_model_checkpoint

training = Training()
training.steps(2)
upload_model_checkpoint(training.accelerator, NAME)
print("the script has ended")
"""


def run_script(project: Path, text: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text],
        env=environment(project),
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_end_of_the_process_waits_for_the_upload(project: Path) -> None:
    slowly = SCRIPT.replace(
        "training = Training()",
        "import time\nfrom benchkit.store.local import LocalStore\nwrite = LocalStore.write\n"
        "def later(*given):\n    time.sleep(0.3)\n    write(*given)\n"
        "LocalStore.write = later\ntraining = Training()",
    )
    done = run_script(project, slowly)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "the script has ended\n")
    assert numbers() == [1]


def test_an_error_that_nobody_waited_for_ends_the_process_with_its_code(project: Path) -> None:
    (project / "store/checkpoints").write_text("in the way")
    done = run_script(project)
    assert done.returncode == StoreError.exit_code
    assert done.stdout == "the script has ended\n"
    assert done.stderr.startswith("error: a checkpoint was not uploaded: ")
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_an_error_that_leaves_the_checkpoints_before_as_they_were(project: Path) -> None:
    training = Training()
    checkpoint = saved(training)
    full = SCRIPT.replace(
        "training.steps(2)", "training.steps(2)\nresource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    )
    done = run_script(project, full)
    assert done.returncode == 1
    assert "benchkit.errors.StoreError: the checkpoint was not saved in" in done.stderr
    assert "make room" in done.stderr
    assert [copy.id for copy in copies(project).find_all()] == [checkpoint.id]
    assert not [
        path
        for path in (project / "checkpoint" / NAME).iterdir()
        if path.is_dir() and path.name[0] == "2" and path.name != checkpoint.id
    ]
    assert load_model_checkpoint(training.accelerator, NAME) == checkpoint


def test_two_runs_of_one_name_lose_nothing(project: Path) -> None:
    command = [
        sys.executable,
        "-c",
        SCRIPT.replace(
            "upload_model_checkpoint(training", "for _ in range(3): upload_model_checkpoint(training"
        ),
    ]
    runs = [
        subprocess.Popen(
            command, env=environment(project), cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [(run.communicate(timeout=120)[1], run.returncode) for run in runs] == [(b"", 0)] * 2
    assert numbers() == [1, 2, 3, 4, 5, 6]
    assert len({shelf().read(bundle).folder for bundle in shelf().versions()}) == 6
    shutil.rmtree(project / "checkpoint")
    for number in range(1, 7):
        load_model_checkpoint(Training().accelerator, NAME, number)
