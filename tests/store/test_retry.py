"""Waiting and giving up: delays are jittered and bounded, and a request is made as often as it may be."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchkit.errors import StoreError
from benchkit.store.retry import BASE_SECONDS, CAP_SECONDS, TransientError, Tries, attempt, delay_seconds


@pytest.mark.parametrize(
    ("failures", "draw", "retry_after", "expected"),
    [
        (1, 0.0, None, 0.0),
        (1, 0.5, None, 0.1),
        (2, 0.5, None, 0.2),
        (3, 0.5, None, 0.4),
        (7, 0.5, None, 6.4),
        (8, 0.5, None, 10.0),
        (99, 0.5, None, 10.0),
        (100_000, 0.5, None, 10.0),
        (1, 0.5, 3.0, 3.0),
        (8, 0.5, 3.0, 10.0),
        (1, 0.5, 0.0, 0.1),
        (1, 0.5, 3600.0, 20.0),
    ],
)
def test_a_delay_is_a_draw_from_a_doubling_bound_and_at_least_what_was_asked_for(
    failures: int, draw: float, retry_after: float | None, expected: float
) -> None:
    assert delay_seconds(failures, draw, retry_after_seconds=retry_after) == pytest.approx(expected)


@given(
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 1e9, allow_nan=False),
)
def test_no_delay_is_longer_than_the_cap(failures: int, draw: float, retry_after: float | None) -> None:
    assert 0 <= delay_seconds(failures, draw, retry_after_seconds=retry_after) <= CAP_SECONDS


class Failing:
    """A request that fails some times before it succeeds."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        self.left -= 1
        if self.left >= 0:
            raise TransientError("it is slow; wait", retry_after_seconds=7)
        return "done"


@pytest.mark.parametrize("failures", [0, 1, 4])
def test_a_failure_that_passes_is_waited_out(failures: int) -> None:
    waits: list[float] = []
    request = Failing(failures)
    assert attempt(request, Tries(5, sleep=waits.append)) == "done"
    assert request.made == failures + 1
    assert waits == [7.0] * failures


@pytest.mark.parametrize(("attempts", "tried"), [(1, "once"), (2, "2 times"), (5, "5 times")])
def test_a_failure_that_stays_ends_it_after_its_attempts_as_a_plain_store_error(
    attempts: int, tried: str
) -> None:
    waits: list[float] = []
    request = Failing(1000)
    with pytest.raises(StoreError, match=rf"it is slow; wait \(tried {tried}\)") as caught:
        attempt(request, Tries(attempts, sleep=waits.append))
    assert type(caught.value) is StoreError
    assert request.made == attempts
    assert len(waits) == attempts - 1  # nobody waits for nothing at the end


def test_what_will_not_pass_is_raised_as_it_is() -> None:
    def denied() -> None:
        raise StoreError("denied")

    with pytest.raises(StoreError, match=r"^denied$"):
        attempt(denied, Tries(5, sleep=lambda _: pytest.fail("it waited")))


def test_delays_differ() -> None:
    waits: list[float] = []

    def failing() -> None:
        raise TransientError("slow")

    for _ in range(20):
        with pytest.raises(StoreError):
            attempt(failing, Tries(2, sleep=waits.append))
    assert len(set(waits)) > 10
    assert all(0 <= wait <= BASE_SECONDS for wait in waits)


def test_a_transient_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(TransientError("slow", retry_after_seconds=3)))  # noqa: S301
    assert str(error) == "slow"
