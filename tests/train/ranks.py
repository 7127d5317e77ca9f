"""Runs in every process of a test of several: passes under Accelerate in all its modes, told as JSON."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration

from benchkit import IterableChunk, get_dataset
from benchkit.stream.chunks import source_of


class Numbers(IterableChunk):
    def __init__(self, name, cloud, shuffle):
        super().__init__(name, cloud, shuffle=shuffle)

    def _data_iterator(self):
        for label, files in super()._data_iterator():
            yield label, len(files[0].getbuffer())


def run(name: str, dispatch: bool | None, workers: int, shuffle: bool) -> dict:
    GradientState._reset_state()
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
    loader = get_dataset(Numbers, True, name, 5, workers, shuffle)
    loader = accelerator.prepare(loader)
    mine, gathered, ends, sliced = [], [], [], []
    loader.on_report = lambda report: sliced.append(report.sliced)
    for labels, _ in loader:
        mine += labels.tolist()
        ends.append(accelerator.gradient_state.end_of_dataloader)
        gathered += accelerator.gather_for_metrics(labels).tolist()
    reader = source_of(loader.dataset._chunk).open().reader
    return {
        "name": name,
        "dispatch": dispatch,
        "workers": workers,
        "shuffle": shuffle,
        "world": accelerator.num_processes,
        "steps": len(loader),
        "mine": mine,
        "gathered": gathered,
        "ends": ends,
        "handed": loader.report.samples,
        "sliced": sum(sliced),
        "chunks_opened": len(reader.chunks_opened),
        "chunks": len(source_of(loader.dataset._chunk).open().manifest.chunks),
        "in_dataloader": accelerator.gradient_state.in_dataloader,
    }


def main(out: Path) -> None:
    cases = itertools.product(("n96", "n101"), (None, True, False), (0, 2), (False, True))
    results = [run(*case) for case in cases]
    rank = torch.distributed.get_rank()
    (out / f"rank{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
