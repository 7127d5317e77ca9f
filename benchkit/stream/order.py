"""The order of one epoch: a pure function of manifest, seed, epoch and lanes.

The chunks, permuted once per run, make one line of N samples, which is cut into L lanes. Position p of an
epoch is step p div L of lane v(p mod L). In every epoch the rows of each chunk are permuted anew, and so is
the order of the chunk pieces inside a lane; lane k starts k/L of the way into its first piece and reads what
it left out at its end, so that the lanes do not change chunk at the same step.

Any position is found at the same cost. Random numbers are hashes of seed, purpose, epoch and index, and a
permutation is a stable sort by them, so no version of NumPy decides anything. Fixtures in the tests freeze
what this file computes; a change of it is a new `ORDER_VERSION`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import UsageError

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

ORDER_VERSION = 1
LEAST_CACHE_BYTES = 4 << 20
"""Permutations kept take at most this, or two of the largest for every lane where that is more."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio."""
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1
_CHUNKS, _PIECES, _ROWS, _BATCHES = 1, 2, 3, 4
_TABLES_KEPT = 2


@dataclass(frozen=True, slots=True)
class _Line:
    """The samples of a run laid end to end, and cut at the edges of chunks and lanes into pieces.

    Attributes:
        total: N, the number of samples.
        visits: v, which lane each of L consecutive positions visits, (lanes,).
        lane_edge: Where the lanes begin on the line, and its end, (lanes + 1,).
        lane: The lane of each piece, (pieces,).
        chunk: The chunk of each piece, in manifest order, (pieces,).
        start: Where in its chunk each piece starts, (pieces,).
        length: Samples of each piece, at least 1, (pieces,).
    """

    total: int
    visits: Ints
    lane_edge: Ints
    lane: Ints
    chunk: Ints
    start: Ints
    length: Ints


@dataclass(frozen=True, slots=True)
class _EpochTable:
    """Where an epoch finds positions: by the turn of their lane, and by the pieces as the lanes read them.

    Attributes:
        begin: Where on the line the lane begins that is visited at each turn, (lanes,).
        length: Samples of that lane, at least 1, (lanes,).
        shift: How far into its first piece it starts, (lanes,).
        end: Where each piece ends when all lanes are laid end to end, (pieces,).
        chunk: The chunk of each piece, (pieces,).
        offset: What is added to a place on the lanes to get the place in that chunk, (pieces,).
        row_seed: The seed of each chunk's permutation, (chunks,).
    """

    begin: Ints
    length: Ints
    shift: Ints
    end: Ints
    chunk: Ints
    offset: Ints
    row_seed: Hashes


class _Permutations:
    """The permutations of rows that were made last, by epoch and chunk, within a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: OrderedDict[tuple[int, int], npt.NDArray[Any]] = OrderedDict()

    def find(self, epoch: int, chunk: int, seeds: Hashes, rows: Ints) -> memoryview:
        """Return an epoch's permutation of a chunk's rows, in the smallest unsigned integers that hold it.

        Args:
            epoch: Number of the epoch.
            chunk: Number of the chunk.
            seeds: The seed of each chunk's permutation in that epoch, (chunks,).
            rows: Live rows of each chunk, (chunks,).
        """
        key = epoch, chunk
        found = self._kept.get(key)
        if found is None:
            count = int(rows[chunk])
            numbers = _pick(int(seeds[chunk]), np.arange(count, dtype=np.int64))
            found = np.argsort(numbers, kind="stable").astype(np.min_scalar_type(count - 1))
            self._kept[key] = found
            self.used_bytes += found.nbytes
            while self.used_bytes > self.limit_bytes:
                self.used_bytes -= self._kept.popitem(last=False)[1].nbytes
        else:
            self._kept.move_to_end(key)
        return found.data  # whose numbers take less to get


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Order:
    """The sequence in which the epochs of a run visit all samples; a value, whatever it keeps to be quick.

    `chunks` may be called by one thread while another calls `locate`.

    Attributes:
        rows: Live rows of each chunk, in manifest order, (chunks,), int64, read-only; none is fine.
        seed: What everything random derives from, 0 … 2^63 - 1.
        shuffle: False keeps chunks and rows in written order.
        lanes: L, at least 1.

    Raises:
        UsageError: One of these is outside its bounds.

    Example:
        >>> order = Order(rows=np.array([2, 3]), seed=0, shuffle=False, lanes=1)
        >>> order.locate(0, np.array([0, 2, 4]))
        ([0, 1, 1], [0, 0, 2])
    """

    rows: Ints
    seed: int
    shuffle: bool
    lanes: int
    _line: _Line = field(init=False, repr=False)
    _tables: OrderedDict[int, _EpochTable] = field(init=False, repr=False, default_factory=OrderedDict)
    _permutations: _Permutations = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = np.array(self.rows, dtype=np.int64)
        if rows.ndim != 1 or (rows < 0).any():
            raise UsageError("the live rows of the chunks are not one number, 0 or more, for each chunk")
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed {self.seed} is outside 0..2^63 - 1")
        if self.lanes < 1:
            raise UsageError(f"{self.lanes} lanes are less than 1")
        rows.setflags(write=False)
        largest = int(rows.max(initial=1))
        limit_bytes = 2 * self.lanes * largest * np.min_scalar_type(largest - 1).itemsize
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "_line", _lay_line(rows, self.seed, self.shuffle, self.lanes))
        object.__setattr__(self, "_permutations", _Permutations(max(LEAST_CACHE_BYTES, limit_bytes)))

    def __reduce__(self) -> tuple[Callable[[], Order], tuple[()]]:
        """Pickle what the order is made of, and nothing that can be computed again."""
        return partial(Order, rows=self.rows, seed=self.seed, shuffle=self.shuffle, lanes=self.lanes), ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Order) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[bytes, int, bool, int]:
        return self.rows.tobytes(), self.seed, self.shuffle, self.lanes

    @property
    def total(self) -> int:
        """N, the number of samples."""
        return self._line.total

    def locate(self, epoch: int, positions: Ints) -> tuple[list[int], list[int]]:
        """Return the chunk of each position, and its live row there.

        Raises:
            UsageError: A position is outside 0 … N - 1, or the epoch is negative.
        """
        if self.lanes == 1 and not self.shuffle and (found := self._find_run(epoch, positions)):
            return found
        found_chunks, found_places, table = self._find(epoch, positions)
        chunks, places = found_chunks.tolist(), found_places.tolist()
        if not self.shuffle:
            return chunks, places
        find = self._permutations.find
        permutations = {chunk: find(epoch, chunk, table.row_seed, self.rows) for chunk in set(chunks)}
        return chunks, [permutations[chunk][place] for chunk, place in zip(chunks, places, strict=True)]

    def chunks(self, epoch: int, positions: Ints) -> Ints:
        """Return the chunk of each position, (n,), int64, without permuting any rows; raises as `locate`."""
        return self._find(epoch, positions)[0]

    def _find(self, epoch: int, positions: Ints) -> tuple[Ints, Ints, _EpochTable]:
        """Return the chunk of each position, its place in that chunk's permutation, and the epoch's table."""
        line, table = self._line, self._table(epoch)
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.view(np.uint64).max() >= line.total:  # one below 0 is very large so
            spread = f"{positions.min()}..{positions.max()}"
            raise UsageError(f"positions {spread} are not inside 0..{line.total - 1}")
        step, turn = np.divmod(positions, self.lanes)
        along = table.begin[turn] + (step + table.shift[turn]) % table.length[turn]
        at = table.end.searchsorted(along, side="right")
        return table.chunk[at], along + table.offset[at], table

    def _find_run(self, epoch: int, positions: Ints) -> tuple[list[int], list[int]] | None:
        """Return what `locate` does of neighbours in one chunk in written order; None is anything else."""
        table, count = self._table(epoch), len(positions)
        if not count or not 0 <= (first := int(positions[0])) <= self.total - count:
            return None
        at = int(table.end.searchsorted(first, side="right"))
        last = first + count - 1
        if last >= table.end[at] or int(positions[-1]) != last or (positions[1:] <= positions[:-1]).any():
            return None
        row = first + int(table.offset[at])
        return [int(table.chunk[at])] * count, list(range(row, row + count))

    def _table(self, epoch: int) -> _EpochTable:
        if epoch < 0:
            raise UsageError(f"epoch {epoch} is less than 0")
        table = self._tables.get(epoch)
        if table is None:
            table = self._tables[epoch] = self._make_table(epoch)
            if len(self._tables) > _TABLES_KEPT:
                self._tables.popitem(last=False)
        return table

    def _make_table(self, epoch: int) -> _EpochTable:
        line = self._line
        piece = np.arange(len(line.lane), dtype=np.int64)
        if self.shuffle:
            piece = np.lexsort((_pick(_seed(self.seed, _PIECES, epoch), piece), line.lane))
        length = line.length[piece]
        edge = _edges(length)
        # A lane without samples has no first piece: it takes any length, and no position ever asks for it.
        first = np.searchsorted(edge, line.lane_edge[:-1], side="right") - 1
        shift = np.append(length, 0)[first] * np.arange(self.lanes, dtype=np.int64) // self.lanes
        return _EpochTable(
            begin=line.lane_edge[line.visits],
            length=np.maximum(1, np.diff(line.lane_edge))[line.visits],
            shift=shift[line.visits],
            end=edge[1:],
            chunk=line.chunk[piece],
            offset=line.start[piece] - edge[:-1],
            row_seed=_pick(_seed(self.seed, _ROWS, epoch), np.arange(len(self.rows), dtype=np.int64)),
        )


def lane_order(lanes: int) -> Ints:
    """Return v, the lanes that L consecutive positions visit one after the other, (lanes,), int64.

    v(j) is the rank of (j + 1) * 0x9E3779B97F4A7C15 mod 2^64, the fractional part of (j + 1) divided by the
    golden ratio, among those of j = 0 … L - 1: any few neighbours are spread evenly (Knuth, The Art of
    Computer Programming 3, 6.4, theorem S). With j in place of j + 1, processes would share more lanes.
    """
    order = np.empty(lanes, dtype=np.int64)
    order[_turns(lanes)] = np.arange(lanes, dtype=np.int64)
    return order


def batch_positions(
    *, total: int, position: int, batch_size: int, index: int, count: int, lanes: int
) -> Ints:
    """Return the positions of one process's batch, (batch_size,), int64.

    The global batch is the next `count * batch_size` positions: its real samples sorted by lane and step,
    then, if they are too few, positions 0, 1, 2 … behind them. So padding is last in rank order. The cost
    depends on lanes and batch size, not on how many processes there are.

    Args:
        total: Samples of the dataset.
        position: Where the global batch begins.
        batch_size: Samples that each process gets.
        index: Which process.
        count: How many processes.
        lanes: Lanes of the order.

    Raises:
        UsageError: No batch begins at that position, or there is no such process.
    """
    if not 0 <= position < total:
        raise UsageError(f"no batch begins at position {position} of {total} samples")
    if not 0 <= index < count:
        raise UsageError(f"shard index {index} is outside 0..{count - 1}")
    real = min(batch_size * count, total - position)
    steps = _sorted_steps(position % lanes, real, batch_size, index, lanes)
    if len(steps) == batch_size:
        return steps + position
    padding = np.arange(max(0, index * batch_size - real), (index + 1) * batch_size - real, dtype=np.int64)
    return np.concatenate([steps + position, padding % total])


def count_batches(*, total: int, position: int, batch_size: int, count: int, drop: bool) -> int:
    """Return the steps from a position to the end, on every rank; `drop` leaves a partial last one out."""
    stride = batch_size * count
    left = _left(total, position)
    return left // stride if drop else -(-left // stride)


def remainder(*, total: int, position: int, batch_size: int, count: int) -> int:
    """Return the real samples of the last global batch of a pass that begins there, 0 when it is full."""
    return _left(total, position) % (batch_size * count)


def mix_seed(seed: int, epoch: int, start: int, first: int) -> int:
    """Return the seed, below 2^63, of a batch's random numbers, by its global batch and first row."""
    return _seed(seed, _BATCHES, epoch, start, first) >> 1


def _left(total: int, position: int) -> int:
    if not 0 <= position <= total:
        raise UsageError(f"position {position} is outside 0..{total}")
    return total - position


def _lay_line(rows: Ints, seed: int, shuffle: bool, lanes: int) -> _Line:
    total = int(rows.sum())
    visits = lane_order(lanes)
    lengths = np.full(lanes, total // lanes, dtype=np.int64)
    lengths[visits[: total % lanes]] += 1
    lane_edge = _edges(lengths)
    chunks = np.arange(len(rows), dtype=np.int64)
    if shuffle:
        chunks = np.argsort(_pick(_seed(seed, _CHUNKS), chunks), kind="stable")
    chunk_edge = _edges(rows[chunks])
    edges = np.unique(np.concatenate([chunk_edge, lane_edge]))
    begin, length = edges[:-1], np.diff(edges)
    lane = np.searchsorted(lane_edge, begin, side="right") - 1
    at = np.searchsorted(chunk_edge, begin, side="right") - 1
    return _Line(total, visits, lane_edge, lane, chunks[at], begin - chunk_edge[at], length)


def _edges(lengths: Ints) -> Ints:
    """Return where each begins when they are laid end to end, and the end, (n + 1,)."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


@lru_cache(maxsize=8)
def _turns(lanes: int) -> Ints:
    """Return which of L consecutive positions visits each lane, (lanes,), read-only: the inverse of v."""
    turns = np.argsort(np.arange(1, lanes + 1, dtype=np.uint64) * np.uint64(_GOLDEN), kind="stable")
    turns.setflags(write=False)
    return turns


@lru_cache(maxsize=64)
def _sorted_steps(begin: int, real: int, batch_size: int, index: int, lanes: int) -> Ints:
    """Return how far behind the start of a global batch its samples are, of one process's part.

    Args:
        begin: The start, modulo the lanes.
        real: Real samples of the global batch.
        batch_size: Samples that each process gets.
        index: Which process.
        lanes: Lanes of the order.

    Returns:
        Sorted by lane and step, (n,), read-only, at most `batch_size`.
    """
    first = (_turns(lanes) - begin) % lanes
    edge = _edges(np.maximum(0, (real - first + lanes - 1) // lanes))
    places = np.arange(index * batch_size, min((index + 1) * batch_size, real), dtype=np.int64)
    lane = np.searchsorted(edge, places, side="right") - 1
    steps: Ints = first[lane] + (places - edge[lane]) * lanes
    steps.setflags(write=False)
    return steps


def _seed(*keys: int) -> int:
    """Return the seed that the keys lead to: each picks from the stream of the one before."""
    seed = 0
    for key in keys:
        mixed = (key + 1) * _GOLDEN + seed & _MASK
        mixed = (mixed ^ mixed >> 30) * _FACTORS[0] & _MASK
        mixed = (mixed ^ mixed >> 27) * _FACTORS[1] & _MASK
        seed = mixed ^ mixed >> 31
    return seed


def _pick(seed: int, numbers: Ints) -> Hashes:
    """Return what stands at these places, from 0 on, in SplitMix64's stream with that seed.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014; the constants are those of
    Vigna's splitmix64.c.
    """
    mixed: Hashes = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FACTORS[0])
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_FACTORS[1])
    mixed ^= mixed >> np.uint64(31)
    return mixed
