"""Laws of `bench-kit simulate`: one set of figures for people and programs, from the manifest alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from support.scratch import ROOT, Scratch

from benchkit.cli import main, render
from benchkit.cli.app import run
from benchkit.cli.commands.simulate import GOOD_SPREAD, advise
from benchkit.data.catalogue import list_versions, read_manifest
from benchkit.errors import BenchKitError, NotFoundError, UsageError
from benchkit.format.manifest import ChunkEntry, IndexPlace, Manifest
from benchkit.store.local import LocalStore
from benchkit.stream.simulate import SimulateOptions, simulate

INDEX = IndexPlace(object=None, offset=0, length=0, tar_offset=0, tar_length=0, digest="0" * 64)


def manifest_of(chunks: int, samples: int) -> Manifest:
    """A manifest of so many equal chunks."""
    entry = ChunkEntry(
        stored="0" * 64,
        stored_bytes=32 << 20,
        tar="0" * 64,
        tar_bytes=32 << 20,
        codec="none",
        level=0,
        library="",
        samples=samples,
        dead=b"",
        index=INDEX,
    )
    return Manifest(dataset="train", chunk_bytes=32 << 20, codec="auto", chunks=(entry,) * chunks)


def options_of(**changes: object) -> SimulateOptions:
    values = {
        "ranks": 8,
        "ranks_per_node": 8,
        "workers": 4,
        "batch_size": 32,
        "open_chunks": 32,
        "shuffle": True,
    }
    return SimulateOptions(**(values | {"seed": 0, "epoch": 0, "bytes_per_second": 1e8} | changes))


def test_people_and_programs_are_told_what_the_manifest_says(migrated_once: Scratch) -> None:
    command = ["simulate", "train@1", "--ranks", "4", "--ranks-per-node", "2", "--batch-size", "3"]
    command += ["--open-chunks", "2", "--epoch", "1", "--bandwidth", "0.5"]
    store = LocalStore(migrated_once.root / "store")
    (version,) = list_versions(store, "train")
    told = simulate(
        read_manifest(store, version),
        options_of(
            ranks=4, ranks_per_node=2, batch_size=3, open_chunks=2, epoch=1, bytes_per_second=500_000.0
        ),
    )
    done = migrated_once.bench_kit(*command, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    fields = json.loads(done.stdout)
    assert (fields["dataset"], fields["version"], fields["manifest"]) == ("train", 1, version.digest)
    assert (fields["samples"], fields["chunks"], fields["steps"], fields["padding"]) == (40, 3, 4, 8)
    assert fields["spread"] == told.spread
    assert [node["stored_bytes"] for node in fields["nodes"]] == [node.stored_bytes for node in told.nodes]
    assert fields["fetched_bytes"] == told.fetched_bytes
    assert fields["first_batch_seconds"] == told.first_batch_seconds
    assert fields["options"]["ranks_per_node"] == 2

    done = migrated_once.bench_kit(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("train@1: 40 samples, 3 chunks, ")
    figures = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert figures["steps"].strip() == "4"
    assert figures["padding"].strip() == "8 samples"
    assert figures["spread of batch means"].strip().startswith(f"{told.spread:.2f} ")
    assert figures["smallest cache limit"].split(" per")[0].strip() == render.size(told.cache_least_bytes)
    assert figures["first batch"].strip().startswith(render.duration(told.first_batch_seconds))
    assert done.stdout.splitlines()[-1].endswith("no chunk is fetched twice.")


def test_no_chunk_is_read_and_no_cache_is_made(migrated: Scratch) -> None:
    told = migrated.bench_kit("simulate", "train").stdout
    shutil.rmtree(migrated.root / "store/datasets/train/chunks")
    done = migrated.bench_kit("simulate", "train")
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
    assert not migrated.cache.exists()
    assert migrated.bench_kit("simulate", "train", "--staged").stdout == told


def test_without_open_chunks_the_loaders_defaults_hold(migrated_once: Scratch) -> None:
    assert ", shuffled, 32 open chunks\n" in migrated_once.bench_kit("simulate", "train").stdout
    assert (
        ", written order, 1 open chunk\n"
        in migrated_once.bench_kit("simulate", "train", "--no-shuffle").stdout
    )


def test_more_ranks_than_samples_and_more_open_chunks_than_samples_give_right_numbers(
    migrated_once: Scratch,
) -> None:
    done = migrated_once.bench_kit("simulate", "train", "--ranks", "50", "--open-chunks", "90", "--json")
    fields = json.loads(done.stdout)
    assert (fields["steps"], fields["padding"], fields["spread"]) == (1, 50 * 32 - 40, None)
    assert fields["nodes"][0]["chunks"] == fields["nodes"][0]["first_chunks"] == 3


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["trian"], NotFoundError, "it holds: train"),
        (["train@9"], NotFoundError, "it has: 1"),
        (["train@x"], UsageError, "no version number"),
        (["train", "--ranks", "0"], UsageError, "ranks 0 is outside 1"),
        (["train", "--batch-size", "0"], UsageError, "batch_size 0 is outside 1"),
        (["train", "--open-chunks", "0"], UsageError, "open_chunks 0 is less than 1"),
        (["train", "--seed", "-1"], UsageError, "seed -1 is less than 0"),
        (["train", "--epoch", "9" * 30], UsageError, "is outside 0"),
        (["train", "--bandwidth", "nan"], UsageError, "bandwidth of nan"),
    ],
)
def test_what_cannot_be_simulated_is_told_in_a_line(
    migrated_once: Scratch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: type[BenchKitError],
    words: str,
) -> None:
    monkeypatch.setenv("BENCHKIT_PROJECT", str(migrated_once.root))
    with pytest.raises(SystemExit) as ended:
        run(main.app, ["simulate", *arguments], program="bench-kit")
    out, errors = capsys.readouterr()
    assert ended.value.code == error.exit_code
    assert out == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert words in errors


def test_its_help_loads_nothing_heavy() -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['bench-kit', 'simulate', '--help']\n"
        "try:\n    runpy.run_module('benchkit.cli.main', run_name='__main__')\n"
        "finally:\n    print(sorted({'torch', 'numpy', 'boto3'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("chunks", "changes"),
    [
        (400, {"open_chunks": 4}),
        (1200, {"ranks": 64, "batch_size": 128, "open_chunks": 64}),
        (50, {"open_chunks": 2, "batch_size": 64}),
    ],
)
def test_the_open_chunks_that_are_advised_bring_the_spread_to_about_3(
    chunks: int, changes: dict[str, int]
) -> None:
    manifest, options = manifest_of(chunks, 1000), options_of(**changes)
    first, *_ = advise(simulate(manifest, options), options, limit_bytes=1 << 40)
    wanted = int(first.partition("--open-chunks ")[2].split()[0])
    assert options.open_chunks < wanted <= chunks
    spread = simulate(manifest, options_of(**(changes | {"open_chunks": wanted}))).spread
    assert spread == pytest.approx(GOOD_SPREAD, rel=0.15)


def test_advice_says_what_the_cache_limit_at_hand_is_good_for() -> None:
    options = options_of(ranks=2, ranks_per_node=1)
    told = simulate(manifest_of(400, 1000), options)
    assert told.cache_least_bytes < told.cache_ahead_bytes < told.cache_whole_bytes

    def cache(limit_bytes: int) -> str:
        return " ".join(advise(told, options, limit_bytes=limit_bytes))

    assert f"set limit_bytes to at least {told.cache_least_bytes}." in cache(told.cache_least_bytes - 1)
    assert "no room to fetch ahead" in cache(told.cache_least_bytes)
    assert "every epoch fetches chunks again" in cache(told.cache_ahead_bytes)
    assert "fetch ahead" not in cache(told.cache_ahead_bytes)
    assert "no chunk is fetched twice" in cache(told.cache_whole_bytes)


def test_advice_tells_written_order_and_nodes_that_fetch_each_others_chunks() -> None:
    options = options_of(shuffle=False, open_chunks=1)
    first, *_ = advise(simulate(manifest_of(20, 100), options), options, limit_bytes=1 << 40)
    assert first.startswith("Written order mixes nothing")
    options = options_of(ranks=8, ranks_per_node=1, open_chunks=2, batch_size=4)
    told = simulate(manifest_of(20, 100), options)
    assert told.fetched_bytes > 2 * told.stored_bytes
    assert any("--open-chunks 32 keeps them apart" in line for line in advise(told, options, limit_bytes=1))
