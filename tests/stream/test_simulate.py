"""Laws of the simulation: what it tells is what the order, and a real loader, then do."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.making import publish_samples
from support.orders import make, one_pass

from benchkit import IterableChunk, LoaderOptions, Shard, get_dataset
from benchkit.data.catalogue import read_manifest
from benchkit.errors import CacheError, DatasetError, UsageError
from benchkit.format.manifest import ChunkEntry, IndexPlace, Manifest
from benchkit.store.local import LocalStore
from benchkit.stream.room import share_room
from benchkit.stream.simulate import NodeFetches, SimulateOptions, Simulation, simulate

INDEX = IndexPlace(object=None, offset=0, length=0, tar_offset=0, tar_length=0, digest="0" * 64)


def manifest_of(rows) -> Manifest:
    """A manifest of chunks with so many live rows, three dead ones each, and sizes that all differ."""
    chunks = [
        ChunkEntry(
            stored=f"{number:064x}",
            stored_bytes=1000 + 7 * number,
            tar=f"{number:064x}",
            tar_bytes=2000 + 31 * (number * 5 % 11),
            codec="zstd",
            level=3,
            library="",
            samples=live + 3,
            dead=b"\x07",
            index=INDEX,
        )
        for number, live in enumerate(rows)
    ]
    return Manifest(dataset="train", chunk_bytes=1 << 25, codec="auto", chunks=tuple(chunks))


def options_of(**changes: object) -> SimulateOptions:
    values = {
        "ranks": 1,
        "workers": 0,
        "batch_size": 1,
        "open_chunks": 4,
        "shuffle": True,
        "seed": 0,
        "epoch": 0,
    }
    values |= {"bytes_per_second": 1e8} | changes
    return SimulateOptions(**({"ranks_per_node": values["ranks"]} | values))


@dataclass(frozen=True)
class Counted:
    """What somebody counts who sees every sample of a pass, by its chunk: (steps, ranks, batch size)."""

    drawn: np.ndarray
    total: int
    per_node: int

    def full(self) -> list[list[int]]:
        """The chunks of the samples of each full global batch; where none is full, of the only one."""
        batches = self.drawn.reshape(len(self.drawn), -1)
        return batches[: max(self.total // batches.shape[1], 1)].tolist()

    def news(self) -> list[list[set[int]]]:
        """By node and step, the chunks that are needed for the first time."""
        nodes = []
        for start in range(0, self.drawn.shape[1], self.per_node):
            seen: set[int] = set()
            nodes.append([])
            for step in self.drawn[:, start : start + self.per_node]:
                nodes[-1].append(set(step.ravel().tolist()) - seen)
                seen |= nodes[-1][-1]
        return nodes

    def agrees(self, told: Simulation, manifest: Manifest, *, bytes_per_second: float = 1e8) -> None:
        distinct = [len(set(batch)) for batch in self.full()]
        nodes = []
        for first, *later in self.news():
            all_of_it = [manifest.chunks[chunk] for chunk in first.union(*later)]
            nodes.append(
                NodeFetches(
                    chunks=len(all_of_it),
                    stored_bytes=sum(chunk.stored_bytes for chunk in all_of_it),
                    tar_bytes=sum(chunk.tar_bytes for chunk in all_of_it),
                    first_chunks=len(first),
                    first_bytes=sum(manifest.chunks[chunk].stored_bytes for chunk in first),
                    burst_chunks=max(map(len, later), default=0),
                )
            )
        assert told.nodes == tuple(nodes)
        assert told.samples == self.total
        assert told.steps == len(self.drawn)
        assert told.padding == self.drawn.size - self.total
        assert told.batch_chunks_least == min(distinct)
        assert told.batch_chunks_mean == pytest.approx(sum(distinct) / len(distinct))
        assert told.fetched_bytes == sum(node.stored_bytes for node in nodes)
        slowest = max(node.first_bytes for node in nodes)
        assert told.first_batch_seconds == pytest.approx(slowest / bytes_per_second)


rows_of_many_sizes = st.builds(
    lambda seed, chunks, most: [1, *np.random.default_rng(seed).integers(0, most, chunks).tolist()],
    st.integers(0, 1 << 32),
    chunks=st.integers(0, 60),
    most=st.integers(1, 40),
)


@settings(max_examples=300, deadline=None)
@given(
    rows=rows_of_many_sizes,
    ranks=st.integers(1, 6),
    per_node=st.integers(1, 6),
    batch_size=st.sampled_from([1, 2, 3, 5, 8, 40]),
    lanes=st.integers(1, 40) | st.integers(1, 5),
    shuffle=st.booleans(),
    seed=st.integers(0, (1 << 63) - 1),
    epoch=st.integers(0, 3),
    block=st.sampled_from([1, 16, 100, 1 << 20]),
)
def test_what_is_told_is_what_the_batches_of_the_order_hold(
    rows, ranks, per_node, batch_size, lanes, shuffle, seed, epoch, block
):
    options = options_of(
        ranks=ranks,
        ranks_per_node=per_node,
        batch_size=batch_size,
        open_chunks=lanes,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
    )
    order = make(rows, seed=seed, shuffle=shuffle, lanes=lanes)
    positions = one_pass(order.total, 0, batch_size, ranks, lanes)
    drawn = order.chunks(epoch, positions.ravel()).reshape(positions.shape)
    manifest = manifest_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchkit.stream.simulate._BLOCK_SAMPLES", block)
        told = simulate(manifest, options)
    Counted(drawn, order.total, per_node).agrees(told, manifest)


class Labels(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label


SAMPLES, PER_CHUNK = 203, 20


@pytest.mark.parametrize(
    ("ranks", "per_node", "batch_size", "lanes", "shuffle", "epoch"),
    [
        (1, 1, 16, 4, True, 0),
        (2, 2, 8, 32, True, 1),
        (4, 2, 4, 8, True, 0),
        (5, 2, 7, 3, True, 2),
        (3, 1, 10, 1, False, 0),
        (4, 2, 64, 4, True, 0),
    ],
)
def test_a_real_loader_does_what_is_told(
    project, tmp_path, monkeypatch, ranks, per_node, batch_size, lanes, shuffle, epoch
):
    version = publish_samples(project, "numbers", SAMPLES, per_chunk=PER_CHUNK)
    manifest = read_manifest(LocalStore(project / "store"), version)
    told = simulate(
        manifest,
        options_of(
            ranks=ranks,
            ranks_per_node=per_node,
            batch_size=batch_size,
            open_chunks=lanes,
            shuffle=shuffle,
            epoch=epoch,
        ),
    )

    def loader(rank: int, folder: str, limit_bytes: int):
        monkeypatch.setenv("BENCHKIT_CACHE_DIR", str(tmp_path / folder))
        monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(limit_bytes))
        options = LoaderOptions(shard=Shard(index=rank, count=ranks))
        more = {"shuffle": shuffle, "open_chunks": lanes, "loader": options}
        made = get_dataset(Labels, True, "numbers", batch_size, 0, **more)
        made.set_epoch(epoch)
        return made

    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(per_node))
    drawn = []
    for rank in range(ranks):
        node = rank // per_node
        with pytest.raises(CacheError, match=f"at least {told.cache_least_bytes}, or lower"):
            next(iter(loader(rank, "small", told.cache_least_bytes - 1)))
        assert len(list(loader(rank, "small", told.cache_least_bytes))) == told.steps
        roomy = loader(rank, f"node{node}", told.cache_whole_bytes)
        drawn.append([batch.tolist() for batch in roomy])
        assert len(roomy.opened.reader.chunks_opened) == len(np.unique(np.array(drawn[-1]) // PER_CHUNK))
        if rank % per_node == per_node - 1 or rank == ranks - 1:
            assert roomy.opened.cache.used_bytes() == told.nodes[node].tar_bytes
    by_chunk = np.array(drawn).swapaxes(0, 1) // PER_CHUNK
    Counted(by_chunk, SAMPLES, per_node).agrees(told, manifest)


def spread_of(rows, **changes) -> float:
    told = simulate(manifest_of(rows), options_of(**changes)).spread
    assert told is not None
    return told


@pytest.mark.parametrize("seed", range(5))
def test_44_open_chunks_mix_better_than_38_8_distinct_chunks_and_a_spread_of_2_55(seed):
    told = simulate(manifest_of([1000] * 400), options_of(batch_size=256, open_chunks=44, seed=seed))
    assert told.batch_chunks_mean > 44
    assert told.batch_chunks_least >= 40
    assert told.spread < 2.3
    assert told.nodes[0].burst_chunks <= 4


@pytest.mark.parametrize(("rows", "lanes"), [([50] * 30, 6), ([3, 70, 20, 1, 40] * 6, 4), ([9, 9], 1)])
def test_the_spread_is_that_of_batch_means_over_all_values_that_chunks_may_have(rows, lanes):
    order, batch = make(rows, lanes=lanes), 8
    chunks = order.chunks(0, np.arange(order.total // batch * batch)).reshape(-1, batch)
    values = np.random.default_rng(0).normal(size=(5000, len(rows)))
    share = np.array(rows) / order.total
    mean = values @ share
    iid = (values**2 @ share - mean**2) / batch
    means = np.stack([values[:, chunks[:, place]] for place in range(batch)]).mean(axis=0)
    off = ((means - mean[:, None]) ** 2).mean(axis=1)
    measured = np.sqrt(off.mean() / iid.mean())
    assert spread_of(rows, batch_size=batch, open_chunks=lanes) == pytest.approx(measured, rel=0.03)


def test_unmixed_batches_have_the_spread_of_their_size_and_fully_mixed_ones_that_of_iid_samples():
    assert spread_of([64] * 1000, batch_size=64, open_chunks=1, shuffle=False) == pytest.approx(8)
    assert spread_of([1] * 5000, batch_size=64) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("rows", "batch_size"), [([40], 8), ([0, 40, 0], 8), ([5, 5], 11)])
def test_with_one_chunk_or_no_full_batch_there_is_no_spread(rows, batch_size):
    assert simulate(manifest_of(rows), options_of(batch_size=batch_size)).spread is None


def test_more_open_chunks_mix_better_and_take_more_cache():
    told = [
        simulate(manifest_of([100] * 200), options_of(ranks=2, batch_size=64, open_chunks=lanes))
        for lanes in (4, 16, 64)
    ]
    spreads, limits = [one.spread for one in told], [one.cache_least_bytes for one in told]
    assert spreads == sorted(spreads, reverse=True)
    assert limits == sorted(set(limits))


@given(
    ranks=st.integers(1, 12), per_node=st.integers(1, 12), workers=st.integers(0, 8), lanes=st.integers(1, 64)
)
def test_from_the_limit_told_on_processes_look_ahead(ranks, per_node, workers, lanes):
    manifest = manifest_of([5] * 100)
    options = options_of(ranks=ranks, ranks_per_node=per_node, workers=workers, open_chunks=lanes)
    limit = simulate(manifest, options).cache_ahead_bytes

    def ahead(limit_bytes: int) -> int:
        return share_room(
            limit_bytes=limit_bytes,
            tar_bytes=[chunk.tar_bytes for chunk in manifest.chunks],
            lanes=lanes,
            processes=min(per_node, ranks),
            workers=workers,
        ).ahead

    assert ahead(limit - 1) == 0
    assert ahead(limit) >= 1


@given(chunks=st.integers(1, 100), ranks=st.integers(1, 8), lanes=st.integers(1, 64))
def test_on_one_machine_more_is_told_for_fetching_ahead_than_for_working_and_no_less_for_fetching_once(
    chunks, ranks, lanes
):
    told = simulate(
        manifest_of([5] * chunks), options_of(ranks=ranks, ranks_per_node=ranks, open_chunks=lanes)
    )
    assert told.cache_least_bytes <= told.cache_ahead_bytes <= told.cache_whole_bytes


def test_ten_million_samples_on_eight_ranks_take_seconds_and_little_memory():
    manifest = manifest_of([1000] * 10_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    told = simulate(manifest, options_of(ranks=8, batch_size=32, open_chunks=32))
    assert time.process_time() - begin < 20
    assert told.steps == 39_063
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ranks": 0}, "ranks 0 is outside 1"),
        ({"ranks_per_node": 0}, "ranks_per_node 0 is outside 1"),
        ({"workers": -1}, "workers -1 is outside 0"),
        ({"batch_size": 0}, "batch_size 0 is outside 1"),
        ({"open_chunks": 0}, "open_chunks 0 is outside 1"),
        ({"open_chunks": 1 << 30}, "open_chunks 1073741824 is outside"),
        ({"epoch": -1}, "epoch -1 is outside 0"),
        ({"ranks": 3000, "batch_size": 3000}, "are 9000000 samples"),
        ({"bytes_per_second": 0.0}, "bandwidth of 0 bytes"),
        ({"bytes_per_second": float("nan")}, "bandwidth of nan"),
        ({"bytes_per_second": float("inf")}, "bandwidth of inf"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        options_of(**changes)


def test_a_seed_outside_its_bounds_and_a_version_without_samples_are_refused():
    with pytest.raises(UsageError, match="seed -1"):
        simulate(manifest_of([5]), options_of(seed=-1))
    with pytest.raises(DatasetError, match="train has no samples"):
        simulate(manifest_of([0, 0]), options_of())
