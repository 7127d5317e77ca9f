"""Trainings in this process, small enough for a test of what a checkpoint carries."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from support.making import publish_samples
from support.reading import make
from torch import nn

from benchkit.data.catalogue import open_catalogue
from benchkit.settings import load_settings
from benchkit.store.bundles import Shelf
from benchkit.store.urls import open_remote
from benchkit.train.checkpoint_folder import LocalCopies
from benchkit.train.checkpoint_record import Checkpoint
from benchkit.train.checkpoint_store import open_shelf

NAME = "cats"


class Notes:
    """Something of the user's that a checkpoint carries."""

    def __init__(self, value: Any = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.path}",))


@dataclass
class Training:
    """A training of 20 samples in batches of 4, with an Accelerator that knows of no other."""

    width: int = 3
    accumulate: int = 1
    compiled: bool = False
    notes: Notes | None = None
    accelerator: Accelerator = field(init=False)

    def __post_init__(self) -> None:
        GradientState._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=self.accumulate)
        model = nn.Sequential(nn.Linear(1, self.width), nn.Dropout(0.5), nn.Linear(self.width, 1))
        if self.compiled:
            model = torch.compile(model, backend="eager")
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        self.model, self.optimizer, self.scheduler, self.loader = self.accelerator.prepare(
            model, optimizer, scheduler, make("n20", 4, shuffle=True)
        )
        if self.notes:
            self.accelerator.register_for_checkpointing(self.notes)

    def steps(self, count: int) -> list[float]:
        """Make so many steps of an epoch and return their losses."""
        losses: list[float] = []
        for labels in self.loader:
            with self.accelerator.accumulate(self.model):
                loss = self.model(labels[:, None].float()).square().mean()
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) == count:
                break
        return losses


def publish_data(project: Path) -> None:
    """Publish the samples that such a training reads."""
    publish_samples(project, "n20", 20, per_chunk=6)


def shelf() -> Shelf:
    """Return the shelf of the trainings' checkpoints in the project's remote."""
    return open_shelf(open_remote(load_settings()), NAME)


def copies(project: Path) -> LocalCopies:
    """Return the local copies of the trainings' checkpoints."""
    return LocalCopies(project / "checkpoint" / NAME, NAME)


def tamper(project: Path, checkpoint: Checkpoint, change: Callable[[Path], object]) -> None:
    """Change a checkpoint's files and make them the newest version, with the right digests."""
    local = copies(project)
    change(local.folder(checkpoint.id))
    there = shelf()
    open_catalogue(there.store, create=True)
    files = there.send(local.folder(checkpoint.id), into=checkpoint.id)
    there.publish(files, into=checkpoint.id, details=checkpoint.to_details())
    local.clear(checkpoint.id)
