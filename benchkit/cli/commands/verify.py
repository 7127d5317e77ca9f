"""`bench-kit verify`: whether a version is whole, down to the last byte if asked."""

from __future__ import annotations

from typing import Annotated

import typer

from benchkit.cli import render
from benchkit.cli.progress import Bar
from benchkit.errors import CorruptError

EXAMPLE = "Example: bench-kit verify train@2 --full"


def verify(
    name: Annotated[str, typer.Argument(help="NAME, the newest version, or NAME@VERSION.")],
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte: digests, indices, each sample's members.")
    ] = False,
    staged: Annotated[bool, typer.Option("--staged", help="Verify staging, not the remote.")] = False,
) -> None:
    """Check that every chunk of a version is there with its size, or with --full every byte of it."""
    from benchkit.data import verify as verification
    from benchkit.data.catalogue import parse_label
    from benchkit.settings import load_settings
    from benchkit.store.urls import open_store

    settings = load_settings()
    store = open_store(str(settings.staging) if staged else settings.remote_url)
    dataset, number = parse_label(name)
    with Bar(f"verifying {name}", "chunks") as bar:

        def show(progress: verification.VerifyProgress) -> None:
            bar.show(
                done_bytes=progress.bytes,
                total_bytes=progress.total_bytes,
                count=progress.chunks,
                total=progress.total_chunks,
            )

        report = verification.verify(store, dataset, number, full=full, on_progress=show)
    what = ", ".join(
        (
            render.count(report.chunks, "chunk"),
            render.count(report.samples, "sample"),
            render.size(report.bytes),
        )
    )
    if report.problems:
        lines = "\n".join(f"  {render.escape(problem)}" for problem in report.problems)
        stage = "--zip" if staged else "--up"
        raise CorruptError(
            f"{report.version.label} has {render.count(len(report.problems), 'problem')} ({what}):\n{lines}\n"
            "to mend chunks: remove those that are corrupt, then run "
            f'"python manage.py migrate-data {dataset} {stage}", which writes what is missing'
        )
    depth = "every byte checked" if full else "presence and sizes checked"
    print(f"{report.version.label} is whole: {what}; {depth}")
