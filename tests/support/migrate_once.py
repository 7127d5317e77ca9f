"""A migration in a process of its own, for tests that kill it: the files of a folder, packed and uploaded.

    python migrate_once.py PROJECT DATA

Each line of its output is a stage that it has come to.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from benchkit.data.pack import PackProgress, pack
from benchkit.data.processor import ProcessorDataset
from benchkit.data.upload import upload
from benchkit.settings import load_settings
from benchkit.store.local import LocalStore
from benchkit.store.s3 import S3Store
from benchkit.store.urls import open_remote

NAME = "files"
CHUNK_BYTES = 64 << 10
PART_BYTES = 5 << 20


class Files(ProcessorDataset):
    """The files of a folder; it takes a moment to say what a label is, so that a kill finds it at work."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths = sorted(str(path) for path in root.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def get_file(self, item: int) -> list[str]:
        time.sleep(0.0005)
        return [self._paths[item]]

    def get_label_and_numeric_data(self, item: int) -> int:
        time.sleep(0.0005)
        return item


def main() -> None:
    project, data = Path(sys.argv[1]), Path(sys.argv[2])
    settings = load_settings(project)
    remote = open_remote(settings)
    if isinstance(remote, S3Store):
        remote = replace(remote, part_bytes=PART_BYTES)
    staging = LocalStore(settings.staging)

    def tell(progress: PackProgress) -> None:
        print(progress.stage, flush=True)

    print("start", flush=True)
    pack(
        Files(data),
        NAME,
        staging=staging,
        remote=remote,
        project=project,
        chunk_bytes=CHUNK_BYTES,
        workers=2,
        on_progress=tell,
    )
    print("packed", flush=True)
    upload(staging, remote, NAME, workers=2)
    print("uploaded", flush=True)


if __name__ == "__main__":
    main()
