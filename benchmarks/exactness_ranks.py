"""Runs in every process of a case of `exactness.py`: one pass over one loader, told line by line."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from exactness_samples import content

# Where a pass stops that is to be resumed or killed.
STOP_STEP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to try.

    Attributes:
        peer: Whose loader: the end of a module's name.
        way: One of the peer's ways to load.
        prepared: Whether the loader is handed to `accelerator.prepare`.
        dispatch: Accelerate's `dispatch_batches`; None is its default.
        workers: Loading processes of each rank.
        world: Ranks.
        batch_size: Samples of a rank's batch.
        action: `pass` is a pass; `stop` saves the loader's state after some steps; `resume` goes on from
            there; `stall` waits after some steps to be killed; `write` writes the dataset.
        samples: How many there are.
    """

    peer: str
    way: str = "default"
    prepared: bool = False
    dispatch: bool | None = None
    workers: int = 0
    world: int = 2
    batch_size: int = 8
    action: Literal["pass", "stop", "resume", "stall", "write"] = "pass"
    samples: int = 96

    def to_json(self) -> str:
        """Return the case as an argument of a command."""
        return json.dumps(asdict(self))


def run(case: Case, data: Path, scratch: Path) -> None:
    """Make the pass, and write what happens to a file of this rank.

    Args:
        case: What to try.
        data: Where the peer's dataset is.
        scratch: Where the cache is, the loader's state, and what the ranks tell.
    """
    peer = importlib.import_module(f"exactness_{case.peer}")
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=case.dispatch)
    )
    if accelerator.num_processes != case.world:
        raise RuntimeError(f"{accelerator.num_processes} processes were started, not {case.world}")
    with (scratch / f"rank{accelerator.process_index}.jsonl").open("w", buffering=1) as told:

        def tell(**what: object) -> None:
            told.write(json.dumps(what) + "\n")

        tell(world=accelerator.num_processes)
        cache, alone = scratch / "cache", not case.prepared
        loader = peer.load(data, cache, case.way, case.workers, case.batch_size, alone=alone)
        if case.prepared:
            loader = accelerator.prepare(loader)
        state = scratch / "state.pt"
        if case.action == "resume":
            loader.load_state_dict(torch.load(state, weights_only=True))
        _iterate(case, loader, accelerator, state, tell)


def _iterate(
    case: Case, loader: object, accelerator: Accelerator, state: Path, tell: Callable[..., None]
) -> None:
    for step, (labels, contents) in enumerate(loader, start=1):
        rows = labels.tolist()
        wrong = [row for row, data in zip(rows, contents.numpy(), strict=True) if bytes(data) != content(row)]
        tell(rows=rows, wrong=wrong)
        tell(gathered=accelerator.gather_for_metrics(labels).tolist())
        if step == STOP_STEP and case.action == "stop":
            if accelerator.is_main_process:
                torch.save(loader.state_dict(), state)
            break
        if step == STOP_STEP and case.action == "stall":
            tell(stalled=True)
            time.sleep(3600)
    accelerator.wait_for_everyone()
    tell(done=True)
    accelerator.end_training()


def main() -> None:
    """Do what the command line's case says."""
    case, data, scratch = Case(**json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
    if case.action == "write":
        importlib.import_module(f"exactness_{case.peer}").write(data, case.samples)
    else:
        run(case, data, scratch)


if __name__ == "__main__":
    main()
