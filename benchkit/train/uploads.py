"""Uploads in the background: one at a time, in a thread, and no error of theirs is ever lost.

The end of the process waits for the upload that is under way. An error is raised where the upload is next
waited for; where nobody does, it is told at the end, and the process ends with the error's exit code.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from benchkit.errors import BenchKitError


class Uploads:
    """The uploads of this process; an action returns the number under which something was uploaded."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[int | None] | None = None
        self._exit_code = 0

    def begin(self, action: Callable[[], int | None]) -> None:
        """Run an action in the background, when the one before has ended; its error is raised here."""
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="benchkit-upload")
            # What threads are made of is taken down before `atexit` is asked, and an upload makes threads.
            threading._register_atexit(self._end, os.getpid())  # type: ignore[attr-defined]  # noqa: SLF001
            atexit.register(self._fail, os.getpid())
        self._last = self._pool.submit(action)

    def wait(self) -> int | None:
        """Wait for the action that runs and return its result; None where none was begun.

        Raises:
            BenchKitError: The action failed; it is raised once.
        """
        last, self._last = self._last, None
        return last.result() if last else None

    def _end(self, owner: int) -> None:
        if os.getpid() != owner:  # a forked child comes here too
            return
        try:
            self.wait()
        except BenchKitError as error:
            self._exit_code = error.exit_code
            sys.stderr.write(f"error: a checkpoint was not uploaded: {error}\n")

    def _fail(self, owner: int) -> None:
        """End the process with the error's exit code: at this point an exception would leave it 0."""
        if self._exit_code and os.getpid() == owner:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._exit_code)


UPLOADS = Uploads()
