"""Runs in every process of a test of several: training with everything prepared, and temporary files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from benchkit import IterableChunk, get_accelerator, get_dataset, wipe_temp
from benchkit.errors import UsageError
from benchkit.train import temporary_folder


class Numbers(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield torch.tensor([float(label)]), torch.tensor([1.0])


def main(out: Path, cache: Path) -> None:
    accelerator = get_accelerator()
    model, loss_fn = nn.Linear(1, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    loader = get_dataset(Numbers, True, "n96", 8, 0, shuffle=True)
    model, loss_fn, optimizer, loader = accelerator.prepare(model, loss_fn, optimizer, loader)
    for inputs, targets in loader:
        optimizer.zero_grad()
        accelerator.backward(loss_fn(model(inputs), targets))
        optimizer.step()
    weights = accelerator.gather(next(model.parameters()).detach().reshape(1))

    folder = temporary_folder(accelerator)
    (folder / f"{accelerator.process_index}.txt").write_text("x")
    accelerator.wait_for_everyone()
    files = len(list(folder.iterdir()))
    accelerator.wait_for_everyone()
    cached = sorted(path.name for path in (cache / "chunks").iterdir())
    for _ in range(2):
        wipe_temp(accelerator)
    refused = ""
    try:
        get_accelerator(split_batches=True)
    except (UsageError, ValueError) as error:
        refused = str(error)
    outside = ""
    try:
        list(accelerator.prepare(torch.utils.data.DataLoader(Numbers("n96", True))))
    except UsageError as error:
        outside = str(error)
    told = {
        "world": accelerator.num_processes,
        "weights": weights.tolist(),
        "temporary_files": files,
        "left": folder.exists(),
        "cache_kept": cached == sorted(path.name for path in (cache / "chunks").iterdir()),
        "refused": refused,
        "outside": outside,
    }
    (out / f"rank{accelerator.process_index}.json").write_text(json.dumps(told))
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
