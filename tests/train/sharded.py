"""Saves a sharded model in some ranks, or loads it in others; each tells of the weights it has in the end.

Accelerate shards on devices alone; told that these CPUs are some, it does so here too.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from support.reading import make
from torch import nn

from benchkit import load_model_checkpoint, upload_model_checkpoint
from benchkit.errors import BenchKitError


def main(folder: Path, action: str) -> None:
    PartialState(cpu=True).distributed_type = DistributedType.MULTI_XPU
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, reshard_after_forward=True, state_dict_type="SHARDED_STATE_DICT"
    )
    accelerator = Accelerator(fsdp_plugin=plugin)
    assert accelerator.distributed_type is DistributedType.FSDP
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, make("n20", 2, shuffle=True))
    told: dict = {"world": accelerator.num_processes}
    if action == "load":
        try:
            told["position"] = load_model_checkpoint(accelerator, "shards").position
        except BenchKitError as error:
            told["error"] = f"{type(error).__name__}: {error}"
    else:
        for labels in loader:
            accelerator.backward(model(labels[:, None].float()).square().mean())
            optimizer.step()
            optimizer.zero_grad()
            if loader.state_dict()["position"] >= 8:
                break
        told["label"] = upload_model_checkpoint(accelerator, "shards", wait=True).label
    told["weights"] = [weight.full_tensor().tolist() for weight in model.parameters()]
    states = [optimizer.state[weight] for weight in optimizer.param_groups[0]["params"]]
    told["moments"] = [state["exp_avg"].full_tensor().tolist() for state in states if state]
    told["rate"] = optimizer.param_groups[0]["lr"]
    told["left"] = loader.state_dict()["position"]
    (folder / f"{action}-{accelerator.process_index}.json").write_text(json.dumps(told))
    accelerator.wait_for_everyone()
    os._exit(0)  # taking the group down here is torch's own adventure


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
