"""The random numbers of a batch: seeded for it, wherever it is made, and the training's own put back."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch.utils.data import get_worker_info

_in_use = threading.RLock()
"""The generators are the process's: loaders in several threads take turns."""


class Randomness:
    """Seeds torch, NumPy and random: augmentation depends on the batch, and not on who makes it."""

    def __init__(self) -> None:
        self._own = np.random.MT19937(0)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Have the random numbers follow from the seed.

        In the training process their states are put back, so that the model's go on undisturbed.
        """
        if get_worker_info():
            _seed_all(seed)
            yield
            return
        with _in_use:
            torch_state, python_state = torch.get_rng_state(), random.getstate()
            # NumPy's generator is exchanged, for to put its state back takes long; that loses half of a pair
            # of normal numbers, which the legacy functions keep beside it.
            theirs, half = mtrand.get_bit_generator(), _read_half()
            mtrand.set_bit_generator(self._own)
            _seed_all(seed)
            try:
                yield
            finally:
                torch.set_rng_state(torch_state)
                random.setstate(python_state)
                mtrand.set_bit_generator(theirs)
                _write_half(half)


class _Aside:
    """Stands where NumPy's functions look for the generator whose state they tell or set, and has none."""

    @property
    def state(self) -> dict[str, Any]:
        """Nothing, in the form of a state."""
        return {"bit_generator": "none", "state": {}}

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        """Set nothing."""


@contextmanager
def _generator_aside() -> Iterator[None]:
    legacy: Any = mtrand._rand  # noqa: SLF001 - the functions of np.random are its methods
    theirs, legacy._bit_generator = legacy._bit_generator, _Aside()  # noqa: SLF001
    try:
        yield
    finally:
        legacy._bit_generator = theirs  # noqa: SLF001


def _read_half() -> dict[str, Any]:
    """Return the half of a pair of normal numbers that NumPy's legacy functions keep."""
    with _generator_aside():
        half: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
    return half


def _write_half(half: dict[str, Any]) -> None:
    with _generator_aside():
        np.random.set_state(half)  # noqa: NPY002


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(seed)


def _after_fork() -> None:
    """Have a lock that no thread of the process before the fork holds."""
    global _in_use  # noqa: PLW0603
    _in_use = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
