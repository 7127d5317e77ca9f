"""Patience: waiting for other processes in short sleeps, as long as something moves."""

from __future__ import annotations

import time

_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05


class Patience:
    """Counts the time in which nothing moved.

    Args:
        seconds: How long that may be.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since = time.monotonic()
        self._pause = _FIRST_PAUSE_SECONDS
        self._seen: object = None

    @property
    def idle_seconds(self) -> float:
        """How long nothing has moved."""
        return time.monotonic() - self._since

    def see(self, state: object) -> None:
        """Note what is being waited for; a state other than the last one is a move."""
        if self._seen is not None and state != self._seen:
            self.renew()
        self._seen = state

    def renew(self) -> None:
        """Note that something moved."""
        self._since = time.monotonic()

    def pause(self) -> bool:
        """Sleep a little, up to 50 ms, and return True; return False once patience is at its end."""
        if self.idle_seconds >= self.seconds:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return True
