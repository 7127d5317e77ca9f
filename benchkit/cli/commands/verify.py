"""`bench-kit verify`: whether a version is whole, down to the last byte if asked, and mending what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.cli.asking import confirm
from benchkit.cli.progress import Bar
from benchkit.errors import CorruptError

if TYPE_CHECKING:
    from benchkit.data.repair import Repair
    from benchkit.data.verify import VerifyProgress, VerifyReport
    from benchkit.store.base import Store

EXAMPLE = "Example: bench-kit verify train@2 --full"


def verify(
    name: Annotated[str, typer.Argument(help="NAME, the newest version, or NAME@VERSION.")],
    full: Annotated[
        bool, typer.Option("--full", help="Read every byte: digests, indices, each sample's members.")
    ] = False,
    staged: Annotated[bool, typer.Option("--staged", help="Verify staging, not the remote.")] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Send damaged chunks again from staging, and remove those that it does not hold."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before repairing.")] = False,
) -> None:
    """Check that every chunk of a version is there with its size, or with --full every byte of it."""
    from benchkit.data import verify as verification
    from benchkit.data.catalogue import parse_label
    from benchkit.settings import load_settings
    from benchkit.store.layered import open_staging
    from benchkit.store.local import LocalStore
    from benchkit.store.urls import open_remote

    settings = load_settings()
    staging = LocalStore(settings.staging)
    store: Store = open_staging(settings) if staged else open_remote(settings)
    dataset, number = parse_label(name)
    with Bar(f"verifying {name}", "chunks") as bar:

        def show(progress: VerifyProgress) -> None:
            bar.show(
                done_bytes=progress.bytes,
                total_bytes=progress.total_bytes,
                count=progress.chunks,
                total=progress.total_chunks,
            )

        report = verification.verify(store, dataset, number, full=full, on_progress=show)
    if report.problems:
        if not (repair and report.damaged):
            options = f"{' --full' if full else ''}{' --staged' if staged else ''} --repair"
            advice = f"\nto mend chunks: bench-kit verify {report.version.label}{options}"
            raise CorruptError(_describe(report) + (advice if report.damaged else ""))
        _repair(store, report, None if staged else staging, yes=yes)
        return
    depth = "every byte checked" if full else "presence and sizes checked"
    print(f"{report.version.label} is whole: {_count(report)}; {depth}")


def _repair(store: Store, report: VerifyReport, staging: Store | None, *, yes: bool) -> None:
    from benchkit.data.repair import plan_repair, repair

    plan = plan_repair(store, report, staging=staging)
    if plan.send or plan.remove:
        print(_describe(report))
        confirm(f"{_intention(plan)}?", yes=yes, asks="verify asks before it repairs")
        repair(store, plan, staging=staging)
        print(f"{report.version.label}: {_outcome(plan)}")
    lacking = len(plan.remove) + plan.missing
    if lacking:
        stage = "" if staging else " --zip"
        raise CorruptError(
            f"{report.version.label} lacks {render.count(lacking, 'chunk')}, which staging does not hold: "
            f'pack from the files again with "python manage.py migrate-data {report.version.dataset}{stage}"'
        )
    if len(report.problems) > len(report.damaged):
        raise CorruptError(f"not all of it are chunks that could be sent again: {_describe(report)}")


def _intention(plan: Repair) -> str:
    parts = []
    if plan.send:
        parts.append(f"send {render.count(len(plan.send), 'chunk')} again from staging")
    if plan.remove:
        parts.append(
            f"remove {render.count(len(plan.remove), 'damaged chunk')} that can only be packed again"
        )
    return " and ".join(parts).capitalize()


def _outcome(plan: Repair) -> str:
    sent, removed = (render.count(len(chunks), "chunk") for chunks in (plan.send, plan.remove))
    return f"{sent} sent again from staging, {removed} removed"


def _describe(report: VerifyReport) -> str:
    lines = "\n".join(f"  {render.escape(problem)}" for problem in report.problems)
    problems = render.count(len(report.problems), "problem")
    return f"{report.version.label} has {problems} ({_count(report)}):\n{lines}"


def _count(report: VerifyReport) -> str:
    return ", ".join(
        (
            render.count(report.chunks, "chunk"),
            render.count(report.samples, "sample"),
            render.size(report.bytes),
        )
    )
