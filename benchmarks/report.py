"""The report: tables in Markdown of what was measured, with ratios to each side of the same run.

    python benchmarks/report.py out.json [more.json] [--output report.md]

shows again what `run.py --json` wrote; of several runs, one after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sides import OURS, SIDES

Record = dict[str, Any]


class Condition(NamedTuple):
    """What all rows of a table have in common."""

    task: str
    action: str
    dataset: str
    workers: int | None
    shuffle: bool | None
    latency_ms: int | None

    def fits(self, record: Record) -> bool:
        """Return whether a record belongs here; one that has no workers or no order does with any."""
        same = all(record[name] == getattr(self, name) for name in ("task", "dataset", "latency_ms"))
        alike = all(record[name] in (getattr(self, name), None) for name in ("workers", "shuffle"))
        return same and alike and record["action"] in (self.action, "measure")

    def __str__(self) -> str:
        words = [self.task, self.dataset]
        if self.task == "growth":
            words.insert(1, self.action)
        words.append(f"{self.workers} workers" if self.workers != 1 else "1 worker")
        if self.action in ("stream", "resume"):
            words.append("shuffled" if self.shuffle else "in order")
        if self.latency_ms is not None:
            words.append(f"{self.latency_ms} ms")
        return ", ".join(words)


class Row(NamedTuple):
    """What is compared: a side, how it packs, and what it makes of a sample."""

    side: str
    way: str
    form: str

    def __str__(self) -> str:
        words = [word for word in self if word not in ("plain", "raw", "auto", "own")]
        return ", ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure that is measured.

    Attributes:
        title: What a table calls it.
        show: Makes it text.
        more: Whether more of it is better.
    """

    title: str
    show: Callable[[float], str]
    more: bool = False


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f}"


FIGURES = {
    "first_rate": Figure(title="samples/s", show=_number, more=True),
    "second_rate": Figure(title="second epoch, samples/s", show=_number, more=True),
    "first_batch_seconds": Figure(title="first batch, s", show=_seconds),
    "resume_seconds": Figure(title="resumed, s to a batch", show=_seconds),
    "start_seconds": Figure(title="started, s to a batch", show=_seconds),
    "cpu_us": Figure(title="CPU µs a sample", show=_number),
    "peak_bytes": Figure(title="peak memory, MB", show=_megabytes),
    "stored_bytes": Figure(title="stored, MB", show=_megabytes),
}

_SUMMED_UP = {
    "pack": ("first_rate", "cpu_us", "peak_bytes"),
    "raw": ("first_rate", "second_rate", "cpu_us", "peak_bytes"),
    "decoded": ("first_rate", "second_rate", "cpu_us"),
    "first": ("first_batch_seconds",),
    "resume": ("resume_seconds",),
    "growth": ("first_rate", "peak_bytes"),
    "s3": ("first_rate", "first_batch_seconds"),
}


class Table:
    """The records of one condition."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records: dict[Row, list[Record]] = {}
        for record in records:
            row = Row(record["side"], record["way"], record["form"])
            self._records.setdefault(row, []).append(record)

    @property
    def rows(self) -> list[Row]:
        """All rows: the project first, then peers, then limits."""
        order = list(SIDES)
        return sorted(self._records, key=lambda row: (order.index(row.side), row))

    def errors(self, row: Row) -> list[str]:
        """Return the errors of a row."""
        return [record["error"] for record in self._records[row] if "error" in record]

    def values(self, row: Row, key: str) -> dict[int, float]:
        """Return a figure of a row by repetition."""
        found = {record["repetition"]: record.get(key) for record in self._records[row]}
        return {repetition: value for repetition, value in found.items() if value}

    def ours(self, row: Row) -> Row | None:
        """Return the project's row that a row is compared with: of the same way, if there are several."""
        ours = [known for known in self.rows if known.side == OURS]
        same = [known for known in ours if known.way == row.way]
        return next(iter(same or ours), None)

    def ratios(self, row: Row, key: str) -> list[float]:
        """Return the project's figure as a multiple of a row's, in each repetition that has both."""
        ours = self.ours(row)
        if ours is None or row == ours:
            return []
        mine, theirs = self.values(ours, key), self.values(row, key)
        return [mine[repetition] / theirs[repetition] for repetition in mine if repetition in theirs]

    def best(self, rows: Iterable[Row], key: str) -> Row | None:
        """Return the row with the best median of a figure."""
        sign = -1 if FIGURES[key].more else 1
        medians = {row: _median(self.values(row, key)) for row in rows if self.values(row, key)}
        return min(medians, key=lambda row: sign * medians[row], default=None)


def render(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown: a summary, then a table for every condition."""
    tables = {condition: Table(found) for condition, found in _group(report["records"]).items()}
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    load = f"load {report['load_before']:.1f} before and {report['load_after']:.1f} after"
    load += ", memory filled" if report.get("filled_memory") else ""
    turns = f"scale {report['scale']:g}, {_count(report['repetitions'], 'repetition')}"
    parts = [f"{report['date']}, {report['machine']}, {load}; {turns}.", f"{versions}."]
    parts += [f"{name} is skipped: {why}." for name, why in report["skipped"].items()]
    head = ("task", "figure", OURS, "best peer", "ratio", "best limit", "ratio")
    lines = [line for condition, table in tables.items() for line in _sum_up(condition, table)]
    if lines:
        parts.append(_as_markdown(head, lines))
    for condition, table in tables.items():
        parts.append(f"**{condition}**\n\n{_render_rows(table)}")
    return "\n\n".join(parts) + "\n"


def _group(records: Sequence[Record]) -> dict[Condition, list[Record]]:
    """Return the records of every condition that the project was measured in, in the order of its first."""
    ours = [record for record in records if record["side"] == OURS]
    conditions = dict.fromkeys(Condition(*(record[name] for name in Condition._fields)) for record in ours)
    return {known: [record for record in records if known.fits(record)] for known in conditions}


def _sum_up(condition: Condition, table: Table) -> Iterator[tuple[str, ...]]:
    """Yield a line for each of the project's rows and telling figures: the best peer, and the best limit.

    Peers that decode in different ways have lines of their own.
    """
    for ours in (row for row in table.rows if row.side == OURS):
        others = [row for row in table.rows if row.side != OURS and table.ours(row) == ours]
        if ours.way in ("plain", "compressed"):
            others = [row for row in others if row.way == ours.way]
        for form in dict.fromkeys(row.form for row in others) or [ours.form]:
            rivals = [row for row in others if row.form == form]
            for key in _SUMMED_UP[condition.task]:
                if mine := table.values(ours, key):
                    way = f", {ours.way}" if ours.way == "compressed" else ""
                    against = f", beside {form}" if form != ours.form else ""
                    line = (
                        f"{condition}{way}{against}",
                        FIGURES[key].title,
                        FIGURES[key].show(_median(mine)),
                    )
                    yield (
                        *line,
                        *_compare(table, rivals, key, limit=False),
                        *_compare(table, rivals, key, limit=True),
                    )


def _compare(table: Table, rivals: Iterable[Row], key: str, *, limit: bool) -> tuple[str, str]:
    """Return the best of the peers, or of the limits, and the project's ratio to it."""
    best = table.best([row for row in rivals if SIDES[row.side].limit == limit], key)
    if best is None:
        return "", ""
    return f"{best} {FIGURES[key].show(_median(table.values(best, key)))}", _show_ratio(
        table.ratios(best, key)
    )


def _render_rows(table: Table) -> str:
    figures = [key for key in FIGURES if any(table.values(row, key) for row in table.rows)]
    lines = []
    for row in table.rows:
        notes = []
        if errors := table.errors(row):
            notes.append(f"failed {_count(len(errors), 'time')}: {errors[0]}")
        if repeated := max(table.values(row, "repeated").values(), default=0):
            notes.append(f"{repeated:,.0f} samples came again")
        limit = " (limit)" if SIDES[row.side].limit else ""
        lines.append(
            (f"{row}{limit}", *(_show(table, row, key) for key in figures), _escape("; ".join(notes)))
        )
    return _as_markdown(("side", *(FIGURES[key].title for key in figures), ""), lines)


def _show(table: Table, row: Row, key: str) -> str:
    values = list(table.values(row, key).values())
    if not values:
        return ""
    show = FIGURES[key].show
    spread = f" ({show(min(values))}-{show(max(values))})" if len(values) > 1 else ""
    ratios = table.ratios(row, key)
    return f"{show(statistics.median(values))}{spread}" + (
        f" **{statistics.median(ratios):.2f}**" if ratios else ""
    )


def _show_ratio(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"**{statistics.median(ratios):.2f}**{spread}"


def _median(values: Mapping[int, float]) -> float:
    return statistics.median(values.values())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _escape(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")


def _as_markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Show the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="write Markdown to this file")
    arguments = parser.parse_args()
    text = "\n".join(render(json.loads(run.read_text())) for run in arguments.runs)
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
