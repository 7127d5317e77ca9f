"""Upload and download rates beside boto3's own transfers: the same bytes, the same server, in turn.

python benchmarks/transfer.py --url s3://bucket/prefix [--endpoint-url URL] [--objects 8] [--mib 32]
python benchmarks/transfer.py --swift                    # a server of its own, on this machine
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import psutil

from benchkit.settings import S3Settings
from benchkit.store.s3 import S3Store

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Give a list that holds, at the end, the most memory taken beyond what was at the start, in MiB."""
    process, most, done = psutil.Process(), [0.0], threading.Event()
    begun = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], (process.memory_info().rss - begun) / (1 << 20))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def measure(deed: Callable[[int], None], objects: int, workers: int) -> tuple[float, float]:
    """Do something for every object, several at once; return seconds and MiB of memory."""
    with peak_memory() as memory, ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        list(pool.map(deed, range(objects)))
        seconds = time.perf_counter() - started
    return seconds, memory[0]


def compare(store: S3Store, arguments: argparse.Namespace, folder: Path) -> None:
    """Measure all four in turn, several times, and print medians."""
    size = arguments.mib << 20
    client = boto3.client("s3", endpoint_url=store.settings.endpoint_url)
    for number in range(arguments.objects):
        (folder / f"in{number}").write_bytes(os.urandom(size))

    def key(number: int) -> str:
        return f"{store.prefix}/boto3-{number}".removeprefix("/")

    def download(number: int) -> None:
        with (folder / f"ours{number}").open("wb", buffering=0) as file:
            for block in store.stream(f"ours-{number}"):
                file.write(block)

    deeds: dict[str, Callable[[int], None]] = {
        "up, here": lambda n: store.write(f"ours-{n}", folder / f"in{n}"),
        "up, boto3": lambda n: client.upload_file(str(folder / f"in{n}"), store.bucket, key(n)),
        "down, here": download,
        "down, boto3": lambda n: client.download_file(store.bucket, key(n), str(folder / f"boto3{n}")),
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in deeds}
    for turn in range(arguments.turns):
        for pair in (("up, here", "up, boto3"), ("down, here", "down, boto3")):
            for name in pair[:: 1 if turn % 2 else -1]:
                results[name].append(measure(deeds[name], arguments.objects, arguments.workers))
    for number in range(arguments.objects):
        if (folder / f"ours{number}").read_bytes() != (folder / f"in{number}").read_bytes():
            raise SystemExit(f"object {number} came back with other bytes")
        store.delete(f"ours-{number}")
        client.delete_object(Bucket=store.bucket, Key=key(number))
    print(
        f"{arguments.objects} objects of {arguments.mib} MiB, {arguments.workers} at once, "
        f"medians of {arguments.turns} turns"
    )
    for name, found in results.items():
        rates = [arguments.objects * size / seconds / 1e6 for seconds, _ in found]
        memory = max(mib for _, mib in found)
        print(
            f"{name:12} {statistics.median(rates):6.0f} MB/s  ({min(rates):.0f}-{max(rates):.0f}), "
            f"{memory:.0f} MiB more memory"
        )


def main() -> None:
    """Compare on the store that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--endpoint-url")
    parser.add_argument("--swift", action="store_true", help="start OpenStack Swift for this")
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url, endpoint = arguments.url, arguments.endpoint_url
        if arguments.swift:
            sys.path.insert(0, str(ROOT / "tests"))
            from support.s3_servers import ENVIRONMENT, make_bucket, serve_swift  # noqa: PLC0415

            os.environ.update(ENVIRONMENT)
            bucket = make_bucket(stack.enter_context(serve_swift()))
            url, endpoint = bucket.url, bucket.server.endpoint
        if not url:
            parser.error("name a store with --url, or start one with --swift")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compare(S3Store.of(url, S3Settings(endpoint_url=endpoint)), arguments, folder)


if __name__ == "__main__":
    main()
