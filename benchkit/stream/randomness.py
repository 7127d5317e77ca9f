"""The random numbers of a batch: seeded for it, wherever it is made, and the training's own put back."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch.utils.data import get_worker_info

_MT19937_BYTES = 624 * 4 + 4
"""The state of NumPy's MT19937: its words, and which of them is next."""


class Randomness:
    """Seeds torch, NumPy and random: augmentation depends on the batch, and not on who makes it."""

    def __init__(self) -> None:
        self._own = np.random.MT19937(0)
        self._single: tuple[object, bytes] | None = None

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Have the random numbers follow from the seed.

        In the training process their states are put back, so that the model's go on undisturbed.
        """
        if get_worker_info():
            _seed_all(seed)
            yield
            return
        torch_state, python_state = torch.get_rng_state(), random.getstate()
        theirs = mtrand.get_bit_generator()
        # To put NumPy's state back takes long. But to exchange its generator loses half of a pair of numbers.
        numpy_state = None if self._is_single(theirs) else np.random.get_state(legacy=False)  # noqa: NPY002
        mtrand.set_bit_generator(self._own)
        _seed_all(seed)
        try:
            yield
        finally:
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            mtrand.set_bit_generator(theirs)
            if numpy_state:
                np.random.set_state(numpy_state)  # noqa: NPY002

    def _is_single(self, generator: Any) -> bool:
        """Return whether NumPy's legacy functions hold no half of a pair of normal numbers.

        To ask them takes longer than to see that the generator stands where it stood without one.
        """
        now = None
        if isinstance(generator, np.random.MT19937):
            now = generator, ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)
            if now == self._single:
                return True
        single = not np.random.get_state(legacy=False)["has_gauss"]  # noqa: NPY002
        self._single = now if single else None
        return single


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(seed)
