"""Migration survives kill -9 at any moment: the same command again completes it, to the same bytes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support import migrate_once
from support.fault_proxy import FaultProxy
from support.faults import Fault, Request, Stage
from support.migrate_once import NAME
from support.s3_servers import Bucket, Server, make_bucket

from benchkit.data.clean import clean, plan_clean
from benchkit.settings import S3Settings
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_store

SAMPLES, LARGE_SAMPLES = 180, 2
SECONDS = 60
Killer = Callable[[subprocess.Popen[str]], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small files, and a few that are uploaded in parts."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(SAMPLES):
        content = np.random.default_rng(number).bytes(6000 if number >= LARGE_SAMPLES else 11 << 20)
        (folder / f"{number:03d}.bin").write_bytes(content)
    return folder


@dataclass
class Place:
    """A project, its remote in a bucket of its own, and the proxy in between."""

    project: Path
    data: Path
    proxy: FaultProxy
    bucket: Bucket

    @property
    def staging(self) -> LocalStore:
        return LocalStore(self.project / "ProjectDatasets")

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, migrate_once.__file__, str(self.project), str(self.data)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )

    def staged(self) -> dict[str, bytes]:
        store = self.staging
        return {info.name: store.read(info.name) for info in store.list()}

    def journaled(self) -> set[str]:
        path = self.project / ".benchkit" / "journal" / f"{NAME}.jsonl"
        text = path.read_text() if path.exists() else ""
        return set(re.findall(r'"stored":"([0-9a-f]{64})"', text))

    def packed_chunks(self) -> set[str]:
        folder = self.staging.root / "datasets" / NAME / "chunks"
        return {path.name.partition(".")[0] for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture(scope="module")
def proxy(swift: Server) -> Iterator[FaultProxy]:
    with FaultProxy(swift.endpoint) as proxy:
        yield proxy


@pytest.fixture
def new_place(
    tmp_path: Path, data: Path, proxy: FaultProxy, swift: Server, s3_environment: None
) -> Callable[[str], Place]:
    def make(name: str) -> Place:
        bucket = make_bucket(swift)
        project = tmp_path / name
        project.mkdir()
        (project / "benchkit.toml").write_text(
            f'[project]\nid = "trial"\nremote = "{bucket.url}"\n[s3]\nendpoint_url = "{proxy.url}"\n'
        )
        return Place(project, data, proxy, bucket)

    return make


def kill(process: subprocess.Popen[str], *, alone: bool) -> None:
    """Kill the process, with its workers or leaving those to find it out."""
    (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)


def kill_while(process: subprocess.Popen[str], holds: Callable[[], bool], draw: random.Random) -> None:
    """Kill the process in a moment in which something holds: it is stopped, looked at, and let go on."""
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGSTOP)
        if holds():
            kill(process, alone=draw.random() < 0.5)
            os.killpg(process.pid, signal.SIGCONT)  # workers that live on find that they are alone
            return
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(draw.random() * 0.003)
    raise AssertionError("it was never so before the process ended")


def kill_in_walk(place: Place, process: subprocess.Popen[str], draw: random.Random) -> None:
    assert process.stdout
    assert process.stdout.readline() == "start\n"
    time.sleep(draw.random() * 0.05)
    kill_while(process, lambda: not place.packed_chunks(), draw)


def kill_in_packing(place: Place, process: subprocess.Popen[str], draw: random.Random) -> None:
    wanted = draw.randrange(1, 15)
    kill_while(process, lambda: len(place.packed_chunks()) >= wanted, draw)


def kill_before_the_journal(place: Place, process: subprocess.Popen[str], draw: random.Random) -> None:
    wanted = draw.randrange(1, 10)
    kill_while(
        process,
        lambda: len(place.packed_chunks()) >= wanted and bool(place.packed_chunks() - place.journaled()),
        draw,
    )


def kill_at(
    place: Place, process: subprocess.Popen[str], draw: random.Random, *, operation: str, key: str, most: int
) -> None:
    """Kill the process as one of the requests of an operation passes."""
    stages: list[Stage] = ["request", "answer"]
    if operation in ("PutObject", "UploadPart"):
        stages.append("upload")
    killed: list[Request] = []

    def strike(request: Request) -> None:
        killed.append(request)
        kill(process, alone=draw.random() < 0.5)

    place.proxy.inject(
        Fault(draw.choice(stages), "call", call=strike),
        operation=operation,
        where=lambda request: key in request.key,
        skip=draw.randrange(most),
    )
    process.wait(SECONDS)
    assert killed


PHASES: dict[str, tuple[int, Callable[[Place, subprocess.Popen[str], random.Random], None]]] = {
    "walk": (4, kill_in_walk),
    "packing": (5, kill_in_packing),
    "between a chunk and its journal line": (5, kill_before_the_journal),
    "upload": (6, lambda *a: kill_at(*a, operation="PutObject", key="/chunks/", most=12)),
    "inside a multipart": (5, lambda *a: kill_at(*a, operation="UploadPart", key="/chunks/", most=6)),
    "completing a multipart": (
        2,
        lambda *a: kill_at(*a, operation="CompleteMultipartUpload", key="", most=2),
    ),
    "between the last chunk and the manifest": (
        3,
        lambda *a: kill_at(*a, operation="PutObject", key="/versions/", most=1),
    ),
    "between the manifest and the end": (
        2,
        lambda *a: kill_at(*a, operation="DeleteObject", key="/uploads/", most=1),
    ),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Return what an undisturbed run leaves, found by the first test that needs it."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_migration_goes_on_to_the_same_bytes(
    phase: str,
    new_place: Callable[[str], Place],
    undisturbed: dict[str, dict[str, set[str]]],
    proxy: FaultProxy,
) -> None:
    if not undisturbed:
        place = new_place("undisturbed")
        finish(place)
        undisturbed["staged"] = place.staged()
        undisturbed["remote"] = place.bucket.objects()
    times, strike = PHASES[phase]
    for number in range(times):
        proxy.forget()
        place = new_place(f"killed{number}")
        with place.start() as process:
            strike(place, process, random.Random(f"{phase} {number}"))
            assert process.wait(SECONDS) == -signal.SIGKILL
        proxy.forget()
        arrived = set(place.bucket.objects())
        finish(place)
        put = [request.key for request in proxy.requests if request.operation in ("PutObject", "UploadPart")]
        again = {key.split("/", 2)[2] for key in put if "/chunks/" in key} & arrived
        assert again == set(), "chunks that had arrived whole were sent again"
        assert place.staged() == undisturbed["staged"]
        remote = open_store(place.bucket.url, s3=S3Settings(endpoint_url=place.bucket.server.endpoint))
        clean(remote, plan_clean(remote, older_than_seconds=0))
        assert place.bucket.objects() == undisturbed["remote"]
        assert place.bucket.uploads() == []


def finish(place: Place) -> None:
    """Run the migration to its end."""
    with place.start() as process:
        assert process.stdout
        said = process.stdout.read()
    assert process.returncode == 0, said
