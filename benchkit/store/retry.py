"""Retries: which failures may pass, how long to wait for that, and when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from benchkit.errors import StoreError

BASE_SECONDS = 0.2
CAP_SECONDS = 20.0

Result = TypeVar("Result")


class TransientError(StoreError):
    """A failure that may pass, so that the request is worth making again; users meet it as a `StoreError`."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def delay_seconds(failures: int, draw: float, *, retry_after_seconds: float | None = None) -> float:
    """Return how long to wait after so many failures.

    Exponential backoff with full jitter, after Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015: anything up to a bound that doubles, so that clients which failed together do
    not come back together.

    Args:
        failures: How often the request has failed, 1 or more.
        draw: A random number in [0, 1).
        retry_after_seconds: What the service asked for: waited for in any case, up to the cap.

    Example:
        >>> delay_seconds(3, 0.5)
        0.4
    """
    bound = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(failures - 1, 32))
    return max(draw * bound, min(retry_after_seconds or 0.0, CAP_SECONDS))


class Tries:
    """The tries of one request: counts its failures, waits between them, and gives up in the end.

    Args:
        attempts: How often the request is made in all, 1 or more.
        sleep: Waits for some seconds.
    """

    def __init__(self, attempts: int, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._attempts = attempts
        self._sleep = sleep
        self.failures = 0

    @contextmanager
    def again(self) -> Iterator[None]:
        """Swallow a `TransientError` of the block, and wait until it may be entered again.

        Raises:
            StoreError: It has failed as often as it may; the error says what failed last.
        """
        try:
            yield
        except TransientError as error:
            self.failures += 1
            if self.failures >= self._attempts:
                tried = f"{self.failures} times" if self.failures > 1 else "once"
                raise StoreError(f"{error} (tried {tried})") from error
            draw = random.random()  # noqa: S311 - nobody gains by guessing it
            self._sleep(delay_seconds(self.failures, draw, retry_after_seconds=error.retry_after_seconds))


def attempt(function: Callable[[], Result], tries: Tries) -> Result:
    """Return what the function returns, called again while it raises `TransientError` and tries are left."""
    while True:
        with tries.again():
            return function()
