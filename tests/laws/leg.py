"""Runs in every process of a leg: goes on from a state for so many steps, and tells what was consumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist
from support.reading import make


def main(folder: Path, batch: int, workers: int, steps: int) -> None:
    dist.init_process_group("gloo")
    loader = make("numbers", batch, workers, shuffle=True)
    if (folder / "state.json").exists():
        loader.load_state_dict(json.loads((folder / "state.json").read_text()))
    left, gathered = len(loader), []
    for step, labels in enumerate(loader, start=1):
        parts = [[]] * dist.get_world_size()
        dist.all_gather_object(parts, labels.tolist())
        rows = [row for part in parts for row in part]
        gathered += rows[: loader.remainder] if loader.end_of_dataloader and loader.remainder else rows
        if step == steps:
            break
    dist.barrier()
    if dist.get_rank() == 0:
        told = {"world": dist.get_world_size(), "left": left, "gathered": gathered}
        (folder / "told.json").write_text(json.dumps(told))
        (folder / "state.json").write_text(json.dumps(loader.state_dict()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:]))
