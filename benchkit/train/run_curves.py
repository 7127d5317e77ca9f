"""The curves of a run: what was logged by name and step, and what compares two runs; pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchkit.errors import FormatError
from benchkit.train.run_record import RunRecord
from benchkit.train.run_values import decode_logged, flatten

Goal = Literal["least", "most"]

_LESS_IS_MORE = frozenset(
    {"loss", "losses", "error", "errors", "err", "mae", "mse", "rmse", "mape", "nll", "perplexity", "ppl"}
    | {"wer", "cer", "fid", "kl", "divergence", "latency", "seconds", "time", "duration"}
)


@dataclass(frozen=True, slots=True)
class Curve:
    """The values of one name by step, in order of step; of several of one step the last that was logged."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """What a run logged.

    Attributes:
        curves: The numbers, by name.
        texts: The last text of each name.
        calls: How many lines were logged.
        last_step: The largest step, -1 where there is none.
        unreadable: How many lines are damaged, and were left out.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    calls: int = 0
    last_step: int = -1
    unreadable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A curve in a few numbers; `best` is the least or the most, as `goal` says, of those that are finite."""

    points: int
    last: float
    last_step: int
    goal: Goal
    best: float
    best_step: int


def read_curves(lines: bytes) -> RunCurves:
    """Return what lines of metrics say; damaged ones are counted and left out."""
    numbers: dict[str, dict[int, float]] = {}
    texts: dict[str, str] = {}
    calls = unreadable = 0
    last_step = -1
    for line in lines.splitlines():
        try:
            logged = decode_logged(line)
        except FormatError:
            unreadable += 1
            continue
        calls += 1
        last_step = max(last_step, logged.step)
        for name, value in logged.values.items():
            if isinstance(value, str):
                texts[name] = value
            else:
                numbers.setdefault(name, {})[logged.step] = value
    curves = {}
    for name in sorted(numbers):
        steps = sorted(numbers[name])
        curves[name] = Curve(tuple(steps), tuple(numbers[name][step] for step in steps))
    return RunCurves(curves=curves, texts=texts, calls=calls, last_step=last_step, unreadable=unreadable)


def goal_of(name: str) -> Goal:
    """Return whether less or more of a metric is better, by the words of its name.

    >>> [goal_of(name) for name in ("train/loss", "valError", "accuracy", "lr")]
    ['least', 'least', 'most', 'most']
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return "least" if any(word.lower() in _LESS_IS_MORE for word in words) else "most"


def summarise(name: str, curve: Curve) -> Summary:
    """Return the last and the best of a curve that has a point."""
    goal = goal_of(name)
    finite = [
        (value, step) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)
    ]
    choose = min if goal == "least" else max
    best, step = choose(finite, key=lambda point: point[0], default=(curve.values[-1], curve.steps[-1]))
    return Summary(
        points=len(curve.steps),
        last=curve.values[-1],
        last_step=curve.steps[-1],
        goal=goal,
        best=best,
        best_step=step,
    )


def differences(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return what the runs do not have in common: configuration, code, datasets, versions and hardware.

    Returns:
        A value for each run by the name of what differs; None where a run has no such value.
    """
    trees = [_compared(record) for record in records]
    names = sorted({name for tree in trees for name in tree})
    rows = {name: [tree.get(name) for tree in trees] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _compared(record: RunRecord) -> dict[str, Any]:
    environment = {name: value for name, value in record.environment.items() if name != "arguments"}
    datasets = {dataset.name: f"{dataset.version} ({dataset.manifest[:12]})" for dataset in record.datasets}
    other = {"epochs": record.epochs, "code": record.code, "dataset": datasets, "environment": environment}
    return flatten(record.configuration, "configuration.") | flatten(other)
