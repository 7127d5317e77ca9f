"""Packing: a user's dataset becomes chunks and a manifest in staging, in parallel and in one pass.

Walk, plan, segments, manifest. The output depends on the samples, the options and nothing else. What is
finished is in the staging journal, so that packing that was killed goes on; nothing is seen of it before the
manifest is written, last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchkit.data.catalogue import Version, open_catalogue, publish
from benchkit.data.journal import Journal, Segment
from benchkit.data.memory import give_back
from benchkit.data.plan import PROBED_SAMPLES, Plan, choose_allowance, make_plan
from benchkit.data.processor import ProcessorDataset
from benchkit.data.samples import Samples
from benchkit.data.segments import PackedSegment, PackJob, SegmentTask, measure_overhead, pack_segment
from benchkit.data.walk import Walk, WalkBuilder, WalkedRange, split_walk, walk_range
from benchkit.data.workers import WorkerPool
from benchkit.errors import UsageError
from benchkit.format import canonical
from benchkit.format.chunk import CODECS, FRAME_BYTES, PROBE_RATIO, ZSTD_LEVEL, Codec
from benchkit.format.digests import digest_bytes
from benchkit.format.index import INDEX_FORMAT
from benchkit.format.layout import check_dataset_name
from benchkit.format.manifest import Manifest
from benchkit.store.local import LocalStore

CHUNK_BYTES = 32 << 20
JOURNAL_FOLDER = Path(".benchkit") / "journal"
"""Below the project folder: nothing in staging is anything but an object of the store."""

_SEGMENT_FORMAT = 1
"""Part of a segment's digest: raised when packing would write other chunks from the same samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackProgress:
    """How far packing has come.

    Attributes:
        stage: `walk` looks at the files, `pack` reads and writes them.
        samples: Samples done in this stage.
        total_samples: All samples.
        bytes: Bytes of source files done in this stage.
        total_bytes: Those of all samples; 0 in the walk, which finds it out.
    """

    stage: Literal["walk", "pack"]
    samples: int
    total_samples: int
    bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackReport:
    """What packing did.

    Attributes:
        version: The version in staging that holds the samples.
        new: Whether it was not there before.
        samples: Samples in it.
        chunks: Chunks in it.
        reused_chunks: Those of them that had been packed before.
        bytes_read: Bytes of source files that were read.
        tar_bytes: Size of all chunks as plain tars.
        stored_bytes: Size of all chunks as stored.
        seconds: How long it took.
    """

    version: Version
    new: bool
    samples: int
    chunks: int
    reused_chunks: int
    bytes_read: int
    tar_bytes: int
    stored_bytes: int
    seconds: float


def pack(
    dataset: ProcessorDataset,
    name: str,
    *,
    staging: LocalStore,
    project: Path,
    chunk_bytes: int = CHUNK_BYTES,
    codec: Codec = "auto",
    workers: int | None = None,
    on_progress: Callable[[PackProgress], None] | None = None,
) -> PackReport:
    """Pack a dataset into staging, and publish it there unless the newest version is the same.

    Args:
        dataset: Says what the samples are.
        name: Name of the dataset.
        staging: Where chunks, manifest and journal go.
        project: The project folder: default keys are relative to it, and the journal lies in it.
        chunk_bytes: The size of a chunk before compression; a sample that is larger has a chunk of its own.
        codec: `auto` compresses a chunk where that pays.
        workers: How many processes; None is one for each core. The output is the same for any number.
        on_progress: Is told, in this process, how far packing has come.

    Raises:
        DatasetError: The dataset is empty, or not one.
        SampleError: A sample cannot be packed; the message names it.
        LabelTypeError: A label is of a type that cannot be stored.
        StallError: A worker process died.
        StoreError: Staging cannot be written.
        UsageError: The name or an option is none.
    """
    started = time.monotonic()
    check_dataset_name(name)
    if chunk_bytes < 1 or codec not in CODECS or (workers is not None and workers < 1):
        raise UsageError(
            f"chunk_bytes={chunk_bytes!r}, codec={codec!r}, workers={workers!r}: sizes and numbers are at "
            f"least 1, a codec is one of {', '.join(CODECS)}"
        )
    samples = Samples.of(dataset, project)
    count = samples.count()
    open_catalogue(staging, create=True)
    staging.sweep()
    job = PackJob(samples=samples, name=name, staging=staging, chunk_bytes=chunk_bytes, codec=codec)
    with Journal(project / JOURNAL_FOLDER / f"{name}.jsonl", name) as journal:
        with WorkerPool(job, workers=workers or os.cpu_count() or 1) as pool:
            packing = _Packing(job, pool, on_progress or (lambda _: None))
            plan = packing.plan(packing.walk(count))
            give_back()
            segments = packing.write(plan, journal)
        chunks = tuple(chunk for segment in segments for chunk in segment.segment.chunks)
        manifest = Manifest(dataset=name, chunk_bytes=chunk_bytes, codec=codec, chunks=chunks)
        version, new = publish(staging, manifest)
        journal.rewrite(segment.segment for segment in segments)
    return PackReport(
        version=version,
        new=new,
        samples=count,
        chunks=len(chunks),
        reused_chunks=sum(len(segment.segment.chunks) for segment in segments if segment.kept),
        bytes_read=sum(segment.source_bytes for segment in segments if not segment.kept),
        tar_bytes=manifest.tar_bytes,
        stored_bytes=manifest.stored_bytes,
        seconds=time.monotonic() - started,
    )


class _Packing:
    """One packing on its way, in the process that leads it."""

    def __init__(
        self, job: PackJob, pool: WorkerPool[PackJob], on_progress: Callable[[PackProgress], None]
    ) -> None:
        self._job = job
        self._pool = pool
        self._on_progress = on_progress

    def walk(self, count: int) -> Walk:
        """Return what a walk over all samples finds."""
        builder, samples, source_bytes = WalkBuilder(count), 0, 0
        for found in self._pool.run(_walk_range, split_walk(count)):
            builder.add(found)
            samples += len(found.sizes)
            source_bytes += found.source_bytes
            self._tell("walk", samples, count, source_bytes, 0)
        return builder.finish(self._job.samples)

    def plan(self, walk: Walk) -> Plan:
        """Return what goes where; the labels of some samples tell how much room labels need."""
        probed = self._pool.run(measure_overhead, walk.order[:PROBED_SAMPLES].tolist())
        return make_plan(
            walk,
            allowance=choose_allowance(list(probed)),
            chunk_bytes=self._job.chunk_bytes,
            options=_digest_options(self._job),
        )

    def write(self, plan: Plan, journal: Journal) -> list[PackedSegment]:
        """Return the packed segments in written order, each in the journal as soon as it is finished."""
        packed: dict[int, PackedSegment] = {}
        samples, source_bytes = 0, 0
        for segment in self._pool.run(pack_segment, _list_tasks(plan, journal.read())):
            if not segment.kept:
                journal.append(segment.segment)
            packed[segment.number] = segment
            samples += segment.samples
            source_bytes += segment.source_bytes
            self._tell("pack", samples, len(plan.order), source_bytes, plan.source_bytes)
        return [packed[number] for number in range(len(plan.segments))]

    def _tell(
        self, stage: Literal["walk", "pack"], samples: int, total: int, done_bytes: int, total_bytes: int
    ) -> None:
        self._on_progress(
            PackProgress(
                stage=stage, samples=samples, total_samples=total, bytes=done_bytes, total_bytes=total_bytes
            )
        )


def _walk_range(job: PackJob, indices: range) -> WalkedRange:
    return walk_range(job.samples, indices)


def _list_tasks(plan: Plan, known: dict[str, Segment]) -> Iterator[SegmentTask]:
    for number, segment in enumerate(plan.segments):
        indices = plan.order[segment.start : segment.stop]
        yield SegmentTask(
            number=number,
            segment=segment.digest,
            indices=indices,
            repeats=plan.repeats[indices],
            checks=plan.checks[segment.start : segment.stop],
            known=known.get(segment.digest),
        )


def _digest_options(job: PackJob) -> bytes:
    """Return the digest of all that decides, beside the samples themselves, what their chunks are."""
    options = [
        _SEGMENT_FORMAT,
        INDEX_FORMAT,
        FRAME_BYTES,
        ZSTD_LEVEL,
        PROBE_RATIO,
        job.chunk_bytes,
        job.codec,
    ]
    return digest_bytes(canonical.encode(options)).encode()
