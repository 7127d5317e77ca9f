"""Runs in a fresh process: one step of a measurement, told as one line of JSON, the last of its output.

prepare  pack what will be streamed, and publish it
check    read everything that was packed, and compare it with the source files
pack     pack, measured
stream   two passes, the first with an empty cache
first    the first batch, from the start of the process
stop     half a pass, then save where it stands
resume   go on from there; the first batch is measured, and all that was left is read
start    the first batch of a pass from its beginning, with the cache that `stop` filled
measure  whatever a limit measures of itself
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from cases import BATCH_SIZE, Case, Form, Place, read_job
from sides import SIDES

Figures = dict[str, Any]

_COMPARE = 16
# Of 255, on the average of a picture: what two resizers round differently.
_TOLERANCE = 1


def prepare(side: ModuleType, case: Case, place: Place) -> Figures:
    """Pack what will be streamed; return the folder that an object store gets."""
    side.pack(place.read_files(), place.packed, case, place)
    publish = getattr(side, "publish", None)
    return {"published": str(publish(place.packed) if publish else place.packed)}


def check(side: ModuleType, case: Case, place: Place) -> Figures:
    """Read everything once, and compare it with the source files: every byte, and one picture in so many."""
    files, seen = place.read_files(), []
    for batch in side.load(case, place):
        numbers = _numbers(batch)
        for number, content in zip(numbers, batch[1], strict=True):
            data = Path(files[number]).read_bytes() if case.form == "raw" or number % _COMPARE == 0 else None
            if data is not None and not _is_same(content, data, case.form):
                raise ValueError(f"sample {number} came back with another content")
        seen.extend(numbers)
    return {"samples": len(seen), "repeated": _count_repeated(seen, range(case.count))}


def pack(side: ModuleType, case: Case, place: Place) -> Figures:
    """Measure packing."""
    files, out = place.read_files(), place.packed
    cpu, started = _cpu_seconds(), time.perf_counter()
    side.pack(files, out, case, place)
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
    stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"first_rate": case.count / seconds, "cpu_us": cpu / case.count * 1e6, "stored_bytes": stored}


def stream(side: ModuleType, case: Case, place: Place) -> Figures:
    """Measure two passes."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    loader = side.load(case, place)
    rate, first_batch, repeated = _read_pass(loader, case, place, started)
    figures = {"first_rate": rate, "first_batch_seconds": first_batch, "repeated": repeated}
    if case.latency_ms is not None:  # a second pass reads the cache, as from a folder
        return figures
    second_rate, _, again = _read_pass(loader, case, place, time.perf_counter())
    del loader
    cpu = _cpu_seconds() - cpu
    return figures | {
        "second_rate": second_rate,
        "cpu_us": cpu / (2 * case.count) * 1e6,
        "repeated": repeated + again,
    }


def first(side: ModuleType, case: Case, place: Place) -> Figures:
    """Measure the time from the start of this process to the first batch."""
    _take(side.load(case, place))
    return {"first_batch_seconds": time.monotonic() - place.started}


def stop(side: ModuleType, case: Case, place: Place) -> Figures:
    """Read half a pass, and save the loader's state and what it has yielded."""
    import torch  # noqa: PLC0415  # not for limits that need none

    loader, seen = side.load(case, place), []
    batches = iter(loader)
    for _ in range(case.count // BATCH_SIZE // 2):
        seen.extend(_numbers(next(batches)))
    torch.save({"loader": loader.state_dict(), "seen": seen}, place.scratch / "state")
    return {"samples": len(seen)}


def resume(side: ModuleType, case: Case, place: Place) -> Figures:
    """Measure the first batch after a state is loaded, and check that what was left comes."""
    import torch  # noqa: PLC0415

    state = torch.load(place.scratch / "state", weights_only=True)
    started = time.perf_counter()
    loader = side.load(case, place)
    loader.load_state_dict(state["loader"])
    batches = iter(loader)
    numbers = _numbers(next(batches))
    seconds = time.perf_counter() - started
    for batch in batches:
        numbers.extend(_numbers(batch))
    return {
        "resume_seconds": seconds,
        "repeated": _count_repeated(state["seen"] + numbers, range(case.count)),
    }


def start(side: ModuleType, case: Case, place: Place) -> Figures:
    """Measure the first batch of a pass from its beginning."""
    started = time.perf_counter()
    _take(side.load(case, place))
    return {"start_seconds": time.perf_counter() - started}


def measure(side: ModuleType, case: Case, place: Place) -> Figures:
    """Return what a limit measures of itself."""
    figures: Figures = side.measure(case, place)
    return figures


ACTIONS: dict[str, Callable[[ModuleType, Case, Place], Figures]] = {
    "prepare": prepare,
    "check": check,
    "pack": pack,
    "stream": stream,
    "first": first,
    "stop": stop,
    "resume": resume,
    "start": start,
    "measure": measure,
}


def _is_same(content: Any, data: bytes, form: Form) -> bool:
    """Return whether a sample has its file's bytes, or is the picture in them."""
    if form == "raw":
        return bool(content == data)
    from rows import decode_pillow  # noqa: PLC0415  # not for limits that need no torch

    expected = decode_pillow(data)
    return content.shape == expected.shape and (content - expected.float()).abs().mean() < _TOLERANCE


def _read_pass(loader: Any, case: Case, place: Place, started: float) -> tuple[float, float, int]:
    """Return samples per second, seconds to the first batch, and samples that came more than once."""
    numbers, size, first_batch = [], 0, 0.0
    raw = case.form == "raw"
    for batch in loader:
        first_batch = first_batch or time.perf_counter() - started
        numbers.extend(_numbers(batch))
        if raw:
            size += sum(map(len, batch[1]))
        elif batch[1].shape[1:] != (3, 224, 224) or batch[1].element_size() != 1:
            raise ValueError(f"pictures are {batch[1].dtype} of shape {tuple(batch[1].shape)}")
    seconds = time.perf_counter() - started
    repeated = _count_repeated(numbers, range(case.count))
    if raw and not repeated and size != place.total_bytes:
        raise ValueError(f"{size} bytes came of {place.total_bytes}")
    return len(numbers) / seconds, first_batch, repeated


def _count_repeated(numbers: list[int], expected: Iterable[int]) -> int:
    """Return how many samples came again; every one must have come."""
    seen, wanted = set(numbers), set(expected)
    if seen != wanted:
        lacking, strange = len(wanted - seen), len(seen - wanted)
        raise ValueError(f"{lacking} of {len(wanted)} samples did not come, and {strange} unknown ones did")
    return len(numbers) - len(seen)


def _numbers(batch: Any) -> list[int]:
    numbers = batch[0]
    return list(numbers) if isinstance(numbers, list | tuple) else numbers.tolist()


def _take(loader: Any) -> None:
    """Take one batch; the iterator goes when this process does."""
    if not len(_numbers(next(iter(loader)))):
        raise ValueError("the first batch is empty")


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def main() -> None:
    """Do what the command line says."""
    case, place = read_job(sys.argv[1])
    side = importlib.import_module(SIDES[case.side].module)
    for name in side.imports(case) if hasattr(side, "imports") else ():
        importlib.import_module(name)
    figures = ACTIONS[case.action](side, case, place)
    print("\n" + json.dumps(figures))


if __name__ == "__main__":
    main()
