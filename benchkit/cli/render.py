"""Text for a terminal: tables, sizes, rates and safe names; pure functions that return strings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

_LINES_SHOWN = 20
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def escape(text: str) -> str:
    r"""Return the text with everything unprintable as an escape, so that no name steers a terminal.

    >>> escape("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return rows under headings as aligned columns, two blanks apart, without a final line break.

    Args:
        headings: One for each column.
        rows: Cells as text, as many in each row as there are headings; they are escaped here.
        right: The columns, from 0, that are aligned to the right: numbers.
    """
    cells = [[escape(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values as two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {escape(value)}" for name, value in rows)


def first_lines(lines: Sequence[str], noun: str) -> list[str]:
    """Return the lines, each about one thing; of more than 20 the first, and how many are left out.

    >>> first_lines(["a"] * 22, "file")[19:]
    ['a', 'and 2 files more']
    """
    left = len(lines) - _LINES_SHOWN
    return [*lines[:_LINES_SHOWN], f"and {count(left, noun)} more"] if left > 0 else [*lines]


def count(number: int, noun: str) -> str:
    """Return a number of things.

    >>> [count(1, "chunk"), count(2000, "chunk")]
    ['1 chunk', '2,000 chunks']
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count_bytes: float) -> str:
    """Return a number of bytes with three digits and a binary unit.

    >>> [size(0), size(1023), size(1536), size(32 << 20)]
    ['0 B', '1023 B', '1.50 KiB', '32.0 MiB']
    """
    unit = 0
    while round(count_bytes) >= 1024 and unit < len(_UNITS) - 1:
        count_bytes /= 1024
        unit += 1
    digits = 0 if unit == 0 or count_bytes >= 99.95 else 1 if count_bytes >= 9.995 else 2
    return f"{count_bytes:.{digits}f} {_UNITS[unit]}"


def rate(amount: float, seconds: float, unit: str) -> str:
    """Return an amount per second; a dash where no time has passed.

    >>> [rate(4000, 2, "samples"), rate(1, 0, "samples")]
    ['2,000 samples/s', '-']
    """
    return f"{amount / seconds:,.0f} {unit}/s" if seconds > 0 else "-"


def size_rate(count_bytes: float, seconds: float) -> str:
    """Return bytes per second; a dash where no time has passed."""
    return f"{size(count_bytes / seconds)}/s" if seconds > 0 else "-"


def moment(seconds: float) -> str:
    """Return a time, seconds since 1970, as date and time where this machine stands."""
    return f"{datetime.fromtimestamp(seconds, tz=timezone.utc).astimezone():%Y-%m-%d %H:%M:%S}"


def duration(seconds: float) -> str:
    """Return a time as a person reads it.

    >>> [duration(0.25), duration(75), duration(3 * 3600 + 62)]
    ['0.25 s', '1 min 15 s', '3 h 1 min']
    """
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
