"""The limit of decoding: the bare decoder on bytes in memory, as many processes at once as are asked for."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from cases import Case, Place
from rows import decode_pillow, decode_simplejpeg

_DECODERS = {"pillow": decode_pillow, "simplejpeg": decode_simplejpeg}


def measure(case: Case, place: Place) -> dict[str, float]:
    """Return images per second of all processes together; with 0 workers, of one."""
    files = place.read_files()
    processes = max(case.workers, 1)
    with multiprocessing.Pool(processes, _wait_for, (multiprocessing.Barrier(processes),)) as pool:
        parts = [files[number::processes] for number in range(processes)]
        seconds = pool.map(partial(_decode, case.form), parts, chunksize=1)
    rate = len(files) / max(seconds)
    return {"first_rate": rate, "second_rate": rate}


def _wait_for(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603  # a barrier is inherited, it cannot be sent
    _barrier = barrier
    torch.set_num_threads(1)


def _decode(form: str, files: Sequence[str]) -> float:
    contents, decode = [Path(path).read_bytes() for path in files], _DECODERS[form]
    _barrier.wait()
    started = time.perf_counter()
    for data in contents:
        decode(data)
    return time.perf_counter() - started
