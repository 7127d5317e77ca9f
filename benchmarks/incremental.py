"""What a second migration costs when a little has changed: bytes read, packed and sent, and seconds.

    python benchmarks/incremental.py FOLDER [--remote URL --endpoint-url URL] [--scale 0.1]

Dataset A is migrated, then 2 % of its files are changed, 1 % added and 1 % removed, and it is migrated again.
FOLDER must be empty, or hold the data of an earlier run of the same scale, untouched.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from data import CLASSES, make_dataset, path_of, write_file

from benchkit.data.pack import pack
from benchkit.data.processor import ProcessorDataset
from benchkit.data.upload import upload
from benchkit.settings import S3Settings
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_store

CHANGED, ADDED, REMOVED = 0.02, 0.01, 0.01


class Photos(ProcessorDataset):
    """JPEGs in class folders."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root = root
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def get_file(self, item: int) -> list[str]:
        return [self._paths[item]]

    def get_label_and_numeric_data(self, item: int) -> int:
        return int(self._paths[item].rsplit("/", 2)[1])


def migrate(folder: Path, project: Path, remote_url: str, s3: S3Settings) -> dict[str, float]:
    """Pack and upload the folder's files, and return what it took."""
    remote = open_store(remote_url, s3=s3)
    staging = LocalStore(project / "ProjectDatasets")
    photos = Photos(folder, sorted(str(path) for path in folder.rglob("*.jpg")))
    started = time.perf_counter()
    packed = pack(photos, "photos", staging=staging, remote=remote, project=project)
    seconds = time.perf_counter() - started
    sent = upload(staging, remote, "photos")
    return {
        "samples": packed.samples,
        "chunks": packed.chunks,
        "read_bytes": packed.bytes_read,
        "stored_bytes": packed.stored_bytes,
        "sent_bytes": sent.bytes_sent,
        "sent_chunks": sent.chunks_sent,
        "pack_seconds": seconds,
        "upload_seconds": sent.seconds,
    }


def edit(folder: Path, paths: Sequence[Path]) -> None:
    """Change, add and remove files, spread over all of them."""
    count = len(paths)
    for number in range(0, count, round(1 / CHANGED)):
        write_file("A", paths[number], number, seed=1)
    for number in range(1, count, round(1 / REMOVED)):
        paths[number].unlink()
    for number in range(count, count + round(count * ADDED)):
        write_file("A", folder / path_of("A", number + CLASSES), number, seed=2)


def main() -> None:
    """Migrate twice, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--remote", help="URL of a store; a folder beside the data unless given")
    parser.add_argument("--endpoint-url")
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    original = make_dataset("A", arguments.folder / "A", scale=arguments.scale)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        project = Path(scratch)
        remote = arguments.remote or str(project / "store")
        s3 = S3Settings(endpoint_url=arguments.endpoint_url)
        copy = project / "A"
        shutil.copytree(arguments.folder / "A", copy)
        first = migrate(copy, project, remote, s3)
        edit(copy, [copy / path.relative_to(arguments.folder / "A") for path in original])
        second = migrate(copy, project, remote, s3)
        again = migrate(copy, project, remote, s3)
    for title, figures in (("first", first), ("second", second), ("unchanged", again)):
        print(title, json.dumps({key: round(value, 2) for key, value in figures.items()}))
    print(f"sent again: {second['sent_bytes'] / first['sent_bytes']:.2%} of the first")


if __name__ == "__main__":
    main()
