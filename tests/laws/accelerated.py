"""Runs in every process of the laws under Accelerate: each case prepares all anew and tells of itself."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration
from support.reading import Labels, labels_of, make
from torch import nn
from torch.utils.data import DataLoader

from benchkit.errors import UsageError

BATCH = 5


def fresh(**options) -> Accelerator:
    """Return an Accelerator that knows of no other."""
    GradientState._reset_state()
    AcceleratorState._reset_state()
    modes = {
        key: options.pop(key)
        for key in ("split_batches", "even_batches", "dispatch_batches")
        if key in options
    }
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**modes), **options)


def gathered(accelerator: Accelerator, loader, steps: int = 0) -> list[int]:
    """Return what `gather_for_metrics` gives of a pass, broken off after so many steps."""
    labels = []
    for step, batch in enumerate(loader, start=1):
        labels += accelerator.gather_for_metrics(batch).tolist()
        if step == steps:
            break
    return labels


def modes(_: Path) -> list[dict]:
    """Every mode of Accelerate's own loaders leaves ours as they are, from aligned and other positions."""
    told = []
    for dispatch, even, split in itertools.product((None, True, False), (True, False), (True, False)):
        accelerator = fresh(split_batches=split, even_batches=even, dispatch_batches=dispatch)
        for position in (0, 20, 37, 100):
            loader = make("n101", BATCH)
            loader.load_state_dict(loader.state_dict() | {"position": position})
            loader = accelerator.prepare(loader)
            steps = len(loader)
            labels = gathered(accelerator, loader)
            told.append(
                {"position": position, "steps": steps, "labels": labels, "rows": loader.report.samples}
            )
    return told


def saving(folder: Path) -> dict:
    """Positions of two loaders travel with `save_state` and `load_state`, into new loaders."""
    told = {}
    for number in range(2):
        accelerator = fresh(gradient_accumulation_steps=2)
        model, loss = nn.Linear(1, 1), nn.MSELoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        train, test = make("n101", BATCH, 2, shuffle=True), make("n96", BATCH)
        model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)
        if number == 0:
            told["all"] = gathered(accelerator, train)
            told["first"] = gathered(accelerator, train, steps=3)  # of the second epoch
            told["test_first"] = gathered(accelerator, test, steps=2)
            accelerator.save_state(str(folder / "state"))
        else:
            accelerator.load_state(str(folder / "state"))
            told["left"] = len(train), len(test)
            told["rest"] = gathered(accelerator, train)
            told["test_rest"] = gathered(accelerator, test)
            told["next"] = gathered(accelerator, train)
            told["epochs"] = train.state_dict()["epoch"], test.state_dict()["epoch"]
            inputs = torch.ones(1, 1)
            accelerator.backward(loss(model(inputs), inputs))
            optimizer.step()
    return told


def accumulating(_: Path) -> list[dict]:
    """The optimizer steps at the last batch of a pass, wherever that began, a validation inside it or not."""
    told = []
    for position, inside in itertools.product((0, 37, 90), (False, True)):
        accelerator = fresh(gradient_accumulation_steps=3)
        model = nn.Linear(1, 1)
        train, test = make("n101", BATCH, shuffle=True), make("n96", BATCH)
        train.load_state_dict(train.state_dict() | {"position": position})
        model, train, test = accelerator.prepare(model, train, test)
        steps, synced, ends, validated = len(train), [], [], []
        for _ in train:
            with accelerator.accumulate(model):
                synced.append(accelerator.sync_gradients)
            if inside and len(synced) == 2:
                validated = gathered(accelerator, test)
            assert accelerator.gradient_state.active_dataloader is train
            ends.append(accelerator.gradient_state.end_of_dataloader)
        told.append(
            {"steps": steps, "synced": synced, "ends": ends, "validated": validated, "inside": inside}
        )
        assert not accelerator.gradient_state.in_dataloader
    return told


def breaking(_: Path) -> dict:
    """A pass that is broken off is followed by a whole one, beside another loader's."""
    accelerator = fresh()
    train, test = accelerator.prepare(make("n101", BATCH, 2, shuffle=True), make("n96", BATCH, 1))
    told = {"first": gathered(accelerator, train, steps=2)}
    told["whole"] = gathered(accelerator, train)
    pairs = list(zip(train, test, strict=False))
    told["pairs"] = len(pairs)
    told["both"] = [len(labels_of([one])) for one, _ in pairs]
    told["after"] = gathered(accelerator, test)
    return told


def outside(_: Path) -> list[str]:
    """A plain `DataLoader` would split what is split already; its workers by spawn know of no Accelerate."""
    fresh()
    told = []
    for workers in ({}, {"num_workers": 1}, {"num_workers": 1, "multiprocessing_context": "spawn"}):
        with pytest.raises(UsageError) as refused:
            list(DataLoader(Labels("n101", True), **workers))
        told.append(str(refused.value))
    return told


CASES = {case.__name__: case for case in (modes, saving, accumulating, breaking, outside)}


def main(folder: Path) -> None:
    told = {"world": Accelerator(cpu=True).num_processes}
    told |= {name: case(folder) for name, case in CASES.items()}
    rank = torch.distributed.get_rank()
    (folder / f"rank{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
