"""A job of several processes that may hang, fail, or be killed, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from exactness_ranks import Case
from exactness_samples import LOADED

SCRIPT = Path(__file__).with_name("exactness_ranks.py")
SHARED_MEMORY = "/dev/shm"  # noqa: S108  what is left there is counted
_POLL_SECONDS = 0.1
# How long the ranks of a job may take to find each other, on a busy machine.
_START_SECONDS = 180.0
# The first error that is not told as the cause of another one.
_ERROR = re.compile(
    r"^(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Exception)(?:: .+)?)$"
    r"(?!(?:\n.*){0,3}\n(?:\[rank\d+\]: ?)?(?:The above exception|During handling))",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job.

    Attributes:
        end: `ok`; `error`; `killed`, as asked; `hang`: all ranks had started, and then none told anything in
            time; `not started`: the machine did not get the ranks going, which says nothing of the loader.
        error: The first error that a process told, if one did.
        ranks: For each rank, the rows of each of its steps.
        gathered: For each step, what `gather_for_metrics` returned on rank 0.
        wrong: Rows whose bytes were not those of their sample.
        loaded: Samples that were loaded, in all processes.
        seconds: How long it took, start of the processes included.
        shared_memory: Names in /dev/shm that the killed processes left.
    """

    end: str
    error: str = ""
    ranks: list[list[list[int]]] = field(default_factory=list)
    gathered: list[list[int]] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    loaded: int = 0
    seconds: float = 0.0
    shared_memory: list[str] = field(default_factory=list)

    @property
    def seen(self) -> list[int]:
        """All rows of all ranks."""
        return [row for steps in self.ranks for rows in steps for row in rows]


def run_job(case: Case, data: Path, scratch: Path, *, timeout_seconds: float) -> Outcome:
    """Run a case in processes of its own; they are killed if they hang, or all stall.

    Args:
        case: What to try.
        data: Where the peer's dataset is, or goes.
        scratch: A folder for its cache, temporary files and what it tells; an earlier job's, or none yet.
        timeout_seconds: The longest that all ranks may be silent; longer is a hang.
    """
    (scratch / "tmp").mkdir(parents=True, exist_ok=True)
    for path in (*scratch.glob("rank*.jsonl"), scratch / "loaded"):
        path.unlink(missing_ok=True)
    started = time.monotonic()
    with (scratch / "output").open("wb") as output:
        process = subprocess.Popen(
            _command(case, data, scratch),
            env=_environment(data, scratch),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    end = _wait(process, case, scratch, timeout_seconds)
    left = _kill(process) if process.returncode is None else []
    return _read(case, scratch, end=end, seconds=time.monotonic() - started, left=left)


def _wait(process: subprocess.Popen[bytes], case: Case, scratch: Path, timeout_seconds: float) -> str:
    """Return how a job ended, or is to be ended.

    A hang is silence since all ranks have started, so that a busy machine does not look like one.
    """
    started = False
    last, size = time.monotonic(), 0
    while time.monotonic() - last < (timeout_seconds if started else _START_SECONDS):
        if process.poll() is not None:
            return "ok" if process.returncode == 0 else "error"
        files = list(scratch.glob("rank*.jsonl"))
        told = sum(file.stat().st_size for file in files)
        if told != size:
            last, size = time.monotonic(), told
            started = _count(scratch, "world") == case.world
        if case.action == "stall" and _count(scratch, "stalled") == case.world:
            return "killed"
        time.sleep(_POLL_SECONDS)
    return "hang" if started else "not started"


def sweep(outcome: Outcome) -> None:
    """Remove what the processes of a job left in /dev/shm."""
    for name in outcome.shared_memory:
        Path(SHARED_MEMORY, name).unlink(missing_ok=True)


def _command(case: Case, data: Path, scratch: Path) -> list[str]:
    launcher = [sys.executable, "-W", "ignore"]
    if case.action != "write":
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.world}"]
    return [*launcher, str(SCRIPT), case.to_json(), str(data), str(scratch)]


def _environment(data: Path, scratch: Path) -> dict[str, str]:
    return os.environ | {
        "BENCHKIT_PROJECT": str(data),
        "BENCHKIT_CACHE_DIR": str(scratch / "cache"),
        "TMPDIR": str(scratch / "tmp"),
        "OMP_NUM_THREADS": "1",
        LOADED: str(scratch / "loaded"),
    }


def _kill(process: subprocess.Popen[bytes]) -> list[str]:
    """Send SIGKILL to a job's processes, and return the names in /dev/shm that they leave."""
    launcher = psutil.Process(process.pid)
    processes = [launcher, *launcher.children(recursive=True)]
    names = {name for one in processes for name in _shared_memory_of(one.pid)}
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(processes[1:], timeout=10)
    return sorted(name for name in names if Path(SHARED_MEMORY, name).exists())


def _shared_memory_of(pid: int) -> set[str]:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    return set(re.findall(rf" {SHARED_MEMORY}/(\S+)$", maps, flags=re.MULTILINE))


def _lines(scratch: Path) -> list[list[dict[str, object]]]:
    files = sorted(scratch.glob("rank*.jsonl"))
    # A killed process may leave the beginning of a line.
    return [
        [json.loads(line) for line in file.read_text().splitlines() if line[-1:] == "}"] for file in files
    ]


def _count(scratch: Path, word: str) -> int:
    return sum(word in line for lines in _lines(scratch) for line in lines)


def _find_error(output: str) -> str:
    if "distributed collective mismatch" in output:  # gloo aborts the process
        return "ranks gather batches of different sizes"
    found = _ERROR.search(output)
    return found[1] if found else "an error that it did not tell"


def _read(case: Case, scratch: Path, *, end: str, seconds: float, left: list[str]) -> Outcome:
    ranks = _lines(scratch)
    error = ""
    if end == "error":
        error = _find_error((scratch / "output").read_text(errors="replace"))
    elif end == "ok" and case.action != "write" and _count(scratch, "done") != case.world:
        raise RuntimeError(f"not {case.world} ranks ended: {case}")
    loaded = scratch / "loaded"
    return Outcome(
        end=end,
        error=error,
        ranks=[[line["rows"] for line in lines if "rows" in line] for lines in ranks],
        gathered=[line["gathered"] for lines in ranks[:1] for line in lines if "gathered" in line],
        wrong=[row for lines in ranks for line in lines for row in line.get("wrong", [])],
        loaded=loaded.stat().st_size if loaded.exists() else 0,
        seconds=seconds,
        shared_memory=left,
    )
