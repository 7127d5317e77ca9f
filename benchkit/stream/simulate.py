"""The simulation: what an epoch of training does with a version's chunks, told from the manifest alone.

It cuts the very order that the loader reads into the very batches, so its counts are those of a real pass.
Nothing is fetched; memory grows with chunks and machines, and not with samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchkit.errors import UsageError
from benchkit.format.manifest import Manifest
from benchkit.stream.eviction import smallest_limit
from benchkit.stream.order import Ints, Order, batch_positions
from benchkit.stream.reader import check_rows
from benchkit.stream.room import lookahead_limit, machine_lanes

MAX_RANKS = MAX_OPEN_CHUNKS = 1 << 16
MAX_GLOBAL_BATCH = 1 << 22
MAX_EPOCH = 1 << 31
_BLOCK_SAMPLES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """The training that is simulated.

    Attributes:
        ranks: Training processes, all machines together.
        ranks_per_node: Those of one machine; the last machine may have fewer.
        workers: Loading processes of each rank; 0 reads in the training process.
        batch_size: Samples per step and rank.
        open_chunks: Chunks that the order interleaves, its lanes.
        shuffle: False is written order.
        seed: What the order derives from.
        epoch: Number of the pass, from 0.
        bytes_per_second: What a machine can fetch from the store.
    """

    ranks: int
    ranks_per_node: int
    workers: int
    batch_size: int
    open_chunks: int
    shuffle: bool
    seed: int
    epoch: int
    bytes_per_second: float

    def __post_init__(self) -> None:
        for name, least, most in (
            ("ranks", 1, MAX_RANKS),
            ("ranks_per_node", 1, MAX_RANKS),
            ("workers", 0, MAX_RANKS),
            ("batch_size", 1, MAX_GLOBAL_BATCH),
            ("open_chunks", 1, MAX_OPEN_CHUNKS),
            ("epoch", 0, MAX_EPOCH),
        ):
            if not least <= getattr(self, name) <= most:
                raise UsageError(f"{name} {getattr(self, name)} is outside {least}..{most}")
        if self.global_batch > MAX_GLOBAL_BATCH:
            raise UsageError(
                f"{self.ranks} ranks with batches of {self.batch_size} are {self.global_batch} samples; "
                f"a step has at most {MAX_GLOBAL_BATCH}"
            )
        if not 0 < self.bytes_per_second < math.inf:
            raise UsageError(f"a bandwidth of {self.bytes_per_second:g} bytes per second fetches nothing")

    @property
    def global_batch(self) -> int:
        """Samples of a step, all ranks together."""
        return self.ranks * self.batch_size

    @property
    def nodes(self) -> int:
        """Machines."""
        return -(-self.ranks // self.ranks_per_node)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFetches:
    """What one machine fetches in the epoch, beginning with an empty cache that holds all of it.

    Attributes:
        chunks: Chunks that its ranks need, each counted once.
        stored_bytes: Their sizes as stored: what it fetches.
        tar_bytes: Their sizes unpacked: what the cache keeps.
        first_chunks: Those that its first batches need.
        first_bytes: Their sizes as stored.
        burst_chunks: The most that are needed for the first time in one later step.
    """

    chunks: int
    stored_bytes: int
    tar_bytes: int
    first_chunks: int
    first_bytes: int
    burst_chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What the epoch takes.

    Attributes:
        samples: Live samples of the version.
        chunks: Its chunks.
        stored_bytes: Their sizes as stored.
        steps: Batches of each rank.
        padding: Repeated samples that fill up the last step.
        batch_chunks_mean: Distinct chunks in a full global batch; where none is full, in the only one.
        batch_chunks_least: The fewest there are in one of these.
        spread: How much more the means of full global batches vary than with samples drawn independently,
            where the chunk decides a sample's value: 1.0 is perfect. None with one chunk, or no full batch.
        nodes: What each machine fetches.
        cache_least_bytes: The smallest cache limit of a machine that a loader accepts.
        cache_ahead_bytes: The smallest with which workers keep their chunks open, and fetch ahead.
        cache_whole_bytes: The smallest with which no machine fetches a chunk twice.
        first_batch_seconds: The first step's chunks on the machine that has most to fetch, by the bandwidth.
    """

    samples: int
    chunks: int
    stored_bytes: int
    steps: int
    padding: int
    batch_chunks_mean: float
    batch_chunks_least: int
    spread: float | None
    nodes: tuple[NodeFetches, ...]
    cache_least_bytes: int
    cache_ahead_bytes: int
    cache_whole_bytes: int
    first_batch_seconds: float

    @property
    def fetched_bytes(self) -> int:
        """What all machines together fetch."""
        return sum(node.stored_bytes for node in self.nodes)


def simulate(manifest: Manifest, options: SimulateOptions) -> Simulation:
    """Return what an epoch of a version takes; ten million samples take seconds.

    Raises:
        DatasetError: Every row of the version is dead.
        UsageError: The seed is outside its bounds.
    """
    rows = check_rows(manifest, manifest.dataset)
    order = Order(rows=rows, seed=options.seed, shuffle=options.shuffle, lanes=options.open_chunks)
    full, stride = order.total // options.global_batch, options.global_batch
    node_of_place = np.arange(stride, dtype=np.int64) // (options.batch_size * options.ranks_per_node)
    first_steps = np.zeros((options.nodes, len(rows)), dtype=np.int64)
    mixing, steps = _Mixing(rows), 0
    for positions in _global_batches(order.total, options):
        chunks = order.chunks(options.epoch, positions.ravel()).reshape(positions.shape)
        if steps < max(full, 1):  # an incomplete last batch would tell of its size, and not of the mixing
            mixing.add(chunks)
        _note_needs(first_steps, node_of_place * len(rows) + chunks, step=steps + 1)
        steps += len(chunks)
    stored = np.array([chunk.stored_bytes for chunk in manifest.chunks], dtype=np.int64)
    tar = np.array([chunk.tar_bytes for chunk in manifest.chunks], dtype=np.int64)
    nodes = tuple(_sum_up(first_step, stored, tar) for first_step in first_steps)
    local, largest = min(options.ranks, options.ranks_per_node), int(tar.max())
    lanes = machine_lanes(lanes=options.open_chunks, local=local, count=options.ranks)
    least = smallest_limit(lanes=min(lanes, len(rows)), largest_tar_bytes=largest)
    ahead = lookahead_limit(
        tar_bytes=tar.tolist(),
        lanes=options.open_chunks,
        processes=local,
        workers=options.workers,
    )
    return Simulation(
        samples=order.total,
        chunks=len(rows),
        stored_bytes=manifest.stored_bytes,
        steps=steps,
        padding=steps * stride - order.total,
        batch_chunks_mean=mixing.distinct / mixing.batches,
        batch_chunks_least=mixing.least,
        spread=mixing.spread() if full else None,
        nodes=nodes,
        cache_least_bytes=least,
        cache_ahead_bytes=max(least, ahead),
        cache_whole_bytes=max(least, *(node.tar_bytes for node in nodes)),
        first_batch_seconds=max(node.first_bytes for node in nodes) / options.bytes_per_second,
    )


def _global_batches(total: int, options: SimulateOptions) -> Iterator[Ints]:
    """Yield the positions of an epoch in blocks of steps, (steps, global batch): in a row, rank after rank.

    All batches but the last are full, and how a full one is cut depends on where it begins modulo the lanes.
    """
    stride, lanes = options.global_batch, options.open_chunks

    def cut(total: int, position: int) -> Ints:
        return batch_positions(
            total=total, position=position, batch_size=stride, index=0, count=1, lanes=lanes
        )

    full, block = total // stride, max(1, _BLOCK_SAMPLES // stride)
    for first in range(0, full, block):
        starts = np.arange(first, min(first + block, full), dtype=np.int64) * stride
        phases, phase_of_start = np.unique(starts % lanes, return_inverse=True)
        cuts = np.stack([cut(phase + stride, phase) - phase for phase in phases.tolist()])
        yield starts[:, None] + cuts[phase_of_start]
    if total % stride:
        yield cut(total, full * stride)[None]


class _Mixing:
    """How well global batches mix the chunks; counts them, and their samples by chunk.

    Args:
        rows: Live rows of each chunk, (chunks,).
    """

    def __init__(self, rows: Ints) -> None:
        self._rows = rows
        self._taken = np.zeros(len(rows), dtype=np.int64)
        self._squares = 0
        self.batches = 0
        self.samples = 0
        self.distinct = 0
        self.least = len(rows)

    def add(self, chunks: Ints) -> None:
        """Count batches by the chunk of each of their samples, (batches, samples)."""
        ordered = np.sort(chunks.astype(np.min_scalar_type(len(self._rows))), axis=1)
        begins = np.ones(ordered.shape, dtype=np.bool_)
        begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        counts = np.diff(np.flatnonzero(begins), append=begins.size)
        distinct = begins.sum(axis=1)
        self._taken += np.bincount(chunks.ravel(), minlength=len(self._rows))
        self._squares += int(counts @ counts)
        self.batches += len(chunks)
        self.samples += chunks.size
        self.distinct += int(distinct.sum())
        self.least = min(self.least, int(distinct.min()))

    def spread(self) -> float | None:
        """Return the spread of the batches' means, by that of as many samples drawn independently.

        With p of a batch from a chunk that has w of all samples, and values of the chunks drawn at random
        with the variance v, the square of what a batch's mean is off has the expectation v * sum((p - w)^2);
        that of a batch of B independent samples has v * (1 - sum(w^2)) / B.
        """
        share = self._rows / self._rows.sum()
        whole = float(share @ share)
        if np.count_nonzero(self._rows) == 1:
            return None
        size = self.samples // self.batches
        off = self._squares / (self.samples * size) - 2 * float(self._taken @ share) / self.samples + whole
        return math.sqrt(max(off, 0.0) * size / (1 - whole))


def _note_needs(first_steps: Ints, needs: Ints, *, step: int) -> None:
    """Enter the number of the step that needs a chunk first, where it has none yet.

    Args:
        first_steps: By machine and chunk, contiguous; 0 is never.
        needs: The place in it of each sample of some steps, (steps, global batch).
        step: Number of the first of these steps, 1 or more.
    """
    numbers, flat = first_steps.reshape(-1), needs.ravel()
    unseen = np.flatnonzero(numbers[flat] == 0)
    found, at = np.unique(flat[unseen], return_index=True)
    numbers[found] = step + unseen[at] // needs.shape[1]


def _sum_up(first_step: Ints, stored: Ints, tar: Ints) -> NodeFetches:
    """Return what a machine fetches.

    Args:
        first_step: The step, from 1, that needs each chunk first, (chunks,); 0 is never.
        stored: Bytes of each chunk as stored, (chunks,).
        tar: Bytes of each chunk unpacked, (chunks,).
    """
    needed, first = first_step > 0, first_step == 1
    bursts = np.unique(first_step[first_step > 1], return_counts=True)[1]
    return NodeFetches(
        chunks=int(needed.sum()),
        stored_bytes=int(stored[needed].sum()),
        tar_bytes=int(tar[needed].sum()),
        first_chunks=int(first.sum()),
        first_bytes=int(stored[first].sum()),
        burst_chunks=int(bursts.max(initial=0)),
    )
