"""`bench-kit experiment`: runs, launched, here and in the remote."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchkit.cli import render
from benchkit.cli.asking import confirm
from benchkit.cli.commands import experiment_create
from benchkit.cli.progress import Bar
from benchkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchkit.settings import Settings
    from benchkit.train.run_curves import RunCurves
    from benchkit.train.runs import RunEntry, RunList

SUMMARY = "Launch, list, show, compare and delete the project's experiments, and fetch them from the remote."
EXAMPLE = "Example: bench-kit experiment ls"

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=SUMMARY, epilog=EXAMPLE)
app.command("create", epilog=experiment_create.EXAMPLE)(experiment_create.create)
Run = Annotated[str, typer.Argument(help="Its id, the beginning of that or of its last part, or its name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Draw the curves into this file: .png, .svg or .pdf.")
]


@app.command("ls", epilog="Example: bench-kit experiment ls --json")
def list_all(as_json: AsJson = False) -> None:
    """List the runs on this machine and in the remote, oldest first."""
    from benchkit.cli import experiment_text as text

    _, found = _find_all()
    if as_json:
        _print_json([text.fields(entry) for entry in found.entries])
    elif found.entries:
        print(render.table(text.HEADS, [text.row(entry) for entry in found.entries]))
    elif not found.problems:
        print("there is no run; a BenchAccelerateTracker or an ExperimentLogger in a script makes one")
    if found.problems:
        raise found.problems[0]


@app.command("show", epilog="Example: bench-kit experiment show 3f9a --plot curves.png")
def show(run: Run, as_json: AsJson = False, plot: Plot = None) -> None:
    """Show a run: its configuration, surroundings, and the last and best of each metric."""
    from benchkit.cli import experiment_text as text

    entries, curves = _read([run])
    entry, read = entries[0], curves[0]
    if as_json:
        _print_json(text.all_fields(entry, read))
    else:
        print(render.pairs(text.describe(entry, read)))
        _print_table(("configuration", "value"), text.configuration(entry))
        heads = ("metric", "points", "last", "at step", "best", "at step")
        rows = [text.metric_row(name, summary) for name, summary in text.summaries(read).items()]
        _print_table(heads, rows, right=(1, 2, 3, 4, 5))
        _print_table(("text", "last"), [(name, text.value_text(last)) for name, last in read.texts.items()])
    _plot(plot, entries, curves, as_json=as_json)


@app.command("compare", epilog="Example: bench-kit experiment compare 3f9a b801 --plot curves.png")
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Two runs or more, as show takes one.")
    ],
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Compare runs: what differs in them, and the last and best of each metric."""
    from benchkit.cli import experiment_text as text
    from benchkit.train.run_curves import differences

    if len(runs) < 2:
        raise UsageError("compare takes two runs or more; bench-kit experiment show shows one")
    entries, curves = _read(runs)
    differing = differences([entry.record for entry in entries])
    summaries = [text.summaries(read) for read in curves]
    names = sorted({name for summary in summaries for name in summary})
    if as_json:
        metrics = {
            name: [asdict(summary[name]) if name in summary else None for summary in summaries]
            for name in names
        }
        runs_told = [text.fields(entry) for entry in entries]
        _print_json({"runs": runs_told, "differences": differing, "metrics": metrics})
    else:
        labels = [entry.short for entry in entries]
        print(render.table(text.HEADS, [text.row(entry) for entry in entries]))
        rows = [(name, *map(text.value_text, values)) for name, values in differing.items()]
        _print_table(("what differs", *labels), rows)
        rows = [(name, *(text.both(summary.get(name)) for summary in summaries)) for name in names]
        _print_table(("metric: last (best)", *labels), rows)
    _plot(plot, entries, curves, as_json=as_json)


@app.command("pull", epilog="Example: bench-kit experiment pull 3f9a --to ../their-run")
def pull(
    run: Run,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="The folder to make.", show_default=".benchkit/experiments/RUN in the project"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a run from the remote, with its checkpoints and model: whole or not at all."""
    from benchkit.train.run_pull import pull_run
    from benchkit.train.runs import RUNS_FOLDER, find_run

    settings, found = _find_all()
    entry = find_run(found, run)
    target = (to or settings.project / RUNS_FOLDER / entry.record.run).absolute()
    files = entry.stored.files if entry.stored else ()
    total = sum(file.size for file in files)
    with Bar(f"fetching {entry.short}", "files") as bar:
        done = [0, 0]

        def progress(size: int) -> None:
            done[:] = done[0] + 1, done[1] + size
            bar.show(done_bytes=done[1], total_bytes=total, count=done[0], total=len(files))

        size = pull_run(entry, target, on_progress=progress)
    if as_json:
        _print_json({"run": entry.record.run, "folder": str(target), "files": len(files) + 1, "bytes": size})
        return
    what = f"{render.count(len(files) + 1, 'file')}, {render.size(size)}"
    print(f"run {entry.record.run} is in {render.escape(str(target))}: {what}")


@app.command("push", epilog="Example: bench-kit experiment push 3f9a")
def push(run: Run, as_json: AsJson = False) -> None:
    """Send what the remote lacks of a run on this machine, such as one that was killed."""
    from benchkit.settings import load_settings
    from benchkit.store.urls import open_remote
    from benchkit.train.run_pull import push_run
    from benchkit.train.runs import find_run, list_here

    settings = load_settings()
    store = open_remote(settings)
    entry = find_run(list_here(settings.project), run)
    sent = push_run(entry, store)
    if as_json:
        _print_json({"run": entry.record.run, "store": store.url, "files": sent})
        return
    what = f"{render.count(sent, 'file')} sent" if sent else "nothing was missing"
    print(f"run {entry.record.run} is in {render.escape(store.url)}: {what}")


@app.command("rm", epilog="Example: bench-kit experiment rm 3f9a")
def remove(run: Run, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a run with its checkpoints and model, on this machine and in the remote."""
    from benchkit.train.run_remove import find_remains, remove_run

    settings, found = _find_all()
    remains = find_remains(settings, found, run)
    name = f" ({render.escape(remains.name)})" if remains.name else ""
    size = render.size(sum(info.size for info in remains.objects))
    there = f"{render.escape(remains.store.url)}: {render.count(len(remains.objects), 'object')}, {size}"
    places = [*["on this machine"] * bool(remains.folder), *[f"in {there}"] * bool(remains.objects)]
    what = f"run {remains.run}{name} {' and '.join(places)}"
    confirm(f"Delete {what}?", yes=yes, asks=f"experiment rm asks before it deletes {what}")
    remove_run(remains)
    print(f"deleted {what}")


def _find_all() -> tuple[Settings, RunList]:
    from benchkit.settings import load_settings
    from benchkit.train.runs import list_runs

    settings = load_settings()
    return settings, list_runs(settings)


def _read(runs: list[str]) -> tuple[list[RunEntry], list[RunCurves]]:
    """Return the runs that are meant, and their curves; what could not be read of them is told on stderr."""
    from benchkit.train.run_curves import read_curves
    from benchkit.train.runs import find_run, read_metrics

    _, found = _find_all()
    entries = [find_run(found, run) for run in runs]
    twice = [entry.record.run for entry in entries]
    if len(set(twice)) < len(twice):
        raise UsageError(f"a run is named twice: {', '.join(twice)}")
    curves = []
    for entry in entries:
        lines, torn = read_metrics(entry)
        curves.append(read_curves(lines))
        told = [f"{render.count(curves[-1].unreadable, 'line')} of its metrics cannot be read"]
        told = [*told * bool(curves[-1].unreadable), *["its last line was cut off in writing"] * torn]
        for sentence in told:
            print(f"note: run {entry.record.run}: {sentence}, and left out", file=sys.stderr)
    for problem in found.problems:
        print(f"note: {render.escape(str(problem))}", file=sys.stderr)
    return entries, curves


def _plot(path: Path | None, entries: list[RunEntry], curves: list[RunCurves], *, as_json: bool) -> None:
    from benchkit.train.run_plot import plot_curves

    if path is None:
        return
    labels = [f"{entry.record.name} ({entry.short})" for entry in entries]
    left_out = plot_curves(path, [(label, read.curves) for label, read in zip(labels, curves, strict=True)])
    if left_out:
        print(f"note: no room in the picture for {', '.join(map(render.escape, left_out))}", file=sys.stderr)
    if not as_json:
        print(f"\nthe curves are in {render.escape(str(path))}")


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table behind a blank line, if it has rows."""
    if rows:
        print(f"\n{render.table(heads, rows, right=right)}")


def _print_json(value: Any) -> None:
    from benchkit.cli.experiment_text import finite

    print(json.dumps(finite(value), indent=2))
