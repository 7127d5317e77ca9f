"""The same check of several loaders under Accelerate: is every sample seen once, by ranks in step?

    python benchmarks/exactness.py [--peers webdataset,litdata,mosaicml] [--checks pass,kill] [--json]

Two processes, started by torchrun, read a dataset of 96 samples in 12 chunks, which every loader can share
out evenly, and one of 101, which none can. A peer is used as its documentation says, and as a newcomer to
Accelerate would: its loader handed to `prepare`. Peers are an extra (`pip install -e '.[peers]'`); one
that is missing is told and skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import psutil
from exactness_jobs import Outcome, run_job, sweep
from exactness_peers import PEERS
from exactness_ranks import Case
from exactness_samples import content
from exactness_tables import render

CHECKS = ("pass", "uneven", "kill", "bytes", "resume")
UNEVEN = 5
# How two ranks with batches of 8 go on: ranks and the size of their batches.
RESUMED = {"2 ranks of 8": (2, 8), "1 rank of 16": (1, 16), "1 rank of 10": (1, 10), "3 ranks of 5": (3, 5)}
DISPATCH = {None: "default", True: "yes", False: "no"}
# A silence on a busy machine may be chance; one that comes again is a hang.
_TRIES = 2

Record = dict[str, Any]


class Bench:
    """Runs cases in a scratch folder that holds each loader's datasets."""

    def __init__(self, folder: Path, *, timeout_seconds: float) -> None:
        self._folder = folder
        self._timeout_seconds = timeout_seconds
        self._scratches = 0

    def scratch(self) -> Path:
        """Return a folder that no job has used."""
        self._scratches += 1
        return self._folder / f"scratch{self._scratches}"

    def data(self, peer: str, samples: int) -> Path:
        """Return a loader's dataset of so many samples, written at the first call."""
        folder = self._folder / f"{peer}-{samples}"
        if not folder.exists():
            case = Case(peer=peer, action="write", samples=samples)
            outcome = run_job(case, folder, self.scratch(), timeout_seconds=self._timeout_seconds)
            if outcome.end != "ok":
                raise RuntimeError(f"{peer} could not write its dataset: {outcome.end} {outcome.error}")
        return folder

    def run(self, case: Case, *, data: Path | None = None, scratch: Path | None = None) -> Outcome:
        """Run a case; again, in the same folder, if it hung or did not start."""
        data = data or self.data(case.peer, case.samples)
        for left in reversed(range(_TRIES)):
            print("…", case.to_json(), file=sys.stderr)
            outcome = run_job(case, data, scratch or self.scratch(), timeout_seconds=self._timeout_seconds)
            print(f"  {outcome.end} {outcome.error} after {outcome.seconds:.1f} s", file=sys.stderr)
            if case.action != "stall":
                sweep(outcome)
            if outcome.end not in ("hang", "not started") or not left:
                break
        return outcome


def best_case(peer: str, **changes: Any) -> Case:
    """Return the recommended way of a loader, with two workers; a peer's is not handed to `prepare`."""
    alone = PEERS[peer].alone
    case = Case(peer=peer, way=(alone or PEERS[peer].prepared)[0], prepared=not alone, workers=2)
    return replace(case, **changes)


def list_cases(peer: str, samples: int) -> list[Case]:
    """Return all ways of a loader, prepared and not, in every mode of Accelerate's."""
    ways = [(way, False, None) for way in PEERS[peer].alone]
    ways += [(way, True, dispatch) for way, dispatch in product(PEERS[peer].prepared, DISPATCH)]
    return [
        Case(peer=peer, way=way, prepared=prepared, dispatch=dispatch, workers=workers, samples=samples)
        for (way, prepared, dispatch), workers in product(ways, (0, 2))
    ]


def check_pass(bench: Bench, peer: str, samples: int) -> list[Record]:
    """Make a pass in every way and mode."""
    return [tell_pass(case, bench.run(case)) for case in list_cases(peer, samples)]


def check_uneven(bench: Bench, peer: str, samples: int) -> list[Record]:
    """Make passes over a number of samples that the ranks cannot share out evenly."""
    cases = [case for case in list_cases(peer, samples + UNEVEN) if case.workers and case.dispatch is None]
    if peer == "webdataset":  # Accelerate splits what every rank reads whole only if it does not dispatch
        cases.append(
            best_case(peer, way="all shards", prepared=True, dispatch=False, samples=samples + UNEVEN)
        )
    return [tell_pass(case, bench.run(case)) for case in cases]


def tell_pass(case: Case, outcome: Outcome) -> Record:
    """Return what a pass came to."""
    seen = Counter(outcome.seen)
    gathered = [row for rows in outcome.gathered for row in rows]
    return {
        "peer": case.peer,
        "way": case.way,
        "prepared": case.prepared,
        "dispatch": DISPATCH[case.dispatch] if case.prepared else "",
        "workers": case.workers,
        "samples": case.samples,
        "distinct": len(seen),
        "repeated": sum(count > 1 for count in seen.values()),
        "loaded": outcome.loaded,
        "steps": [len(steps) for steps in outcome.ranks],
        "gathered": len(gathered),
        "gathered_distinct": len(set(gathered)),
        "end": outcome.end,
        "error": outcome.error,
    }


def check_kill(bench: Bench, peer: str, samples: int) -> Record:
    """Kill all processes in the midst of a pass, and make the pass again without cleaning."""
    case = best_case(peer, samples=samples)
    scratch = bench.scratch()
    killed = bench.run(replace(case, action="stall"), scratch=scratch)
    if killed.end != "killed":
        return {"peer": peer, "killed": killed.end}
    again = bench.run(case, scratch=scratch)
    told = {
        "peer": peer,
        "killed": killed.end,
        "shared_memory": len(killed.shared_memory),
        "locks": sorted(path.name for path in scratch.rglob("*lock*") if path.is_file()),
        "again": again.end,
        "again_error": again.error,
        "again_distinct": len(set(again.seen)),
        "still_in_shared_memory": sum(Path("/dev/shm", name).exists() for name in killed.shared_memory),  # noqa: S108
    }
    sweep(killed)
    return told


def check_bytes(bench: Bench, peer: str, samples: int) -> Record:
    """Flip a bit in a cached chunk, and in a stored one, and read the dataset again."""
    case = best_case(peer, samples=samples, workers=0, world=1, batch_size=16)
    scratch = bench.scratch()
    before = bench.run(case, scratch=scratch)
    if before.end != "ok":
        return {"peer": peer, "cached": before.end, "stored": before.end}
    told: Record = {"peer": peer}
    flip(scratch / "cache")
    told["cached"] = tell_bytes(bench.run(case, scratch=scratch), samples)
    data = shutil.copytree(bench.data(peer, samples), bench.scratch())
    flip(data / PEERS[peer].stored)
    told["stored"] = tell_bytes(bench.run(case, data=data), samples)
    return told


def flip(folder: Path, number: int = 5) -> None:
    """Flip a bit in the midst of a sample's bytes, in a file below a folder."""
    wanted = content(number)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        at = data.find(wanted)
        if at >= 0:
            data[at + len(wanted) // 2] ^= 1
            path.chmod(0o600)
            path.write_bytes(data)
            return
    raise RuntimeError(f"the bytes of sample {number} are in no file of {folder}")


def tell_bytes(outcome: Outcome, samples: int) -> str:
    """Return in words what came of a flipped bit."""
    if outcome.wrong:
        return "served, no error" if outcome.end == "ok" else f"served, then {outcome.end}"
    if outcome.end == "ok":
        seen = len(set(outcome.seen))
        return (
            "noticed, mended"
            if seen == samples
            else f"not served; ends without an error after {seen} samples"
        )
    return outcome.error.partition(":")[0].rpartition(".")[2] or outcome.end


def check_resume(bench: Bench, peer: str, samples: int) -> list[Record]:
    """Stop two ranks in the midst of a pass, and go on with other ranks and batches."""
    return [resume(bench, best_case(peer, way=way, samples=samples)) for way in PEERS[peer].resumed]


def resume(bench: Bench, case: Case) -> Record:
    """Stop two ranks, and return for each way of `RESUMED` what came of what was left."""
    told: Record = {"peer": case.peer, "way": case.way}
    scratch = bench.scratch()
    before = bench.run(replace(case, action="stop"), scratch=scratch)
    if before.end != "ok":
        return told | {name: {"end": before.end, "error": before.error} for name in RESUMED}
    left = case.samples - len(set(before.seen))
    for name, (world, batch_size) in RESUMED.items():
        again = replace(case, action="resume", world=world, batch_size=batch_size)
        after = bench.run(again, scratch=scratch)
        found = len(set(after.seen) - set(before.seen))
        told[name] = {
            "end": after.end,
            "error": after.error,
            "left": left,
            "found": found,
            "repeated": len(after.seen) - found,
            "counted": sum(len(rows) for rows in after.gathered) - found,
            "steps": [len(steps) for steps in after.ranks],
        }
    return told


def compare(peers: list[str], checks: list[str], samples: int, *, timeout_seconds: float) -> Record:
    """Run the checks on the loaders that are installed, and return all that was seen."""
    found = [peer for peer in peers if importlib.util.find_spec(PEERS[peer].module)]
    report: Record = {
        "versions": versions_of(found),
        "skipped": [peer for peer in peers if peer not in found],
        "machine": f"{os.cpu_count()} cores, {round(psutil.virtual_memory().total / 2**30)} GiB",
        "load_before": os.getloadavg()[0],
    }
    run = {
        "pass": check_pass,
        "uneven": check_uneven,
        "kill": check_kill,
        "bytes": check_bytes,
        "resume": check_resume,
    }
    with tempfile.TemporaryDirectory(prefix="exactness-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), timeout_seconds=timeout_seconds)
        for check in checks:
            report[check] = [run[check](bench, peer, samples) for peer in found]
    report["load_after"] = os.getloadavg()[0]
    return report


def versions_of(peers: list[str]) -> dict[str, str]:
    """Return the versions of what was run."""
    names = [PEERS[peer].distribution for peer in peers] + ["accelerate", "torch"]
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def main() -> None:
    """Run what the command line asks for, and print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS), help="of " + ", ".join(PEERS))
    parser.add_argument("--checks", default=",".join(CHECKS), help="of " + ", ".join(CHECKS))
    parser.add_argument("--samples", type=int, default=96, help="a multiple of 96 is even for everybody")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds of silence that are a hang")
    parser.add_argument("--json", action="store_true", help="print all that was seen")
    arguments = parser.parse_args()
    peers, checks = (
        [name for name in names.split(",") if name] for names in (arguments.peers, arguments.checks)
    )
    for given, known in ((peers, PEERS), (checks, CHECKS)):
        if not set(given) <= set(known):
            parser.error(f"{', '.join(sorted(set(given) - set(known)))} is none of {', '.join(known)}")
    if "benchkit" not in peers:
        peers.append("benchkit")
    report = compare(peers, checks, arguments.samples, timeout_seconds=arguments.timeout)
    print(json.dumps(report, indent=2) if arguments.json else render(report))


if __name__ == "__main__":
    main()
