"""The tasks: for each, which cases there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from cases import Case, Form, Way
from data import COUNTS
from sides import OURS, SIDES, Side

GROWTH = (10_000, 50_000, 200_000)
LATENCIES_MS = (0, 20, 100)
WORKERS = (0, 2)
# Pictures are slow enough that a part of A tells as much.
_PART = 0.25
# Enough for a few batches, and chunks, of every worker.
_MIN_SAMPLES = 256


def scaled(count: float, scale: float) -> int:
    """Return a number of samples at a scale."""
    return max(_MIN_SAMPLES, round(count * scale))


def list_pack(scale: float) -> Iterator[Case]:
    """Pack A, which does not compress, and B and C, both plain and compressed, by 1 and 2 processes."""
    for kind, (name, side) in product("ABC", SIDES.items()):
        if side.limit and side.stored:
            continue
        for way, workers in product(_ways(kind, name, side), (None,) if side.limit else (1, 2)):
            yield Case(
                task="pack",
                side=name,
                kind=kind,
                count=scaled(COUNTS[kind], scale),
                action="pack",
                way=way,
                workers=workers,
            )


def list_raw(scale: float) -> Iterator[Case]:
    """Stream bytes, in written order and shuffled."""
    for kind, (name, side), shuffle in product("AB", _streaming(limits=True), (False, True)):
        for workers in (None,) if name.endswith(" slices") else WORKERS:
            yield Case(
                task="raw",
                side=name,
                kind=kind,
                count=scaled(COUNTS[kind], scale),
                action="stream",
                way=side.stored,
                workers=workers,
                shuffle=shuffle,
            )


def list_decoded(scale: float) -> Iterator[Case]:
    """Stream pictures of 224 by 224, every peer by two decoders, beside the decoders alone."""
    count, decoders = scaled(COUNTS["A"] * _PART, scale), ("pillow", "simplejpeg")
    for workers, (name, side), shuffle in product(WORKERS, _streaming(limits=False), (False, True)):
        forms: tuple[Form, ...] = ("own",) if name == OURS else decoders
        for form in forms:
            yield Case(
                task="decoded",
                side=name,
                kind="A",
                count=count,
                action="stream",
                way=side.stored,
                workers=workers,
                shuffle=shuffle,
                form=form,
            )
    for workers, form in product(WORKERS, decoders):
        yield Case(
            task="decoded",
            side="decoder",
            kind="A",
            count=count,
            action="measure",
            workers=workers,
            shuffle=None,
            form=form,
        )


def list_first(scale: float) -> Iterator[Case]:
    """From the start of an interpreter to the first batch."""
    for name, side in _streaming(limits=True):
        if name.endswith(" slices"):
            continue
        yield Case(
            task="first",
            side=name,
            kind="A",
            count=scaled(COUNTS["A"], scale),
            action="first",
            way=side.stored,
        )


def list_resume(scale: float) -> Iterator[Case]:
    """Go on at half an epoch, beside a start at its beginning."""
    for shuffle, (name, side) in product((False, True), _streaming(limits=False)):
        if side.resumes:
            yield Case(
                task="resume",
                side=name,
                kind="A",
                count=scaled(COUNTS["A"], scale),
                action="resume",
                way=side.stored,
                shuffle=shuffle,
            )


def list_growth(scale: float) -> Iterator[Case]:
    """Pack and stream more and more samples of B."""
    for count, (name, side) in product(GROWTH, _streaming(limits=False)):
        given = {"task": "growth", "side": name, "kind": "B", "count": scaled(count, scale)}
        if side.packs:
            yield Case(**given, action="pack", way=side.stored, workers=2)
        yield Case(**given, action="stream", way=side.stored)


def list_s3(scale: float) -> Iterator[Case]:
    """Stream bytes from an S3 server that answers at once, or later."""
    given = {"task": "s3", "kind": "A", "count": scaled(COUNTS["A"], scale)}
    for latency_ms, (name, side) in product(LATENCIES_MS, _streaming(limits=False)):
        for shuffle in (False, True) if side.s3 else ():
            yield Case(
                **given,
                side=name,
                action="stream",
                way=side.stored,
                workers=2,
                shuffle=shuffle,
                latency_ms=latency_ms,
            )
    for latency_ms, name in product(LATENCIES_MS, ("gets", "kept gets")):
        yield Case(**given, side=name, action="measure", workers=None, shuffle=None, latency_ms=latency_ms)


TASKS: dict[str, Callable[[float], Iterator[Case]]] = {
    "pack": list_pack,
    "raw": list_raw,
    "decoded": list_decoded,
    "first": list_first,
    "resume": list_resume,
    "growth": list_growth,
    "s3": list_s3,
}


def _streaming(*, limits: bool) -> list[tuple[str, Side]]:
    return [(name, side) for name, side in SIDES.items() if side.stored and (limits or not side.limit)]


def _ways(kind: str, name: str, side: Side) -> tuple[Way, ...]:
    """Return how a side packs data of a kind: JPEGs as it does by itself, other data in every way."""
    if kind == "A":
        return () if name == "tar+zstd" else side.packs[:1]
    return tuple(way for way in side.packs if way != "auto")
