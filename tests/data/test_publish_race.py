"""Two publishers at once: each ends with a version of its own, whatever the order of events, and kill -9.

A publisher is the real `publish` over a store that plays back the answers so far and stops at the next call.
So every order of the calls of several publishers is gone through, and each state on the way is one in which
any of them may have been killed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from support.s3_servers import Bucket

from benchkit.data.catalogue import list_superseded, list_versions, publish, read_manifest
from benchkit.errors import ObjectNotFoundError
from benchkit.format.layout import parse_version_name, version_name
from benchkit.format.manifest import Manifest, encode_manifest, manifest_digest
from benchkit.settings import S3Settings
from benchkit.store.base import ObjectInfo, Store
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_store

Call = tuple[Any, ...]
Answers = tuple[Any, ...]


def manifest(number: int) -> Manifest:
    return Manifest(dataset="train", chunk_bytes=number, codec="auto", chunks=())


def digest_of(number: int) -> str:
    return manifest_digest(encode_manifest(manifest(number)))


A, B, C, D = sorted(range(1, 5), key=digest_of)
"""Four manifests, in the order of their digests."""
NEXT = 5


@dataclass(frozen=True)
class Scripted:
    """A store all of whose calls go to one function."""

    call: Callable[[Call], Any]
    url: str = "scripted://"

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        data: bytes | None = self.call(("read", name))
        if data is None:
            raise ObjectNotFoundError(f"there is no {name}")
        return data

    def stat(self, name: str) -> ObjectInfo | None:
        info: ObjectInfo | None = self.call(("stat", name))
        return info

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return iter(self.call(("list",)))

    def write(self, name: str, source: bytes | Path) -> None:
        self.call(("write", name, source))

    def delete(self, name: str) -> None:
        self.call(("delete", name))

    def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
        yield self.read(name)


class Objects(dict[str, tuple[bytes, int]]):
    """What such a store holds: contents and times by name; every write is `tick` later than the last."""

    tick = 1

    def do(self, call: Call) -> Any:
        kind, *arguments = call
        if kind == "list":
            return [self._info(name) for name in sorted(self)]
        name = arguments[0]
        if kind == "write":
            self[name] = arguments[1], self.tick + max((time for _, time in self.values()), default=0)
        elif kind == "delete":
            self.pop(name, None)
        elif name in self:
            return self[name][0] if kind == "read" else self._info(name)
        return None

    def _info(self, name: str) -> ObjectInfo:
        data, time = self[name]
        return ObjectInfo(name=name, size=len(data), modified=time)

    def after(self, call: Call) -> tuple[Objects, Any]:
        """Return what is there after a call, and its answer."""
        later = type(self)(self)
        return later, later.do(call)

    def key(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((name, time) for name, (_, time) in self.items()))

    def versions(self) -> dict[int, str]:
        return {version.number: version.digest for version in list_versions(Scripted(self.do), "train")}

    def digests(self) -> set[str]:
        return {parsed[1] for name in self if (parsed := parse_version_name("train", name))}


class Stopped(Objects):
    """A store whose clock stands still: whole seconds, and all within one."""

    tick = 0


class Paused(BaseException):
    """The publisher has come to a call that has no answer yet."""


def next_call(manifests: tuple[int, ...], answers: Answers) -> Call | None:
    """Return the next call of a publisher that publishes these one by one; None at its end."""
    left = iter(answers)

    def play(call: Call) -> Any:
        for answer in left:
            return answer
        raise Paused(call)

    try:
        for chosen in manifests:
            version, new = publish(Scripted(play), manifest(chosen))
            assert (version.digest, new) == (digest_of(chosen), True)
    except Paused as paused:
        call: Call = paused.args[0]
        return call
    return None


def go_through(publishers: list[tuple[int, ...]], empty: Objects) -> Iterator[tuple[Objects, bool]]:
    """Yield every state that the publishers can bring the store to, and whether all of them have ended."""
    stack = [(empty, tuple(() for _ in publishers))]
    seen = set()
    while stack:
        objects, answers = stack.pop()
        state = objects.key(), tuple(tuple(map(repr, got)) for got in answers)
        if state in seen:
            continue
        seen.add(state)
        calls = [next_call(*pair) for pair in zip(publishers, answers, strict=True)]
        yield objects, not any(calls)
        for number, call in enumerate(calls):
            if call:
                later, answer = objects.after(call)
                told = (*answers[:number], (*answers[number], answer), *answers[number + 1 :])
                stack.append((later, told))


def publish_next(objects: Objects) -> Objects:
    """Return what is there when all publishers were killed, and somebody publishes."""
    later = type(objects)(objects)
    publish(Scripted(later.do), manifest(NEXT))
    return later


@pytest.mark.parametrize(
    ("publishers", "empty", "states"),
    [
        ([(A,), (B,)], Objects(), 150),
        ([(A,), (B,)], Stopped(), 100),
        ([(A,), (B, C)], Objects(), 2000),
        ([(B,), (A, C)], Objects(), 2000),
        ([(B,), (C, A)], Objects(), 2000),
        pytest.param([(A, D), (B, C)], Objects(), 20_000, marks=pytest.mark.slow),
    ],
)
def test_in_every_order_of_events_each_version_is_there_exactly_once(
    publishers: list[tuple[int, ...]], empty: Objects, states: int
) -> None:
    wanted = sorted(digest_of(chosen) for manifests in publishers for chosen in manifests)
    count = 0
    killed = {}
    for objects, ended in go_through(publishers, empty):
        count += 1
        if ended:
            versions = objects.versions()
            assert sorted(versions.values()) == wanted
            assert sorted(versions) == list(range(1, len(wanted) + 1))
            assert len(objects) == len(wanted)
        killed[objects.key()] = objects
    assert count > states
    for objects in killed.values():
        later = publish_next(objects)
        versions = later.versions()
        assert sorted(versions.values()) == sorted(objects.digests() | {digest_of(NEXT)})
        assert sorted(versions) == list(range(1, len(versions) + 1))


@pytest.mark.parametrize("publishers", [[(A,), (B, C)], [(B,), (A, C)]])
def test_within_one_tick_of_the_clock_nothing_is_lost_and_no_number_is_left_out(
    publishers: list[tuple[int, ...]],
) -> None:
    wanted = {digest_of(chosen) for chosen in (A, B, C)}
    for objects, ended in go_through(publishers, Stopped()):
        later = publish_next(objects)
        for there, digests in ((later, objects.digests() | {digest_of(NEXT)}), (objects, wanted)):
            if ended or there is later:
                assert set(there.versions().values()) == digests
                assert sorted(there.versions()) == list(range(1, len(there.versions()) + 1))


def test_a_number_that_was_read_is_not_taken_by_a_put_that_was_held_up() -> None:
    """A publisher looked, was held up while others published three versions, and then put its own."""
    objects = Objects()
    call = next_call((A,), ())
    answers: Answers = ()
    while call and call[0] != "write":
        answers += (objects.do(call),)
        call = next_call((A,), answers)
    for chosen in (B, C, D):
        publish(Scripted(objects.do), manifest(chosen))
    while call:
        answers += (objects.do(call),)
        call = next_call((A,), answers)
    assert objects.versions() == {n: digest_of(chosen) for n, chosen in enumerate((B, C, D, A), start=1)}


def put(objects: Objects, number: int, chosen: int) -> None:
    data = encode_manifest(manifest(chosen))
    objects.do(("write", version_name("train", number, digest_of(chosen)), data))


def test_what_a_killed_publisher_left_is_not_seen_until_somebody_publishes() -> None:
    objects = Objects()
    for chosen in (B, A):
        put(objects, 1, chosen)
    assert objects.versions() == {1: digest_of(B)}
    assert publish_next(objects).versions() == {1: digest_of(B), 2: digest_of(NEXT), 3: digest_of(A)}


def test_the_copy_that_a_killed_move_left_behind_is_told_as_superseded() -> None:
    objects = Objects()
    for number, chosen in ((1, A), (1, B), (2, B)):
        put(objects, number, chosen)
    [left] = list_superseded(Scripted(objects.do), "train")
    assert (left.number, left.digest) == (1, digest_of(B))
    assert objects.versions() == {1: digest_of(A), 2: digest_of(B)}


ROUNDS = 25


def open_again(url: str, endpoint: str) -> Store:
    return open_store(url, s3=S3Settings(endpoint_url=endpoint, addressing="path") if endpoint else None)


def publish_rounds(url: str, endpoint: str, barrier: Barrier, first: int) -> None:
    store = open_again(url, endpoint)
    for number in range(first, first + ROUNDS):
        barrier.wait(60)
        version, new = publish(store, manifest(number))
        assert (version.digest, new) == (digest_of(number), True)


def race(url: str, endpoint: str = "") -> None:
    """Have two processes publish at once, round by round, and look at what is there."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    starts = (1000, 2000)
    processes = [
        context.Process(target=publish_rounds, args=(url, endpoint, barrier, first)) for first in starts
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            os.kill(process.pid or 0, 9)
    assert [process.exitcode for process in processes] == [0, 0]
    store = open_again(url, endpoint)
    versions = list_versions(store, "train")
    assert [version.number for version in versions] == list(range(1, 2 * ROUNDS + 1))
    for pair, number in enumerate(range(ROUNDS)):
        digests = {version.digest for version in versions[2 * pair : 2 * pair + 2]}
        assert digests == {digest_of(first + number) for first in starts}
    assert {read_manifest(store, version).chunk_bytes for version in versions} == {
        first + number for first in starts for number in range(ROUNDS)
    }
    assert len(list(store.list("datasets/train/versions/"))) == 2 * ROUNDS


@pytest.mark.processes
def test_two_processes_both_publish_in_every_round_in_a_folder(tmp_path: Path) -> None:
    race(LocalStore(tmp_path).url)


@pytest.mark.processes
def test_two_processes_both_publish_in_every_round_on_swift(swift_bucket: Bucket) -> None:
    """Its create-only put is not atomic."""
    race(swift_bucket.url, swift_bucket.server.endpoint)


@pytest.mark.processes
def test_two_processes_both_publish_in_every_round_on_moto(moto_bucket: Bucket) -> None:
    race(moto_bucket.url, moto_bucket.server.endpoint)
