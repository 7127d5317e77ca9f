"""Runs in every rank of a job that loses one: gathers step by step, and notes what all have received."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist
from support.reading import make


def main(folder: Path, struck_at: int) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    loader = make("numbers", 3, 2, shuffle=True)
    notes = folder / "notes.json"
    noted = json.loads(notes.read_text()) if notes.exists() else {"received": []}
    if "state" in noted:
        loader.load_state_dict(noted["state"])
    for step, labels in enumerate(loader):
        if (rank, step) == (1, struck_at):
            os.kill(os.getpid(), signal.SIGKILL)
        parts: list[list[int]] = [[]] * world
        dist.all_gather_object(parts, labels.tolist())
        rows = [row for part in parts for row in part]
        real = loader.remainder if loader.end_of_dataloader and loader.remainder else len(rows)
        noted = {"received": noted["received"] + rows[:real], "state": loader.state_dict()}
        if rank == 0:
            new = notes.with_suffix(".new")
            new.write_text(json.dumps(noted))
            new.replace(notes)
        dist.barrier()  # a step is noted before the next may lose a rank
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
