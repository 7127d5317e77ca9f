"""Runs in every process of a test of several: a tracker and a logger, told as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from benchkit import BenchAccelerateTracker, ExperimentLogger, IterableChunk, get_accelerator, get_dataset


class Numbers(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield torch.tensor([float(label)])


def main(out: Path) -> None:
    tracker = BenchAccelerateTracker("two ranks", 2, sync_seconds=0.2)
    accelerator = get_accelerator(log_with=tracker)
    model = nn.Linear(1, 1)
    model, loader = accelerator.prepare(model, get_dataset(Numbers, True, "n96", 8, 0, shuffle=True))
    if accelerator.is_main_process:  # as many scripts do; nobody waits for the others
        accelerator.init_trackers("trial", config={"lr": 1e-3})
    step = 0
    for epoch in range(2):
        for inputs in loader:
            step += 1
            accelerator.log({"mean": inputs.mean(), "epoch": epoch}, step=step)
    (tracker.path_model_checkpoints() / f"rank{accelerator.process_index}.txt").write_text("x")
    accelerator.wait_for_everyone()
    (tracker.path_model() / "model.txt").write_text("y")
    logger = ExperimentLogger("beside", sync_seconds=0)
    logger.log_scalar("only/main", accelerator.process_index, 1)
    told = {"world": accelerator.num_processes, "run": tracker.run, "beside": logger.run, "steps": step}
    accelerator.wait_for_everyone()
    logger.finish()
    accelerator.end_training()
    (out / f"rank{accelerator.process_index}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
