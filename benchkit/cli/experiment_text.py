"""Runs as text and as JSON: what `bench-kit experiment` shows of them; pure functions."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from benchkit.cli import render
from benchkit.train.run_curves import summarise
from benchkit.train.run_folder import is_metrics_name
from benchkit.train.run_values import flatten

if TYPE_CHECKING:
    from benchkit.train.run_curves import RunCurves, Summary
    from benchkit.train.runs import RunEntry

MAX_CHARACTERS = 100
HEADS = ("run", "name", "state", "started", "took", "datasets", "where")


def summaries(read: RunCurves) -> dict[str, Summary]:
    """Return the curves in a few numbers each, by name."""
    return {name: summarise(name, curve) for name, curve in read.curves.items()}


def fields(entry: RunEntry) -> dict[str, Any]:
    """Return a run as JSON, in short."""
    record = entry.record
    return {
        "run": record.run,
        "name": record.name,
        "project": record.project,
        "state": entry.state,
        "here": entry.folder is not None,
        "remote": entry.store is not None,
        "started": record.started,
        "ended": record.ended,
        "resumed": record.resumed,
        "epochs": record.epochs,
        "datasets": [asdict(dataset) for dataset in record.datasets],
        "files": len(entry.stored.files) if entry.stored else None,
    }


def row(entry: RunEntry) -> tuple[str, ...]:
    """Return a run as a row under `HEADS`."""
    record = entry.record
    return (
        record.run,
        record.name,
        entry.state,
        _moment(record.started),
        _took(entry),
        ", ".join(dataset.label for dataset in record.datasets) or "-",
        entry.where,
    )


def all_fields(entry: RunEntry, read: RunCurves) -> dict[str, Any]:
    """Return all that is known of a run as JSON, its curves in a few numbers each."""
    record = entry.record
    return {
        **fields(entry),
        "error": record.error,
        "folder": str(entry.folder) if entry.folder else None,
        "configuration": record.configuration,
        "environment": record.environment,
        "code": record.code,
        "calls": read.calls,
        "metrics": {name: asdict(summary) for name, summary in summaries(read).items()},
        "texts": read.texts,
    }


def describe(entry: RunEntry, read: RunCurves) -> list[tuple[str, str]]:
    """Return names and values of what is known of a run beside its configuration and metrics."""
    record, environment = entry.record, entry.record.environment
    versions = ("python", "torch", "benchkit", "accelerate")
    gpus = environment.get("gpus")
    rows = [
        ("run", record.run),
        ("name", record.name),
        ("state", entry.state + (f": {_short(record.error)}" if record.error else "")),
        (
            "started",
            _moment(record.started)
            + (f", resumed {render.count(record.resumed, 'time')}" if record.resumed else ""),
        ),
        ("took", _took(entry)),
        ("where", entry.where),
        ("folder", str(entry.folder) if entry.folder else "-"),
        ("files", _files(entry)),
        ("epochs", "-" if record.epochs is None else str(record.epochs)),
        ("datasets", ", ".join(f"{d.label} ({d.manifest[:12]})" for d in record.datasets) or "-"),
        ("code", _code(record.code)),
        ("host", f"{environment.get('host', '-')}, processes: {environment.get('processes', '-')}"),
        ("gpus", ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "-"),
        ("versions", ", ".join(f"{name} {environment.get(name, '?')}" for name in versions)),
        ("arguments", _arguments(environment.get("arguments"))),
        ("logged", render.count(read.calls, "call")),
    ]
    return [(name, value) for name, value in rows if value != "-"]


def _files(entry: RunEntry) -> str:
    if entry.stored is None:
        return "-"
    files = [file for file in entry.stored.files if not is_metrics_name(file.path)]
    size = render.size(sum(file.size for file in files))
    return f"{render.count(len(files), 'file')} of its own in the remote, {size}" if files else "-"


def _code(code: Any) -> str:
    parts = [f"version {code['version']}"] if code.get("version") else []
    if code.get("revision"):
        changed = " with changes that are not committed" if code.get("dirty") else ""
        parts.append(f"{str(code['revision'])[:12]}{changed}")
    return ", ".join(parts) or "-"


def _arguments(arguments: Any) -> str:
    return " ".join(map(str, arguments)) if isinstance(arguments, list) and arguments else "-"


def configuration(entry: RunEntry) -> list[tuple[str, str]]:
    """Return a row for each value of a run's configuration."""
    return [(name, value_text(value)) for name, value in flatten(entry.record.configuration).items()]


def metric_row(name: str, summary: Summary) -> tuple[str, ...]:
    """Return a metric as a row: points, last, its step, best, its step."""
    return (
        name,
        f"{summary.points:,}",
        _number(summary.last),
        f"{summary.last_step:,}",
        f"{_number(summary.best)} ({summary.goal})",
        f"{summary.best_step:,}",
    )


def both(summary: Summary | None) -> str:
    """Return the last and the best of a metric in one cell."""
    return f"{_number(summary.last)} ({_number(summary.best)})" if summary else "-"


def finite(value: Any) -> Any:
    """Return a tree whose numbers all are JSON: what is not finite as a text, as a run's files have it."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _took(entry: RunEntry) -> str:
    ended = entry.record.ended
    return "-" if ended is None else render.duration(max(ended - entry.record.started, 0))


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, tz=timezone.utc).astimezone():%Y-%m-%d %H:%M:%S}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def value_text(value: Any) -> str:
    """Return a value of a configuration in a cell."""
    return _short(value if isinstance(value, str) else json.dumps(value))


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
