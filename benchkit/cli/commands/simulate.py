"""`bench-kit simulate`: what an epoch will take, before anything is fetched."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchkit.stream.simulate import SimulateOptions, Simulation

EXAMPLE = "Example: bench-kit simulate train --ranks 8 --workers 4 --batch-size 32 --open-chunks 32"
GOOD_SPREAD = 3.0
"""Above it the advice is to mix more: 9 times the variance that batches of independent samples have."""


def simulate(
    name: Annotated[str, typer.Argument(help="NAME, the newest version, or NAME@VERSION.")],
    ranks: Annotated[int, typer.Option(help="Training processes, all machines together.")] = 1,
    ranks_per_node: Annotated[
        int | None, typer.Option(help="Those of one machine; all of them unless given.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Loading processes of each rank.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Samples per step and rank.")] = 32,
    open_chunks: Annotated[
        int | None, typer.Option(help="Chunks that are mixed; 32 if shuffled, else 1, unless given.")
    ] = None,
    shuffle: Annotated[bool, typer.Option(help="A new order each epoch, or written order.")] = True,
    seed: Annotated[int, typer.Option(help="What the order derives from.")] = 0,
    epoch: Annotated[int, typer.Option(help="Number of the pass, from 0.")] = 0,
    bandwidth: Annotated[float, typer.Option(help="MB/s that a machine fetches from the store.")] = 100.0,
    staged: Annotated[bool, typer.Option("--staged", help="Simulate staging, not the remote.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Tell steps, mixing, fetches and cache of an epoch, from the manifest alone."""
    from benchkit.data.catalogue import parse_label
    from benchkit.stream import simulate as simulation
    from benchkit.stream.source import Selection, open_version

    dataset, number = parse_label(name)
    selection = Selection(
        name=dataset, cloud=not staged, version=number, shuffle=shuffle, seed=seed, open_chunks=open_chunks
    )
    options = simulation.SimulateOptions(
        ranks=ranks,
        ranks_per_node=ranks if ranks_per_node is None else ranks_per_node,
        workers=workers,
        batch_size=batch_size,
        open_chunks=selection.lanes,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
        bytes_per_second=bandwidth * 1e6,
    )
    opened = open_version(selection)
    result = simulation.simulate(opened.manifest, options)
    if as_json:
        version = opened.version
        what = {"dataset": version.dataset, "version": version.number, "manifest": version.digest}
        told = {"options": asdict(options), **asdict(result), "fetched_bytes": result.fetched_bytes}
        print(json.dumps(what | told, indent=2))
        return
    print(f"{opened.version.label}: {_describe(result, options)}\n")
    print(render.pairs(_rows(result, options)))
    print()
    for sentence in advise(result, options, limit_bytes=opened.settings.cache_limit_bytes):
        print(sentence)


def advise(result: Simulation, options: SimulateOptions, *, limit_bytes: int) -> list[str]:
    """Return what to set otherwise, and why, in a sentence or two.

    Args:
        result: What the epoch takes.
        options: The training that was simulated.
        limit_bytes: The cache's limit as it is set here.
    """
    advice = []
    if not options.shuffle:
        advice.append("Written order mixes nothing: right for validation, not for training.")
    elif result.spread is not None and result.spread > GOOD_SPREAD:
        # The square of the spread is near B * (1 / lanes - 1 / chunks) for a global batch of B samples.
        shared = options.global_batch / result.chunks
        wanted = math.ceil(options.open_chunks * (result.spread**2 + shared) / (GOOD_SPREAD**2 + shared))
        advice.append(f"Batches tell chunks apart: --open-chunks {wanted} would bring the spread to about 3.")
    if result.fetched_bytes > 2 * result.stored_bytes and options.open_chunks < 4 * options.nodes:
        advice.append(f"Nodes fetch each other's chunks: --open-chunks {4 * options.nodes} keeps them apart.")
    limit, least = f"the cache limit of {render.size(limit_bytes)} that is set here", result.cache_least_bytes
    if limit_bytes < least:
        return [*advice, f"A loader refuses {limit}: set limit_bytes to at least {least}."]
    if limit_bytes < result.cache_whole_bytes:
        whole = render.size(result.cache_whole_bytes)
        advice.append(f"With {limit} every epoch fetches chunks again; with {whole} none would be.")
    else:
        advice.append(f"With {limit} no chunk is fetched twice.")
    if limit_bytes < result.cache_ahead_bytes:
        ahead = render.size(result.cache_ahead_bytes)
        advice.append(f"It leaves no room to fetch ahead: raise it to {ahead}, or take fewer workers.")
    return advice


def _rows(result: Simulation, options: SimulateOptions) -> list[tuple[str, str]]:
    nodes = result.nodes
    busiest = max(nodes, key=lambda node: node.first_bytes)
    first = f"{render.count(busiest.first_chunks, 'chunk')}, {render.size(busiest.first_bytes)}"
    rate = f"{options.bytes_per_second / 1e6:g} MB/s"
    mean, least = result.batch_chunks_mean, result.batch_chunks_least
    times = result.fetched_bytes / result.stored_bytes
    return [
        ("steps", f"{result.steps:,}"),
        ("padding", render.count(result.padding, "sample")),
        ("chunks in a global batch", f"{mean:.1f} on average, {least:,} at least"),
        (
            "spread of batch means",
            "-"
            if result.spread is None
            else f"{result.spread:.2f} times that of iid samples; 1.00 is perfect",
        ),
        ("chunks per node", _span([node.chunks for node in nodes], "{:,}".format)),
        ("fetched per node", _span([node.stored_bytes for node in nodes], render.size)),
        ("fetched by all nodes", f"{render.size(result.fetched_bytes)}, {times:.2f} times the dataset"),
        (
            "most new chunks in a step",
            f"{max(node.burst_chunks for node in nodes):,} on one node, after the first step",
        ),
        ("first batch", f"{render.duration(result.first_batch_seconds)} for {first} at {rate} per node"),
        ("smallest cache limit", f"{render.size(result.cache_least_bytes)} per node"),
        ("… that fetches ahead", f"{render.size(result.cache_ahead_bytes)}"),
        ("… that fetches once", f"{render.size(result.cache_whole_bytes)}"),
    ]


def _describe(result: Simulation, options: SimulateOptions) -> str:
    """Return what was simulated, on two lines."""
    data = (render.count(result.samples, "sample"), render.count(result.chunks, "chunk"))
    training = (
        f"{render.count(options.ranks, 'rank')} on {render.count(options.nodes, 'node')}",
        f"batch size {options.batch_size:,}",
        "shuffled" if options.shuffle else "written order",
        render.count(options.open_chunks, "open chunk"),
    )
    return f"{', '.join(data)}, {render.size(result.stored_bytes)}\n{', '.join(training)}"


def _span(amounts: Sequence[int], show: Callable[[int], str]) -> str:
    """Return the least and the largest amount; one of them where they read alike."""
    least, largest = show(min(amounts)), show(max(amounts))
    return least if least == largest else f"{least} to {largest}"
