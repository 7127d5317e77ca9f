"""Runs in every rank of the law of iterators: each case is gathered in step, stopped, and gone on with."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from support.reading import Labels, make

NAME, BATCH, STOP = "n53", 4, 3
SKIPPED = range(5, 53, 11)
"""Samples that fail where they are asked to."""
TABLES = {
    "filters": [0, 1, 1],
    "multiplies": [3, 0, 1, 1],
    "rare": [0] * 6 + [1],
    "grows": [2],
    "skips": [1],
}
CASES = [*((table, 0) for table in TABLES), ("multiplies", 2), ("rare", 2), ("skips", 2)]


class Shaped(Labels):
    """Yields the label of a sample so many times as a table says, or fails at it."""

    def __init__(self, name: str, cloud: bool, *, table: str, **more: object) -> None:
        super().__init__(name, cloud, **more)
        self.table = table

    def _data_iterator(self):
        for label in super()._data_iterator():
            if self.table == "skips" and label in SKIPPED:
                raise ValueError(f"sample {label} is torn")
            yield from [label] * copies(self.table, label)


def copies(table: str, label: int) -> int:
    """Return how many rows become of a sample that does not fail."""
    return TABLES[table][label % len(TABLES[table])]


def gathered(loader, steps: int = 0) -> list[list[int]]:
    """Return what this rank gets, in step with all others, up to so many steps."""
    batches = []
    for step, labels in enumerate(loader, start=1):
        shapes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
        dist.all_gather(shapes, torch.tensor(labels.shape))
        assert all(shape.tolist() == [BATCH] for shape in shapes)
        batches.append(labels.tolist())
        if step == steps:
            break
    return batches


def case(table: str, workers: int) -> dict:
    """Return what a pass gives, what is told of it, and what a pass that was stopped and resumed gives."""
    options = {"chunk": Shaped, "table": table, "shuffle": True, "on_error": "skip"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        whole = make(NAME, BATCH, workers, **options)
        batches = gathered(whole)
    first = make(NAME, BATCH, workers, **options)
    before = gathered(first, STOP)
    second = make(NAME, BATCH, workers, **options)
    second.load_state_dict(first.state_dict())
    report = whole.report
    return {
        "steps": len(whole),
        "batches": batches,
        "resumed": before + gathered(second),
        "report": [report.batches, report.samples, report.rows, report.uneven],
        "errors": report.errors,
        "told": [str(warning.message) for warning in told],
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    cases = {f"{table}-{workers}": case(table, workers) for table, workers in CASES}
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(cases))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
