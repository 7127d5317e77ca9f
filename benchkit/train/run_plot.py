"""The picture of curves: one small diagram for each metric, a line in it for each run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchkit.errors import StoreError, UsageError
from benchkit.train.run_curves import Curve

SUFFIXES = (".png", ".svg", ".pdf")
MAX_DIAGRAMS = 48
_MAX_POINTS = 2000
_MAX_LABEL_CHARACTERS = 40


def plot_curves(path: Path, runs: Sequence[tuple[str, Mapping[str, Curve]]]) -> list[str]:
    """Draw the curves of runs into a file, and return the names of the metrics that had no room in it.

    A long curve is drawn by the mean of each of 2,000 pieces; what is not finite is a gap.

    Args:
        path: The file, which is replaced; its suffix says what it becomes.
        runs: For each its label and its curves by name.

    Raises:
        UsageError: matplotlib is missing, the suffix is another, or there is no curve.
        StoreError: The file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"a picture is one of {', '.join(SUFFIXES)}, which {path.name!r} is not")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415
    except ImportError as error:
        raise UsageError('drawing curves takes matplotlib: pip install "benchkit[plot]"') from error
    names = sorted({name for _, curves in runs for name in curves})
    if not names:
        raise UsageError("none of the runs has logged a number: there is no curve to draw")
    drawn = names[:MAX_DIAGRAMS]
    columns = min(len(drawn), 3 if len(drawn) > 4 else 2)
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.2 * rows + 0.35 * len(runs)), dpi=120, layout="constrained")
    lines: dict[int, tuple[Any, str]] = {}
    for number, name in enumerate(drawn, 1):
        axes = figure.add_subplot(rows, columns, number)
        for color, (label, curves) in enumerate(runs):
            if name in curves:
                steps, values = thin(curves[name])
                marker = "o" if len(steps) < 25 else ""
                (line,) = axes.plot(
                    steps, values, color=f"C{color % 10}", marker=marker, markersize=3, linewidth=1.4
                )
                lines.setdefault(color, (line, _plain(label)))
        axes.set_title(_plain(name), fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.grid(alpha=0.3)
    shown = [lines[color] for color in sorted(lines)]
    figure.legend(
        *zip(*shown, strict=True), loc="outside lower center", ncols=min(len(shown), columns), fontsize=8
    )
    aside = path.with_name(f".{path.name}.new")
    try:
        figure.savefig(aside, format=path.suffix[1:].lower())
        os.replace(aside, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    return names[MAX_DIAGRAMS:]


def thin(curve: Curve) -> tuple[list[float], list[float]]:
    """Return a curve's points, where they are many the means of pieces; NaN where a value is not finite."""
    width = math.ceil(len(curve.steps) / _MAX_POINTS)
    steps: list[float] = []
    values: list[float] = []
    for start in range(0, len(curve.steps), max(width, 1)):
        part = [value for value in curve.values[start : start + width] if math.isfinite(value)]
        steps.append(curve.steps[start])
        values.append(math.fsum(part) / len(part) if part else math.nan)
    return steps, values


def _plain(text: str) -> str:
    """Return a text that is drawn as it stands: `$` would begin a formula."""
    short = text if len(text) <= _MAX_LABEL_CHARACTERS else f"{text[: _MAX_LABEL_CHARACTERS - 1]}…"
    return "".join(c if c.isprintable() else "?" for c in short).replace("$", r"\$")
