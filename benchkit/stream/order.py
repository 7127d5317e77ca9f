"""The order of one epoch: a pure function of manifest, seed, epoch and lanes.

The chunks, permuted once per run, make one line of N samples, which is cut into L lanes. Position p of an
epoch is step p div L of lane v(p mod L). In every epoch the rows of each chunk are permuted anew, and so is
the order of the chunk pieces inside a lane; lane k starts k/L of the way into its first piece and reads what
it left out at its end, so that the lanes do not change chunk at the same step.

Nothing is stored but this: any position is found at the same cost. Random numbers are hashes (SplitMix64 by
Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) of seed, epoch and index.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

ORDER_VERSION = 1
CACHED_PERMUTATION_BYTES = 32 << 20
"""The most that the permutations kept for chunks in use take."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_CHUNKS, _PIECES, _ROWS, _BATCHES = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class _EpochTable:
    """The pieces of an epoch in the order in which the lanes read them, lane after lane.

    Attributes:
        piece: Which piece stands where, (pieces,).
        edge: Where each begins when all lanes are laid end to end, and the end of the last, (pieces + 1,).
        turn: How far into its first piece each lane starts, (lanes,).
    """

    piece: Ints
    edge: Ints
    turn: Ints


class Order:
    """The sequence in which the epochs of a run visit all samples.

    Args:
        rows: Live rows of each chunk, in manifest order, (chunks,).
        seed: What everything random derives from.
        shuffle: False keeps chunks and rows in written order.
        lanes: L, at least 1.
    """

    def __init__(self, *, rows: Ints, seed: int, shuffle: bool, lanes: int) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.seed = seed
        self.shuffle = shuffle
        self.lanes = lanes
        self._tables: OrderedDict[int, _EpochTable] = OrderedDict()
        self._permutations: OrderedDict[tuple[int, int], npt.NDArray[np.uint32]] = OrderedDict()
        self._permutation_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything behind that can be computed again."""
        return {"rows": self.rows, "seed": self.seed, "shuffle": self.shuffle, "lanes": self.lanes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @cached_property
    def total(self) -> int:
        """N, the number of samples."""
        return int(self.rows.sum())

    def locate(self, epoch: int, positions: Ints) -> tuple[Ints, Ints]:
        """Return the chunk (in manifest order) and the live row in it of each position, both (n,)."""
        chunks, places = self._find(epoch, positions)
        if not self.shuffle:
            return chunks, places
        located = np.empty_like(places)
        for chunk in np.unique(chunks).tolist():
            here = chunks == chunk
            located[here] = self._permutation(epoch, chunk)[places[here]]
        return chunks, located

    def chunks(self, epoch: int, positions: Ints) -> Ints:
        """Return the chunk of each position, (n,), without permuting any rows."""
        return self._find(epoch, positions)[0]

    @cached_property
    def _lane_edge(self) -> Ints:
        """Where the lanes begin on the line, and its end, (lanes + 1,)."""
        lengths = np.full(self.lanes, self.total // self.lanes, dtype=np.int64)
        lengths[lane_order(self.lanes)[: self.total % self.lanes]] += 1
        return np.concatenate([[0], np.cumsum(lengths)])

    @cached_property
    def _pieces(self) -> tuple[Ints, Ints, Ints, Ints]:
        """The chunks cut at the lanes' borders: lane, chunk, first place in it, length; each (pieces,)."""
        line = np.arange(len(self.rows), dtype=np.int64)
        if self.shuffle:
            line = np.argsort(_hash(line, self.seed, _CHUNKS), kind="stable")
        chunk_edge = np.concatenate([[0], np.cumsum(self.rows[line])])
        edges = np.unique(np.concatenate([chunk_edge, self._lane_edge]))
        start, length = edges[:-1], np.diff(edges)
        lane = np.searchsorted(self._lane_edge, start, side="right") - 1
        at = np.searchsorted(chunk_edge, start, side="right") - 1
        return lane, line[at], start - chunk_edge[at], length

    def _table(self, epoch: int) -> _EpochTable:
        table = self._tables.get(epoch)
        if table is None:
            lane, _, _, length = self._pieces
            piece = np.arange(len(lane), dtype=np.int64)
            if self.shuffle:
                piece = np.lexsort((_hash(piece, self.seed, _PIECES, epoch), lane))
            edge = np.concatenate([[0], np.cumsum(length[piece])])
            lanes = np.arange(self.lanes, dtype=np.int64)
            first = np.searchsorted(edge, self._lane_edge[:-1], side="right") - 1
            first_length = length[piece[np.minimum(first, len(piece) - 1)]]
            table = self._tables[epoch] = _EpochTable(piece, edge, first_length * lanes // self.lanes)
            if len(self._tables) > 2:
                self._tables.popitem(last=False)
        return table

    def _find(self, epoch: int, positions: Ints) -> tuple[Ints, Ints]:
        """Return the chunk of each position, and its place in the epoch's permutation of that chunk."""
        table = self._table(epoch)
        _, piece_chunk, piece_start, _ = self._pieces
        lane = lane_order(self.lanes)[positions % self.lanes]
        begin = self._lane_edge[lane]
        length = self._lane_edge[lane + 1] - begin
        along = begin + (positions // self.lanes + table.turn[lane]) % length
        at = np.searchsorted(table.edge, along, side="right") - 1
        piece = table.piece[at]
        return piece_chunk[piece], piece_start[piece] + along - table.edge[at]

    def _permutation(self, epoch: int, chunk: int) -> npt.NDArray[np.uint32]:
        found = self._permutations.get((epoch, chunk))
        if found is None:
            keys = _hash(np.arange(self.rows[chunk], dtype=np.int64), self.seed, _ROWS, epoch, chunk)
            found = np.argsort(keys, kind="stable").astype(np.uint32)
            self._permutations[epoch, chunk] = found
            self._permutation_bytes += found.nbytes
            while self._permutation_bytes > CACHED_PERMUTATION_BYTES and len(self._permutations) > 1:
                self._permutation_bytes -= self._permutations.popitem(last=False)[1].nbytes
        self._permutations.move_to_end((epoch, chunk))
        return found


@lru_cache(maxsize=64)
def lane_order(lanes: int) -> Ints:
    """Return v, the sequence in which consecutive positions visit the lanes, (lanes,), read-only.

    v(j) is the rank of the fractional part of j times the golden ratio among those of 0 … lanes - 1, so any
    few neighbours are spread evenly over the lanes (Knuth, The Art of Computer Programming 3, 6.4).
    """
    multiples = np.arange(lanes, dtype=np.uint64) * np.uint64(_GOLDEN)
    order = np.empty(lanes, dtype=np.int64)
    order[np.argsort(multiples, kind="stable")] = np.arange(lanes)
    order.setflags(write=False)
    return order


def batch_positions(
    *, total: int, position: int, batch_size: int, index: int, count: int, lanes: int
) -> Ints:
    """Return the positions of one process's batch, (batch_size,), int64.

    The global batch is the next `count * batch_size` positions: its real samples sorted by lane and step,
    then, if they are too few, positions 0, 1, 2 … behind them. So padding is last in rank order.

    Args:
        total: Samples of the dataset, at least 1.
        position: Where the global batch begins.
        batch_size: Samples that each process gets.
        index: Which process.
        count: How many processes.
        lanes: Lanes of the order.
    """
    stride = batch_size * count
    real = np.arange(position, min(position + stride, total), dtype=np.int64)
    real = real[np.lexsort((real // lanes, lane_order(lanes)[real % lanes]))]
    padding = np.arange(stride - len(real), dtype=np.int64) % total
    return np.concatenate([real, padding])[index * batch_size : (index + 1) * batch_size]


def count_batches(*, total: int, position: int, batch_size: int, count: int, drop: bool) -> int:
    """Return the steps from a position to the end: the same on every rank."""
    stride = batch_size * count
    left = max(total - position, 0)
    return left // stride if drop else -(-left // stride)


def remainder(*, total: int, position: int, batch_size: int, count: int) -> int:
    """Return the real samples of the last global batch, 0 when it is full."""
    return max(total - position, 0) % (batch_size * count)


def mix_seed(seed: int, epoch: int, start: int, first: int) -> int:
    """Return the seed, below 2^63, of a batch's random numbers, by its global batch and first row."""
    return int(_hash(np.array([first], dtype=np.int64), seed, _BATCHES, epoch, start)[0]) >> 1


def _hash(values: Ints, *keys: int) -> npt.NDArray[np.uint64]:
    """Return 64 random-looking bits for each value, decided by it and the keys."""
    state = 0
    for key in keys:
        state = int(_mix(np.array([(state + key) & _MASK], dtype=np.uint64))[0])
    with np.errstate(over="ignore"):
        return _mix(_mix(values.astype(np.uint64)) + np.uint64(state))


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return SplitMix64's output for each state."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(_GOLDEN)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed
