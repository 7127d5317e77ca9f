"""Runs in every process of a test of several: torch.distributed alone, without Accelerate."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from support.making import publish_samples

from benchkit import IterableChunk, get_dataset


class Labels(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label


def main(out: Path) -> None:
    loader = get_dataset(Labels, True, "n101", 5, 2, shuffle=True)
    dist.init_process_group("gloo")
    gathered: list[int] = []
    for labels in loader:
        parts: list[list[int]] = [[]] * dist.get_world_size()
        dist.all_gather_object(parts, labels.tolist())
        rows = [row for part in parts for row in part]
        gathered += rows[: loader.remainder] if loader.end_of_dataloader and loader.remainder else rows
    outside = [label for label in Labels("n101", True)]  # noqa: C416
    versions, project = [], Path(os.environ["BENCHKIT_PROJECT"])
    for _ in range(2):  # between the first rank's look at the store and the others' a version is published
        grown = get_dataset(Labels, True, "grown", 5, 0)
        for rank in range(dist.get_world_size()):
            if dist.get_rank() == rank:
                versions.append(grown.opened.version.number)
                publish_samples(project, "grown", 10 * (versions[-1] + rank + 1), per_chunk=10)
            dist.barrier()
    told = {
        "versions": versions,
        "world": dist.get_world_size(),
        "gathered": gathered,
        "outside": outside,
        "accelerate": "accelerate" in sys.modules,
    }
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
