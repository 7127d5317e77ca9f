"""The accelerator: every argument arrives, a loss function can be prepared, temporary files go once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import GradScalerKwargs
from support.making import make_project, publish_samples
from support.processes import torchrun
from torch import nn

from benchkit import IterableChunk, get_accelerator, get_dataset, wipe_temp
from benchkit.errors import UsageError


@pytest.fixture(autouse=True)
def fresh_state(project):
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.mark.parametrize("value", [True, False])
def test_flags_arrive_as_they_were_given(value):
    accelerator = get_accelerator(
        split_batches=value, even_batches=value, step_scheduler_with_optimizer=value, cpu=True
    )
    assert accelerator.split_batches is value
    assert accelerator.even_batches is value
    assert accelerator.step_scheduler_with_optimizer is value


def test_the_other_arguments_arrive_too():
    accelerator = get_accelerator(
        gradient_accumulation_steps=3,
        mixed_precision="bf16",
        cpu=True,
        rng_types=["torch"],
        dynamo_backend="no",
        kwargs_handlers=[GradScalerKwargs(growth_interval=7)],
    )
    assert accelerator.gradient_accumulation_steps == 3
    assert accelerator.mixed_precision == "bf16"
    assert accelerator.device.type == "cpu"
    assert accelerator.rng_types == ["torch"]
    assert accelerator.scaler_handler.growth_interval == 7


class Numbers(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label


def test_prepare_leaves_the_loader_itself_and_registers_it_once(project):
    publish_samples(project, "n20", 20, per_chunk=6)
    accelerator = get_accelerator(cpu=True)
    loader = get_dataset(Numbers, True, "n20", 4, 0)
    assert accelerator.prepare(loader) is loader
    assert accelerator.prepare(loader) is loader
    assert accelerator._dataloaders == [loader]
    assert not accelerator.gradient_state.in_dataloader
    for step, _ in enumerate(loader):
        assert accelerator.gradient_state.active_dataloader is loader
        assert accelerator.gradient_state.end_of_dataloader is (step == 4)
    assert not accelerator.gradient_state.in_dataloader


def test_batches_go_to_the_device_once_prepare_has_run(project):
    publish_samples(project, "n20", 20, per_chunk=6)
    accelerator = get_accelerator(cpu=True)
    PartialState().device = torch.device("meta")
    loader = get_dataset(Numbers, True, "n20", 4, 0)
    assert next(iter(loader)).device.type == "cpu"
    loader = accelerator.prepare(loader)
    assert next(iter(loader)).device.type == "meta"


def test_save_state_and_load_state_carry_the_positions_of_all_loaders(project, tmp_path):
    publish_samples(project, "n20", 20, per_chunk=6)
    publish_samples(project, "n50", 50, per_chunk=6)
    accelerator = get_accelerator(cpu=True)
    model = nn.Linear(1, 1)
    first, second = (get_dataset(Numbers, True, name, 4, 0, shuffle=True) for name in ("n20", "n50"))
    model, first, second = accelerator.prepare(model, first, second)
    expected = [batch.tolist() for batch in second]
    second.set_epoch(0)
    for step, _ in enumerate(second):
        if step == 4:
            accelerator.save_state(str(tmp_path / "state"))
            break
    list(first)
    accelerator.load_state(str(tmp_path / "state"))
    assert len(second) == len(expected) - 5
    assert [batch.tolist() for batch in second] == expected[5:]
    assert first.state_dict()["position"] == 0


def test_skip_first_batches_is_refused_and_names_the_method(project):
    publish_samples(project, "n20", 20, per_chunk=6)
    accelerator = get_accelerator(cpu=True)
    loader = accelerator.prepare(get_dataset(Numbers, True, "n20", 4, 0))
    with pytest.raises(UsageError, match="skip_batches"):
        list(accelerator.skip_first_batches(loader, 2))


def test_gradient_accumulation_steps_at_the_last_batch_of_a_pass(project):
    publish_samples(project, "n20", 20, per_chunk=6)
    accelerator = get_accelerator(cpu=True, gradient_accumulation_steps=3)
    model = nn.Linear(1, 1)
    model, loader = accelerator.prepare(model, get_dataset(Numbers, True, "n20", 4, 0))
    synced = []
    for _ in loader:
        with accelerator.accumulate(model):
            synced.append(accelerator.sync_gradients)
    assert synced == [False, False, True, False, True]


def test_wipe_temp_without_anything_to_remove_does_nothing(project):
    wipe_temp(get_accelerator(cpu=True))
    assert not (project / ".benchkit").exists()


ENDS_WHILE_GLOO_WAITS = """
import sys, time
import torch
from benchkit import get_accelerator

get_accelerator()
sys.setswitchinterval(100)  # nobody else gets Python's lock until this thread sleeps
torch.distributed.all_reduce(torch.ones(1), async_op=True)
end = time.perf_counter() + 0.3
while time.perf_counter() < end:
    pass
"""


@pytest.mark.processes
def test_python_ends_well_while_a_thread_of_gloo_waits_to_let_a_tensor_go(project, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ENDS_WHILE_GLOO_WAITS)
    torchrun(script, 2, project=project)


@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_train_together_and_wipe_their_files_once(world, tmp_path):
    project = make_project(tmp_path / "ranks")
    publish_samples(project, "n96", 96, per_chunk=7)
    script = Path(__file__).parent / "prepared.py"
    torchrun(script, world, str(tmp_path), str(tmp_path / "cache"), project=project)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(world)]
    for rank in told:
        assert rank["world"] == world
        assert len(set(rank["weights"])) == 1, "the ranks' models differ: gradients were not averaged"
        assert rank["temporary_files"] == world
        assert not rank["left"]
        assert rank["cache_kept"]
        assert "split_batches=True" in rank["refused"]
        assert "get_dataset" in rank["outside"]
