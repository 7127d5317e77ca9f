"""Packing: a user's dataset becomes chunks and a manifest in staging, in parallel and in one pass.

Walk, comparison with the base, plan, segments, manifest. The output depends on the samples, the options and
the version that it builds on, and nothing else. What is finished is in the staging journal, so that packing
that was killed goes on; nothing is seen of it before the manifest is written, last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from benchkit.data.base import adopt_base, find_base
from benchkit.data.catalogue import Version, open_catalogue, publish
from benchkit.data.compare import CompareJob, CompareTask, compare_chunk
from benchkit.data.journal import Journal
from benchkit.data.kept import Kept, KeptBuilder
from benchkit.data.memory import give_back
from benchkit.data.plan import PROBED_SAMPLES, Plan, choose_allowance, make_plan
from benchkit.data.processor import ProcessorDataset
from benchkit.data.samples import Samples
from benchkit.data.segments import (
    PackedSegment,
    PackJob,
    SegmentTask,
    digest_options,
    measure_overheads,
    pack_segment,
)
from benchkit.data.walk import Walk, WalkBuilder, WalkedRange, split_walk, walk_range
from benchkit.data.workers import WorkerPool
from benchkit.errors import UsageError
from benchkit.format.chunk import CODECS, Codec
from benchkit.format.layout import check_dataset_name
from benchkit.format.manifest import ChunkEntry, Manifest
from benchkit.store.base import Store
from benchkit.store.local import LocalStore

CHUNK_BYTES = 32 << 20
JOURNAL_FOLDER = Path(".benchkit") / "journal"
"""Below the project folder: nothing in staging is anything but an object of the store."""

_PROBED_PART = 8
"""So many labels are measured by one task: a task each would take longer than most of them."""

Stage = Literal["walk", "compare", "pack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackProgress:
    """How far packing has come.

    Attributes:
        stage: `walk` looks at the files, `compare` at the version to build on, `pack` reads and writes files.
        samples: Samples done in this stage.
        total_samples: All samples of this stage.
        bytes: Bytes of source files done in this stage.
        total_bytes: Those of all, estimated where not all samples are packed; 0 where that is not known.
    """

    stage: Stage
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
        added: Those of them that the version to build on does not have.
        changed: Those whose contents were others there.
        removed: Samples that the version to build on alone has.
        chunks: Chunks in it.
        reused_chunks: Those of them that had been packed before.
        dead_rows: Rows in them that are no samples of this version.
        bytes_read: Bytes of source files that were read.
        tar_bytes: Size of all chunks as plain tars.
        stored_bytes: Size of all chunks as stored.
        seconds: How long it took.
    """

    version: Version
    new: bool
    samples: int
    added: int
    changed: int
    removed: int
    chunks: int
    reused_chunks: int
    dead_rows: int
    bytes_read: int
    tar_bytes: int
    stored_bytes: int
    seconds: float


def pack(
    dataset: ProcessorDataset,
    name: str,
    *,
    staging: LocalStore,
    remote: Store | None = None,
    project: Path,
    chunk_bytes: int = CHUNK_BYTES,
    codec: Codec = "auto",
    checksum: bool = False,
    workers: int | None = None,
    on_progress: Callable[[PackProgress], None] | None = None,
) -> PackReport:
    """Pack a dataset into staging, and publish it there unless the newest version is the same.

    It builds on the newest version of the remote, or where there is none, of staging, if that was packed with
    the same options: what has not changed is neither read nor written.

    Args:
        dataset: Says what the samples are.
        name: Name of the dataset.
        staging: Where chunks and manifest go.
        remote: The store that staging is uploaded to; staging need not hold the chunks that it has.
        project: The project folder: default keys are relative to it, and the journal lies in it.
        chunk_bytes: The size of a chunk before compression; a sample that is larger has a chunk of its own.
        codec: `auto` compresses a chunk where that pays.
        checksum: Read all files to compare their contents, even those whose size and time are unchanged.
        workers: How many processes; None is one for each core. The output is the same for any number.
        on_progress: Is told, in this process, how far packing has come.

    Raises:
        DatasetError: The dataset is empty, or not one.
        SampleError: A sample cannot be packed; the message names it.
        LabelTypeError: A label is of a type that cannot be stored.
        StallError: A worker process died.
        StoreError: Staging cannot be written, or the remote cannot be asked.
        FormatError: The version to build on is of a newer format.
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
    job = PackJob(
        samples=samples,
        name=name,
        staging=staging,
        remote=remote,
        chunk_bytes=chunk_bytes,
        codec=codec,
        checksum=checksum,
    )
    with Journal(project / JOURNAL_FOLDER / f"{name}.jsonl", name) as journal:
        base = find_base(staging, remote, name, chunk_bytes=chunk_bytes, codec=codec)
        if base:
            adopt_base(staging, base)
        packing = _Packing(job, workers or os.cpu_count() or 1, journal, on_progress or (lambda _: None))
        kept, segments = packing.run(count, base.manifest.chunks if base else ())
        written = [chunk for segment in segments for chunk in segment.segment.chunks]
        chunks = kept.merge(written)
        manifest = Manifest(dataset=name, chunk_bytes=chunk_bytes, codec=codec, chunks=chunks)
        version, new = publish(staging, manifest)
        journal.rewrite({chunk.stored for chunk in (*chunks, *(base.manifest.chunks if base else ()))})
    return PackReport(
        version=version,
        new=new,
        samples=count,
        added=kept.added,
        changed=kept.changed,
        removed=kept.removed,
        chunks=len(chunks),
        reused_chunks=sum(kept.flags) + sum(len(seg.segment.chunks) for seg in segments if seg.kept),
        dead_rows=sum(chunk.samples - chunk.live for chunk in chunks),
        bytes_read=kept.bytes_read + sum(segment.bytes_read for segment in segments),
        tar_bytes=manifest.tar_bytes,
        stored_bytes=manifest.stored_bytes,
        seconds=time.monotonic() - started,
    )


class _Packing:
    """One packing on its way, in the process that leads it."""

    def __init__(
        self, job: PackJob, workers: int, journal: Journal, on_progress: Callable[[PackProgress], None]
    ) -> None:
        self._job = job
        self._workers = workers
        self._journal = journal
        self._on_progress = on_progress

    def run(self, count: int, base: Sequence[ChunkEntry]) -> tuple[Kept, list[PackedSegment]]:
        """Return what is kept of the base's chunks, and the packed segments of all other samples."""
        with WorkerPool(self._job, workers=self._workers) as pool:
            walk, allowance = self._walk(pool, count)
            give_back()
            kept = self._compare(walk, base)
            plan = make_plan(
                walk,
                kept.order,
                allowance=allowance,
                chunk_bytes=self._job.chunk_bytes,
                options=digest_options(self._job),
            )
            del walk
            give_back()
            return kept, self._write(pool, plan)

    def _walk(self, pool: WorkerPool[PackJob], count: int) -> tuple[Walk, int]:
        """Return what a walk over all samples finds, and how much room the labels of some of them need."""
        builder, samples, source_bytes = WalkBuilder(count), 0, 0
        for found in pool.run(_walk_range, split_walk(count)):
            builder.add(found)
            samples += len(found.sizes)
            source_bytes += found.source_bytes
            self._tell("walk", samples, count, source_bytes, 0)
        walk = builder.finish(self._job.samples)
        probed = walk.order[:PROBED_SAMPLES].tolist()
        parts = (probed[start : start + _PROBED_PART] for start in range(0, len(probed), _PROBED_PART))
        overheads = chain.from_iterable(pool.run(measure_overheads, parts))
        return walk, choose_allowance(list(overheads))

    def _compare(self, walk: Walk, base: Sequence[ChunkEntry]) -> Kept:
        """Return what is kept of the base's chunks."""
        builder, samples, source_bytes = KeptBuilder(walk.order, chunk_bytes=self._job.chunk_bytes), 0, 0
        if base:
            total = sum(chunk.live for chunk in base)
            # The walk is inherited by processes that are forked now: it is much to hand over with a task.
            with WorkerPool(CompareJob(job=self._job, walk=walk), workers=self._workers) as pool:
                for chunk in pool.run(compare_chunk, self._list_chunks(base)):
                    if chunk.facts:
                        self._journal.add_facts(chunk.chunk.stored, chunk.facts)
                    builder.add(chunk)
                    samples += chunk.chunk.live
                    source_bytes += chunk.source_bytes
                    self._tell("compare", samples, total, source_bytes, 0)
        return builder.finish()

    def _write(self, pool: WorkerPool[PackJob], plan: Plan) -> list[PackedSegment]:
        """Return the packed segments in written order, each in the journal as soon as it is finished."""
        packed: dict[int, PackedSegment] = {}
        samples, source_bytes = 0, 0
        for segment in pool.run(pack_segment, self._list_segments(plan)):
            told = segment.segment
            if told != self._journal.segment(told.segment):
                self._journal.add_segment(told)
            # The facts are in the journal now; here they would take 8 bytes a sample.
            packed[segment.number] = replace(segment, segment=replace(told, facts=()))
            samples += segment.samples
            source_bytes += segment.source_bytes
            self._tell("pack", samples, len(plan.order), source_bytes, plan.source_bytes)
        return [packed[number] for number in range(len(plan.segments))]

    def _list_chunks(self, base: Sequence[ChunkEntry]) -> Iterator[CompareTask]:
        for number, chunk in enumerate(base):
            yield CompareTask(number=number, chunk=chunk, known=self._journal.facts(chunk.stored))

    def _list_segments(self, plan: Plan) -> Iterator[SegmentTask]:
        for number, segment in enumerate(plan.segments):
            indices = plan.order[segment.start : segment.stop]
            yield SegmentTask(
                number=number,
                segment=segment.digest,
                indices=indices,
                repeats=plan.repeats[indices],
                checks=plan.checks[segment.start : segment.stop],
                known=self._journal.segment(segment.digest),
            )

    def _tell(self, stage: Stage, samples: int, total: int, done_bytes: int, total_bytes: int) -> None:
        self._on_progress(
            PackProgress(
                stage=stage, samples=samples, total_samples=total, bytes=done_bytes, total_bytes=total_bytes
            )
        )


def _walk_range(job: PackJob, indices: range) -> WalkedRange:
    return walk_range(job.samples, indices)
