"""Cases: what one measurement is of, and where its files are, as a process of its own is told them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Action = Literal["prepare", "check", "pack", "stream", "first", "stop", "start", "resume", "measure"]
Way = Literal["plain", "compressed", "auto"]
Form = Literal["raw", "own", "pillow", "simplejpeg"]

BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        task: The table that it belongs to.
        side: Whose: a key of `SIDES`.
        kind: The data: `A`, `B` or `C`.
        count: How many samples of it, from the first.
        action: What to do: see `job.py`.
        way: How the dataset is, or is to be, packed.
        workers: Processes that pack or load; None where the side has no such choice.
        shuffle: Whether an epoch has an order of its own; None where it makes no difference.
        form: What a batch is of: the `raw` bytes, or pictures of 224 by 224 by one of three decoders; `own`
            is `benchkit.decode_image`.
        latency_ms: What is added to each request of the S3 server; None reads from a folder.
    """

    task: str
    side: str
    kind: str
    count: int
    action: Action
    way: Way = "plain"
    workers: int | None = 0
    shuffle: bool | None = False
    form: Form = "raw"
    latency_ms: int | None = None

    @property
    def dataset(self) -> str:
        """The name of the data: kind and number of samples."""
        return f"{self.kind}-{self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the files of a measurement are.

    Attributes:
        files: A text file that names the source files, a line each; the n-th line is of sample n.
        total_bytes: The size of all source files together.
        chunk_bytes: How large chunks are to be, for every side that lets one choose.
        packed: The folder of the packed dataset, or where it is to be.
        scratch: A folder of this measurement's own: caches and temporary files.
        remote: Where the packed dataset is in an object store, `s3://bucket/prefix`; empty for none.
        endpoint: The URL of that store's server.
        started: When the process was started, seconds of `time.monotonic`.
    """

    files: Path
    total_bytes: int
    chunk_bytes: int
    packed: Path
    scratch: Path
    remote: str = ""
    endpoint: str = ""
    started: float = 0.0

    @property
    def cache(self) -> Path:
        """The folder of the loader's cache."""
        return self.scratch / "cache"

    def read_files(self) -> list[str]:
        """Return the paths of the source files."""
        return self.files.read_text().splitlines()


def write_job(case: Case, place: Place) -> str:
    """Return case and place as an argument of a command."""
    return json.dumps({"case": asdict(case), "place": asdict(place)}, default=str)


def read_job(text: str) -> tuple[Case, Place]:
    """Return case and place of a command's argument."""
    job: dict[str, dict[str, Any]] = json.loads(text)
    paths = {name: Path(job["place"][name]) for name in ("files", "packed", "scratch")}
    return Case(**job["case"]), Place(**job["place"] | paths)
