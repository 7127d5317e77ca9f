"""Progress bars: bytes, samples per second, and what is left; silent where nobody looks at a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from typing_extensions import Self


class Bar:
    """A bar that is told totals: how many bytes, and how many things of what unit, are done of how many.

    Args:
        title: What is being done.
        unit: What is counted beside bytes: `samples`, `chunks`.
    """

    def __init__(self, title: str, unit: str) -> None:
        self._unit = unit
        self._started = time.monotonic()
        off = None if sys.stderr else True  # None: where nobody looks at a terminal
        self._bar = tqdm(desc=title, disable=off, unit="B", unit_scale=True, unit_divisor=1024, leave=False)

    def __enter__(self) -> Self:
        """Return the bar."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the bar's line."""
        self._bar.close()

    def show(self, *, done_bytes: int, total_bytes: int, count: int, total: int, title: str = "") -> None:
        """Show how far the work is."""
        if self._bar.disable:
            return
        if title:
            self._bar.set_description(title, refresh=False)
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = f"{count:,}/{total:,} {self._unit}, {count / seconds:,.0f}/s"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.total = total_bytes or None
        self._bar.n = done_bytes
        self._bar.refresh()
