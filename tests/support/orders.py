"""Orders for tests: made in one line, visited whole, cut into batches, and written down a second time."""

import numpy as np

from benchkit.stream.order import Order, batch_positions, count_batches

SIZES = [0, 1, 5, 100, 203, 1001]
MASK = (1 << 64) - 1


def cut(total, per_chunk):
    """Rows of the chunks of so many samples."""
    return [min(per_chunk, total - start) for start in range(0, total, per_chunk)]


def make(rows, *, seed=0, shuffle=True, lanes=4):
    return Order(rows=np.array(rows, dtype=np.int64), seed=seed, shuffle=shuffle, lanes=lanes)


def visit(order, epoch, positions=None):
    """The (chunk, row) of positions, all when none are named."""
    positions = np.arange(order.total) if positions is None else positions
    return list(zip(*order.locate(epoch, positions), strict=True))


def locate(order, epoch, positions):
    """The chunks and the rows of positions, each an array of int64."""
    chunks, rows = np.array(order.locate(epoch, positions), dtype=np.int64)
    return chunks, rows


def everything(rows):
    return [(chunk, row) for chunk, many in enumerate(rows) for row in range(many)]


def global_batch(total, position, batch_size, world, lanes):
    """The positions of every rank's batch, (world, batch_size)."""
    return np.stack(
        [
            batch_positions(
                total=total, position=position, batch_size=batch_size, index=index, count=world, lanes=lanes
            )
            for index in range(world)
        ]
    )


def one_pass(total, position, batch_size, world, lanes):
    """The positions of all batches from a position to the end, (steps, world, batch_size)."""
    steps = count_batches(total=total, position=position, batch_size=batch_size, count=world, drop=False)
    stride = batch_size * world
    starts = [position + step * stride for step in range(steps)]
    batches = [global_batch(total, start, batch_size, world, lanes) for start in starts]
    return np.array(batches, dtype=np.int64).reshape(steps, world, batch_size)


# What the design says, in whole numbers of Python: slow, and nothing shared with the module but the words.


def splitmix(seed, number):
    mixed = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def drawn(*keys):
    seed = 0
    for key in keys:
        seed = splitmix(seed, key)
    return seed


def reference_lane_order(lanes):
    turns = [(j + 1) * 0x9E3779B97F4A7C15 & MASK for j in range(lanes)]
    return [sorted(turns).index(turn) for turn in turns]


def reference_epoch(rows, seed, shuffle, lanes, epoch):
    """The (chunk, row) of every position of an epoch."""
    chunks = list(range(len(rows)))
    permuted = {chunk: list(range(rows[chunk])) for chunk in chunks}
    if shuffle:
        for chunk in chunks:
            permuted[chunk].sort(key=lambda row: drawn(seed, 3, epoch, chunk, row))
        chunks.sort(key=lambda chunk: drawn(seed, 1, chunk))
    line = [(chunk, place) for chunk in chunks for place in range(rows[chunk])]
    visits = reference_lane_order(lanes)
    longer = set(visits[: len(line) % lanes])
    reading, taken, number = [], 0, 0
    for lane in range(lanes):
        length = len(line) // lanes + (lane in longer)
        samples, taken = line[taken : taken + length], taken + length
        pieces = [[sample for sample in samples if sample[0] == chunk] for chunk in chunks]
        pieces = [piece for piece in pieces if piece]
        numbers = range(number, number + len(pieces))
        number += len(pieces)
        if shuffle:
            keys = {at: drawn(seed, 2, epoch, at) for at in numbers}
            pieces = [piece for _, piece in sorted(zip(keys.values(), pieces, strict=True))]
        turn = len(pieces[0]) * lane // lanes if pieces else 0
        samples = [sample for piece in pieces for sample in piece]
        reading.append(samples[turn:] + samples[:turn])
    positions = [reading[visits[p % lanes]][p // lanes] for p in range(len(line))]
    return [(chunk, permuted[chunk][place]) for chunk, place in positions]
