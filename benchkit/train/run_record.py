"""The record of a run: what `run.json` in its folder says, written and read to the letter."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from benchkit.errors import FormatError, UsageError
from benchkit.format import canonical
from benchkit.format.fields import Fields
from benchkit.format.layout import is_object_name

RUN_FORMAT = 1
MAX_RECORD_BYTES = 16 << 20
MAX_NAME_CHARACTERS = 100
METRICS_FILE_BYTES = 4 << 20
"""From here on a file of metrics gets no further line."""
MAX_METRICS_FILE_BYTES = METRICS_FILE_BYTES + (1 << 20)
"""With the longest line."""

METRICS, CHECKPOINTS, MODEL = PARTS = ("metrics/", "checkpoints/", "model/")
"""The folders in a run's folder."""

RunState = Literal["running", "finished", "failed", "interrupted"]

_RUN = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")

UNHEARD_SECONDS = 15 * 60
"""After how long a run that is not heard from counts as interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDataset:
    """A dataset that a run read: its name, version and manifest digest."""

    name: str
    version: int
    manifest: str

    @property
    def label(self) -> str:
        """The version as people write it, `train@3`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A file of a run in a store: its path in the run's folder, and the size and BLAKE3 digest it has there.

    A file of metrics may have grown since: then this is its beginning.
    """

    path: str
    size: int
    digest: str

    def __post_init__(self) -> None:
        if not is_object_name(self.path) or not self.path.startswith(PARTS):
            raise FormatError(f"{self.path!r:.100} is no path of a file in {', '.join(PARTS)} of a run")
        if self.path.startswith(METRICS) and self.size > MAX_METRICS_FILE_BYTES:
            raise FormatError(
                f"{self.path!r:.100} has {self.size} bytes; at most {MAX_METRICS_FILE_BYTES} are read"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known of a run beside its metrics and files.

    Attributes:
        run: Its id, `<YYYYMMDD>-<HHMMSS>-<8 hexadecimal digits>`, the time in UTC.
        name: What its owner calls it; several runs may have one name.
        project: The project's id.
        epochs: How many passes are planned, if that was said.
        state: How it stands; a process that was killed leaves "running", see `state_of`.
        error: What it failed of.
        started: Seconds since 1970.
        ended: Seconds since 1970; None while it runs.
        updated: When this record was made, seconds since 1970.
        resumed: How often the run was gone on with.
        configuration: What its owner configured: JSON.
        environment: Versions, host, GPUs and arguments: JSON.
        code: The git revision of the project and whether its files differ from that; empty without git.
        datasets: What it read.
        files: In a store, its files there; in the run's folder, none.
    """

    run: str
    name: str
    project: str
    epochs: int | None = None
    state: RunState = "running"
    error: str | None = None
    started: float
    ended: float | None = None
    updated: float
    resumed: int = 0
    configuration: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[RunDataset, ...] = ()
    files: tuple[RunFile, ...] = ()


def new_run_id(now: float | None = None) -> str:
    """Return an id that no other run has: the time in UTC, and random digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(4)}"


def is_run_id(text: str) -> bool:
    """Return whether the text is the id of a run."""
    return _RUN.fullmatch(text) is not None


def check_run_name(name: object) -> str:
    """Return the name of a run if it is one, else raise `UsageError` saying what one is."""
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not name.strip()
        or len(name) > MAX_NAME_CHARACTERS
    ):
        raise UsageError(
            f"{name!r:.120} names no run: 1 to {MAX_NAME_CHARACTERS} printable characters, not just blanks"
        )
    return name


def state_of(record: RunRecord, *, heard_seconds: float) -> RunState:
    """Return how a run stands: one that is said to run but is not heard from was interrupted.

    Args:
        record: What it says itself.
        heard_seconds: How long ago its process was last known to live.
    """
    return "interrupted" if record.state == "running" and heard_seconds > UNHEARD_SECONDS else record.state


def encode_record(record: RunRecord) -> bytes:
    """Return the record as JSON, one key to a line, for people to read too.

    Raises:
        UsageError: It is larger than is read.
    """
    keys = {"benchkit": "run", "format": RUN_FORMAT} | asdict(record)
    lines = [
        f"{canonical.encode(key).decode()}: {canonical.encode(value).decode()}" for key, value in keys.items()
    ]
    data = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    if len(data) > MAX_RECORD_BYTES:
        raise UsageError(
            f"the record of run {record.run} would have {len(data)} bytes, and {MAX_RECORD_BYTES} are read: "
            "log a smaller configuration, or save fewer files"
        )
    return data


def decode_record(data: bytes, *, what: str) -> RunRecord:
    """Return the record that the bytes hold.

    Args:
        data: What `encode_record` made, or anything else: it is not trusted.
        what: Where it is from, for messages.

    Raises:
        FormatError: It is no record, or one of a newer format.
    """
    document = canonical.decode(data, what=what, max_bytes=MAX_RECORD_BYTES)
    if not isinstance(document, dict) or document.get("benchkit") != "run":
        raise FormatError(f"{what} is no record of a run")
    if document.get("format") != RUN_FORMAT:
        raise FormatError(
            f"{what} has format {document.get('format')!r:.20}, this benchkit reads {RUN_FORMAT}: upgrade it"
        )
    fields = Fields(document, what)
    fields.only("benchkit", "format", *RunRecord.__slots__)
    if not is_run_id(fields.value("run", str)):
        raise FormatError(f"{what} is of a run {document['run']!r:.60}, which is no id of one")
    started, ended, updated = (document[key] for key in ("started", "ended", "updated"))
    for moment in (started, updated, 0.0 if ended is None else ended):
        if type(moment) not in (int, float) or not 0 <= moment < 1e11:
            raise FormatError(f"{what} has the time {moment!r:.60}, not seconds since 1970")
    return RunRecord(
        run=document["run"],
        name=fields.value("name", str),
        project=fields.value("project", str),
        epochs=fields.optional("epochs", int),
        state=fields.choice("state", *get_args(RunState)),  # type: ignore[arg-type]
        error=fields.optional("error", str),
        started=started,
        ended=ended,
        updated=updated,
        resumed=fields.count("resumed"),
        configuration=fields.value("configuration", dict),
        environment=fields.value("environment", dict),
        code=fields.value("code", dict),
        datasets=tuple(_dataset(entry, what) for entry in fields.value("datasets", list)),
        files=tuple(_file(entry, what) for entry in fields.value("files", list)),
    )


def _dataset(entry: Any, what: str) -> RunDataset:
    fields = Fields(entry, f"a dataset of {what}")
    fields.only("name", "version", "manifest")
    return RunDataset(
        name=fields.value("name", str), version=fields.count("version"), manifest=fields.digest("manifest")
    )


def _file(entry: Any, what: str) -> RunFile:
    fields = Fields(entry, f"a file of {what}")
    fields.only("path", "size", "digest")
    return RunFile(path=fields.value("path", str), size=fields.count("size"), digest=fields.digest("digest"))
