"""Laws of a batch's random numbers: they follow from its seed alone, and the training's own go on."""

import random

import numpy as np
import pytest
import torch

from benchkit.stream.randomness import Randomness


def draw() -> list[float]:
    """Draw from all three; NumPy makes normal numbers in pairs, the second of which waits to be asked for."""
    normal, uniform = np.random.randn(), np.random.rand()  # noqa: NPY002
    return [torch.rand(()).item(), random.random(), random.gauss(0, 1), normal, uniform]


def seed_all() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002


def draw_and_fail() -> None:
    with Randomness().seeded(1):
        draw()
        raise ZeroDivisionError


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("inside", range(4))
def test_the_training_s_own_numbers_go_on_however_many_were_drawn(before, inside):
    numbers = Randomness()
    seed_all()
    expected = [draw() for _ in range(before + 6)]
    seed_all()
    got = [draw() for _ in range(before)]
    for _ in range(2):
        with numbers.seeded(7):
            for _ in range(inside):
                draw()
        got += [draw() for _ in range(3)]
    assert got == expected


def test_half_of_a_pair_of_normal_numbers_is_kept_wherever_the_generator_stands():
    numbers = Randomness()
    expected = np.random.RandomState(0).randn(2).tolist()
    for drawn in (2, 1):  # the generator stands at the same number after both
        np.random.seed(0)  # noqa: NPY002
        got = [np.random.randn() for _ in range(drawn)]  # noqa: NPY002
        with numbers.seeded(7):
            draw()
        got += [np.random.randn() for _ in range(2 - drawn)]  # noqa: NPY002
        assert got == expected


@pytest.mark.parametrize("before", range(3))
def test_a_seed_gives_the_same_numbers_whatever_was_drawn_before(before):
    drawn = []
    for numbers in (Randomness(), Randomness()):
        for _ in range(before):
            draw()
        with numbers.seeded(1 << 40):
            drawn.append([draw() for _ in range(3)])
    assert drawn[0] == drawn[1]
    with Randomness().seeded(3):
        assert draw() != drawn[0][0]


def test_they_are_put_back_after_an_error():
    seed_all()
    expected = draw()
    seed_all()
    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert draw() == expected
