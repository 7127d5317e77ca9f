"""`python manage.py migrate-data`: datasets packed, tried and uploaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.cli.app import managed_project
from benchkit.cli.progress import Bar
from benchkit.errors import DatasetError, StoreError, UsageError

if TYPE_CHECKING:
    from benchkit.data.pack import PackReport
    from benchkit.format.chunk import Codec
    from benchkit.project.userdata import UserDataset
    from benchkit.settings import Settings
    from benchkit.store.base import Store

EXAMPLE = "Example: python manage.py migrate-data train --zip --tdl"


class CodecChoice(str, Enum):
    """The codecs that a chunk can be asked to have."""

    auto = "auto"
    zstd = "zstd"
    none = "none"


CODECS: dict[CodecChoice, Codec] = {
    CodecChoice.auto: "auto",
    CodecChoice.zstd: "zstd",
    CodecChoice.none: "none",
}

STAGES = {"walk": "walking", "compare": "comparing", "pack": "packing"}


def migrate_data(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="The dataset.", show_default="all that main() lists")
    ] = None,
    zip_: Annotated[bool, typer.Option("--zip", help="Pack into staging, ProjectDatasets/.")] = False,
    tdl: Annotated[
        bool, typer.Option("--tdl", help="Try the data loader: read all that is staged as training would.")
    ] = False,
    up: Annotated[bool, typer.Option("--up", help="Upload staging to the remote.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Packing processes.", show_default="one for each core")
    ] = None,
    chunk_mib: Annotated[int, typer.Option(min=1, help="Size of a chunk before compression, MiB.")] = 32,
    codec: Annotated[
        CodecChoice, typer.Option(help="How chunks are stored; auto compresses where it pays.")
    ] = CodecChoice.auto,
    checksum: Annotated[
        bool,
        typer.Option(
            "--checksum", help="Read every file to find out what changed, whatever size and time say."
        ),
    ] = False,
) -> None:
    """Pack, try and upload the project's datasets: all three, or those of --zip, --tdl, --up.

    Cut off anywhere, the same command goes on where it was.
    """
    from benchkit.project.userdata import load_datasets
    from benchkit.settings import load_settings, use_project

    project = managed_project(context)
    use_project(project)
    settings = load_settings(project)
    datasets = load_datasets(project, name)
    every = not (zip_ or tdl or up)
    if tdl or every:
        _check_cache(settings)
    if zip_ or every:
        _pack(
            settings,
            datasets,
            remote=_open_base(settings, datasets, uploads=up or every),
            chunk_bytes=chunk_mib << 20,
            codec=CODECS[codec],
            checksum=checksum,
            workers=workers,
        )
    if tdl or every:
        _try(datasets)
    if up or every:
        _upload(settings, datasets)


def _check_cache(settings: Settings) -> None:
    """Make sure that the trial can use the cache's folder: better now than after an hour of packing."""
    from benchkit.stream.cache import ChunkCache

    cache = ChunkCache(folder=settings.cache_dir, limit_bytes=settings.cache_limit_bytes)
    cache.check_limit(lanes=0, largest_tar_bytes=0)


def _open_base(settings: Settings, datasets: list[UserDataset], *, uploads: bool) -> Store | None:
    """Return the remote, whose newest versions packing builds on; None where it does not answer.

    Where the datasets are uploaded too, that is an error: better now than after an hour of packing.
    """
    from benchkit.data.catalogue import list_versions
    from benchkit.store.urls import open_remote

    try:
        remote = open_remote(settings)
        for dataset in datasets[:1]:
            list_versions(remote, dataset.name)
    except (StoreError, UsageError) as error:
        if uploads:
            raise
        print(
            f"the remote could not be asked ({render.escape(str(error))}): "
            "packing on top of staging's newest version",
            file=sys.stderr,
        )
        return None
    return remote


def _pack(
    settings: Settings,
    datasets: list[UserDataset],
    *,
    remote: Store | None,
    chunk_bytes: int,
    codec: Codec,
    checksum: bool,
    workers: int | None,
) -> None:
    from benchkit.data.pack import PackProgress, pack
    from benchkit.store.local import LocalStore

    staging = LocalStore(settings.staging)
    heads = (
        "packed",
        "version",
        "samples",
        "changes",
        "chunks",
        "kept",
        "read",
        "stored",
        "ratio",
        "time",
        "rate",
    )
    with _table(heads, right=range(2, 11)) as rows:
        for dataset in datasets:
            with _naming(dataset), Bar(dataset.name, "samples") as bar:

                def show(progress: PackProgress, bar: Bar = bar, name: str = dataset.name) -> None:
                    bar.show(
                        done_bytes=progress.bytes,
                        total_bytes=progress.total_bytes,
                        count=progress.samples,
                        total=progress.total_samples,
                        title=f"{STAGES[progress.stage]} {name}",
                    )

                report = pack(
                    dataset.processor,
                    dataset.name,
                    staging=staging,
                    remote=remote,
                    project=settings.project,
                    chunk_bytes=chunk_bytes,
                    codec=codec,
                    checksum=checksum,
                    workers=workers,
                    on_progress=show,
                )
            rows.append(
                (
                    report.version.label,
                    "new" if report.new else "unchanged",
                    f"{report.samples:,}",
                    _describe_changes(report),
                    f"{report.chunks:,}",
                    f"{report.reused_chunks:,}",
                    render.size(report.bytes_read),
                    render.size(report.stored_bytes),
                    f"{report.stored_bytes / report.tar_bytes:.2f}",
                    render.duration(report.seconds),
                    render.rate(report.samples, report.seconds, "samples"),
                )
            )


def _describe_changes(report: PackReport) -> str:
    """Return how many samples were added, changed and removed since the version that was built on."""
    counts = (("+", report.added), ("~", report.changed), ("-", report.removed))
    return " ".join(f"{sign}{count:,}" for sign, count in counts if count) or "none"


def _try(datasets: list[UserDataset]) -> None:
    from benchkit.project.trial import try_dataset

    heads = ("tried", "samples, each once", "rows", "batches", "read", "time", "rate")
    with _table(heads, right=range(1, 7)) as rows:
        for dataset in datasets:
            with _naming(dataset), Bar(f"trying {dataset.name}", "samples") as bar:

                def show(progress: tuple[int, int], sizes: tuple[int, int], bar: Bar = bar) -> None:
                    bar.show(done_bytes=sizes[0], total_bytes=sizes[1], count=progress[0], total=progress[1])

                report = try_dataset(dataset, on_progress=show)
            rows.append(
                (
                    report.version,
                    f"{report.samples:,}",
                    f"{report.rows:,}",
                    f"{report.batches:,}",
                    render.size(report.tar_bytes),
                    render.duration(report.seconds),
                    render.rate(report.samples, report.seconds, "samples"),
                )
            )


def _upload(settings: Settings, datasets: list[UserDataset]) -> None:
    from benchkit.data.upload import UploadProgress, upload
    from benchkit.store.local import LocalStore
    from benchkit.store.urls import open_remote

    remote = open_remote(settings)
    staging = LocalStore(settings.staging)
    heads = ("uploaded", "version", "chunks", "skipped", "sent", "bytes sent", "time", "rate")
    with _table(heads, right=range(2, 8)) as rows:
        for dataset in datasets:
            with Bar(f"uploading {dataset.name}", "chunks") as bar:

                def show(progress: UploadProgress, bar: Bar = bar) -> None:
                    bar.show(
                        done_bytes=progress.bytes,
                        total_bytes=progress.total_bytes,
                        count=progress.chunks,
                        total=progress.total_chunks,
                    )

                report = upload(staging, remote, dataset.name, on_progress=show)
            rows.append(
                (
                    report.version.label,
                    "new" if report.new else "unchanged",
                    f"{report.chunks_sent + report.chunks_skipped:,}",
                    f"{report.chunks_skipped:,}",
                    f"{report.chunks_sent:,}",
                    render.size(report.bytes_sent),
                    render.duration(report.seconds),
                    render.size_rate(report.bytes_sent, report.seconds),
                )
            )
    print(f"to {render.escape(remote.url)}")


@contextmanager
def _table(heads: tuple[str, ...], *, right: range) -> Iterator[list[tuple[str, ...]]]:
    """Give the rows of a table, a dataset each, that is printed at the end, also where an error is it."""
    rows: list[tuple[str, ...]] = []
    try:
        yield rows
    finally:
        if rows:
            print(render.table(heads, rows, right=right))
            print()


@contextmanager
def _naming(dataset: UserDataset) -> Iterator[None]:
    """Have an error of a dataset say which dataset it is of."""
    try:
        yield
    except DatasetError as error:
        raise type(error)(f"{dataset.name}: {error}") from error
