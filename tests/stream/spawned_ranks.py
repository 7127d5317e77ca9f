"""Starts two ranks without a launcher's variables, which read a dataset through torch's own `DataLoader`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist
from torch import multiprocessing
from torch.utils.data import DataLoader

from benchkit import IterableChunk


class Labels(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label


def main(rank: int, method: str, out: Path, labels: Labels) -> None:
    dist.init_process_group("gloo", init_method=f"file://{out}/group", rank=rank, world_size=2)
    loader = DataLoader(labels, batch_size=None, num_workers=2, multiprocessing_context=method)
    (out / f"rank{rank}.json").write_text(json.dumps(list(loader)))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    arguments = sys.argv[1], Path(sys.argv[2]), Labels("n101", True)
    multiprocessing.spawn(main, args=arguments, nprocs=2)
