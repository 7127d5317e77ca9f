"""Saves or loads a checkpoint in every rank of several machines, which share a store and no disk."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from support.reading import make
from torch import nn

from benchkit import get_accelerator, load_model_checkpoint, upload_model_checkpoint
from benchkit.errors import BenchKitError
from benchkit.train.uploads import UPLOADS


def main(folder: Path, action: str) -> None:
    accelerator = get_accelerator(cpu=True)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, make("n20", 1, shuffle=True))
    told: dict = {"world": accelerator.num_processes, "local": accelerator.local_process_index}
    if action == "load":
        told["label"] = load_model_checkpoint(accelerator, "places").label
    else:
        torch.manual_seed(accelerator.process_index)
        next(iter(loader))
        try:
            told["label"] = upload_model_checkpoint(accelerator, "places", wait=True).label
            UPLOADS.wait()
        except BenchKitError as error:
            told["error"] = f"{type(error).__name__}: {error}"
    told["position"] = loader.state_dict()["position"]
    told["random"] = torch.get_rng_state().tolist()
    (folder / f"{action}-{accelerator.process_index}.json").write_text(json.dumps(told))
    accelerator.wait_for_everyone()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
