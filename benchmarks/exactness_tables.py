"""The tables of `exactness.py`: what was seen, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


def render(report: Record) -> str:
    """Return the report as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    load = f"load {report['load_before']:.1f} before, {report['load_after']:.1f} after"
    parts = [f"{versions}; {report['machine']}, {load}"]
    parts += [f"{peer} is not installed: skipped" for peer in report["skipped"]]
    for check in ("pass", "uneven"):
        if check in report:
            parts.append(_render_passes([record for records in report[check] for record in records]))
    if "kill" in report:
        head = ("loader", "left in /dev/shm", "next start", "then in /dev/shm")
        parts.append(_table(head, map(_kill_row, report["kill"])))
    if "bytes" in report:
        head = ("loader", "bit flipped in the cache", "bit flipped in the store")
        parts.append(_table(head, ((r["peer"], r["cached"], r["stored"]) for r in report["bytes"])))
    if "resume" in report:
        parts.append(_render_resumes([record for records in report["resume"] for record in records]))
    return "\n\n".join(parts)


def _render_passes(records: list[Record]) -> str:
    head = ("loader", "way", "`prepare`, dispatch", "workers", "seen", "twice", "loaded")
    rows: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        given = f"yes, {record['dispatch']}" if record["prepared"] else "no"
        row = (record["peer"], record["way"], given, *_figures(record))
        rows.setdefault(row, []).append(str(record["workers"]))
    head += ("steps of each rank", "gathered", "end")
    return _table(head, ((*row[:3], ", ".join(workers), *row[3:]) for row, workers in rows.items()))


def _figures(record: Record) -> tuple[str, ...]:
    end = record["end"] if record["end"] != "error" else f"error: {_short(record['error'])}"
    if record["end"] == "not started":
        return ("", "", "", "", "", end)
    gathered = f"{record['gathered']}, {record['gathered_distinct']} distinct"
    return (
        f"{record['distinct']} of {record['samples']}",
        str(record["repeated"]),
        str(record["loaded"]),
        " and ".join(map(str, record["steps"])),
        gathered,
        end,
    )


def _render_resumes(records: list[Record]) -> str:
    names = tuple(name for name in records[0] if name not in ("peer", "way"))
    rows = ((r["peer"], r["way"], *(_resumed(r[name]) for name in names)) for r in records)
    return _table(("loader", "way", *names), rows)


def _kill_row(record: Record) -> tuple[str, ...]:
    if record["killed"] != "killed":
        return (record["peer"], f"not killed: {record['killed']}", "", "")
    again = f"{record['again']}, {record['again_distinct']} samples"
    if record["again"] == "error":
        again = f"error: {_short(record['again_error'])}"
    return (record["peer"], str(record["shared_memory"]), again, str(record["still_in_shared_memory"]))


def _resumed(told: Record) -> str:
    if told["end"] == "error":
        return f"error: {_short(told['error'])}"
    if told["end"] != "ok":
        return told["end"]
    steps = " and ".join(map(str, told["steps"]))
    repeated = f"{told['repeated']} repeated, {told['counted']} of them gathered"
    return f"{told['found']} of {told['left']}; {repeated}; {steps} steps"


def _short(text: str, length: int = 70) -> str:
    text = text.replace("|", "/")
    return text if len(text) <= length else text[: length - 1] + "…"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
