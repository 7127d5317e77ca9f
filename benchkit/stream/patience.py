"""Patience: waiting for other processes in short sleeps, as long as something moves."""

from __future__ import annotations

import time

_FIRST_PAUSE_SECONDS = 0.001


class Patience:
    """Counts the time in which nothing moved.

    Args:
        seconds: How long that may be.
        longest_pause_seconds: Up to what the pauses grow from one to the next.
    """

    def __init__(self, seconds: float, *, longest_pause_seconds: float = 0.05) -> None:
        self.seconds = seconds
        self._longest_pause = longest_pause_seconds
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
        """Sleep a little and return True; return False once patience is at its end."""
        if self.idle_seconds >= self.seconds:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, self._longest_pause)
        return True
