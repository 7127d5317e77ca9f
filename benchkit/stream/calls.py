"""Calls for room: a reader that others wait for closes, between two reads, the chunks that it keeps open.

Readers of one loader share the cache's room so that none waits for another. Other loaders and other jobs know
nothing of that: who waits for them calls, and whoever is at rest lets go, to open again what it needs later.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

LOOK_SECONDS = 0.2
"""How often it is looked whether somebody calls."""


class Holder(Protocol):
    """What holds chunks open that it can spare."""

    def last_call(self) -> int:
        """Return when somebody last called, nanoseconds since 1970."""
        ...

    def give_way(self) -> None:
        """Close what is not in use; wait for that which is."""
        ...


class CallListener:
    """Listens to calls on behalf of a holder, in a thread that runs from `start` to `stop`.

    The thread keeps nothing alive: it ends when the holder goes.
    """

    def __init__(self, holder: Holder) -> None:
        self._holder = weakref.ref(holder)
        self._stopped: threading.Event | None = None

    def start(self) -> None:
        """Begin to listen, unless that is going on."""
        if self._stopped is None:
            self._stopped = threading.Event()
            arguments = (self._holder, self._stopped)
            threading.Thread(target=_listen, args=arguments, name="benchkit-calls", daemon=True).start()

    def stop(self) -> None:
        """End listening, without waiting for the thread."""
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None


def _listen(reference: weakref.ref[Holder], stopped: threading.Event) -> None:
    holder = reference()
    heard = holder.last_call() if holder else 0
    while holder is not None:
        holder = None
        if stopped.wait(LOOK_SECONDS):
            return
        holder = reference()
        if holder is not None and (called := holder.last_call()) != heard:
            holder.give_way()
            heard = called
