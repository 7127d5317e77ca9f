"""The random numbers of a batch: seeded for it, wherever it is made, and the training's own put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import mtrand
from torch.utils.data import get_worker_info


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
        states = torch.get_rng_state(), random.getstate()
        numpy_state, theirs = np.random.get_state(legacy=False), mtrand.get_bit_generator()  # noqa: NPY002
        # To put NumPy's state back takes long. But to exchange its generator loses half of a pair of numbers.
        exchanged = not numpy_state["has_gauss"]
        if exchanged:
            mtrand.set_bit_generator(self._own)
        _seed_all(seed)
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            random.setstate(states[1])
            if exchanged:
                mtrand.set_bit_generator(theirs)
            else:
                np.random.set_state(numpy_state)  # noqa: NPY002


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(seed)
