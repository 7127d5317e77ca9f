"""Runs apart: many passes, whole and broken off, and what the processes hold early and late."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from support.reading import Numbers, make

from benchkit.stream.loader import ChunkLoader

BATCH = 4
FIRST, LAST = 3, 20
FEW, BREAKS = 8, 100
CASES = {"alone": (0, False), "workers": (2, False), "persistent": (2, True)}
"""Workers, and whether they persist."""


@dataclass(frozen=True)
class Held:
    """What is held: by this process first, then by each of its workers.

    Attributes:
        files, threads: How many are open, or run.
        memory_bytes: Memory of their own or shared, without what programs and libraries are read from.
        objects: Objects that this process's collector knows.
    """

    files: list[int]
    threads: list[int]
    memory_bytes: list[int]
    objects: int


def look() -> Held:
    """Return what is held now."""
    gc.collect()
    here = psutil.Process()
    processes = [here, *sorted(here.children(), key=lambda child: child.pid)]
    return Held(
        files=[process.num_fds() for process in processes],
        threads=[process.num_threads() for process in processes],
        memory_bytes=[own_bytes(process.pid) for process in processes],
        objects=len(gc.get_objects()),
    )


def own_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024


def look_at_rest() -> Held:
    """Return what is held once threads that were told to end have ended."""
    before = look()
    while True:
        time.sleep(0.4)
        now = look()
        if (now.files, now.threads) == (before.files, before.threads):
            return now
        before = now


def passes(loader: ChunkLoader) -> tuple[Held, Held]:
    for epoch in range(1, LAST + 1):
        for _ in loader:
            pass
        if epoch == FIRST:
            early = look_at_rest()
    return early, look_at_rest()


def breaks(loader: ChunkLoader) -> tuple[Held, Held]:
    for number in range(1, FEW + BREAKS + 1):
        for step, _ in enumerate(loader):
            if step == number % 7:
                break
        if number == FEW:
            early = look_at_rest()
    return early, look_at_rest()


def measure(run: Callable[[ChunkLoader], tuple[Held, Held]], workers: int, persistent: bool) -> dict:
    loader = make(
        "n", BATCH, workers, chunk=Numbers, shuffle=True, open_chunks=4, persistent_workers=persistent
    )
    early, late = run(loader)
    return {"early": asdict(early), "late": asdict(late), "steps": len(loader)}


def main(out: Path) -> None:
    told = {
        f"{run.__name__}-{name}": measure(run, *case)
        for run in (passes, breaks)
        for name, case in CASES.items()
    }
    out.write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
