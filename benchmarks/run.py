"""The benchmark: packing and streaming beside the limits of the machine and other loaders, in one run.

Every measurement is a process of its own; all sides take turns, several times over. What each side reads is
compared with the source files before it is measured, and counted while it is. Peers are an extra
(`pip install -e '.[dev,peers]'`); one that is missing is told and skipped. README.md says what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from ballast import Ballast
from bench import Bench
from cases import Case
from objects import Objects, serve_objects
from report import render
from sides import OURS, SIDES
from tasks import TASKS

EXAMPLES = """examples:
  python benchmarks/run.py --smoke --scale 0.001 --repetitions 1    does every side run here? (2 minutes)
  python benchmarks/run.py --scale 0.1 --repetitions 3          every task, with a tenth of the data
  python benchmarks/run.py --tasks pack,raw --kinds A           the first two tables, for photos
  python benchmarks/run.py --sides benchkit,webdataset,copy     the project beside one peer and one limit
  python benchmarks/run.py --json all.json --output table.md    everything (hours), kept
  python benchmarks/report.py all.json                          shown again
"""
_LIBRARIES = ("torch", "numpy", "pillow", "simplejpeg", "zstandard", "xxhash", "blake3", "boto3")


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the tasks, and return all that was measured; what there is until then, if it is interrupted."""
    cases = [case for task in arguments.tasks for case in TASKS[task](arguments.scale)]
    cases = [case for case in cases if case.kind in arguments.kinds]
    cases, skipped = choose(cases, arguments.sides)
    if arguments.smoke:
        cases = list({(case.task, case.side): case for case in cases}.values())
    records: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "date": date.today().isoformat(),  # noqa: DTZ011  # the date where the machine is
        "scale": arguments.scale,
        "repetitions": arguments.repetitions,
        "machine": describe_machine(),
        "versions": versions_of({case.side for case in cases}),
        "skipped": skipped,
        "filled_memory": arguments.fill_memory,
        "load_before": os.getloadavg()[0],
        "records": records,
    }
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True))
        )
        folder.mkdir(parents=True, exist_ok=True)
        latencies = {case.latency_ms for case in cases if case.latency_ms is not None}
        objects = _serve(stack, latencies, skipped, arguments) if latencies else None
        if objects is None:
            cases = [case for case in cases if case.latency_ms is None]
        ballast = Ballast(folder / "ballast") if arguments.fill_memory else None
        if ballast:
            stack.callback(ballast.remove)
        bench = Bench(folder.absolute(), timeout_seconds=arguments.timeout, objects=objects, ballast=ballast)
        try:
            records.extend(bench.run(cases, repetitions=arguments.repetitions))
        except KeyboardInterrupt:
            print("interrupted: this is what there is", file=sys.stderr)
    return report | {"load_after": os.getloadavg()[0]}


def choose(cases: Sequence[Case], sides: Sequence[str]) -> tuple[list[Case], dict[str, str]]:
    """Return the cases that can be run here, and why others are skipped."""
    skipped = {name: missing for name in sides if (missing := SIDES[name].missing())}
    if importlib.util.find_spec("simplejpeg") is None and any(case.form == "simplejpeg" for case in cases):
        skipped["simplejpeg"] = "pip install simplejpeg"
    chosen = [
        case for case in cases if case.side in sides and case.side not in skipped and case.form not in skipped
    ]
    return chosen, skipped


def versions_of(names: set[str]) -> dict[str, str]:
    """Return the versions of what was run."""
    versions = {"python": platform.python_version()}
    versions |= {name: version for name in SIDES if name in names and (version := SIDES[name].version())}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def describe_machine() -> str:
    """Return the machine in one line."""
    memory = round(psutil.virtual_memory().total / 2**30)
    processor = platform.machine()
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = named[1] if named else processor
    return f"{os.cpu_count()} cores ({processor}), {memory} GiB, {platform.system()} {platform.release()}"


def _serve(
    stack: contextlib.ExitStack, latencies: set[int], skipped: dict[str, str], arguments: argparse.Namespace
) -> Objects | None:
    if importlib.util.find_spec("swift") is None and not arguments.endpoint_url:
        skipped["s3"] = "pip install swift"
        return None
    return stack.enter_context(
        serve_objects(latencies, endpoint=arguments.endpoint_url, bucket=arguments.bucket)
    )


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="how many samples, as a share of the whole")
    parser.add_argument("--tasks", default=",".join(TASKS), help="of " + ", ".join(TASKS))
    parser.add_argument("--sides", default=",".join(SIDES), help="of " + ", ".join(SIDES))
    parser.add_argument("--kinds", default="ABC", help="which data, such as A or BC")
    parser.add_argument("--smoke", action="store_true", help="only the last case of each task and side")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--fill-memory",
        action="store_true",
        help="with page cache before each measurement (README.md says why)",
    )
    parser.add_argument("--folder", type=Path, help="keep the data here for another run")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that one process may take")
    parser.add_argument(
        "--endpoint-url", default="", help="S3 server that runs already (else OpenStack Swift)"
    )
    parser.add_argument(
        "--bucket", default="benchkit", help="its bucket; keys from AWS_ACCESS_KEY_ID and so on"
    )
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    parser.add_argument("--output", type=Path, help="write the tables to this file, as Markdown")
    arguments = parser.parse_args(words)
    for option, known in (("tasks", TASKS), ("sides", SIDES)):
        given = [name for name in getattr(arguments, option).split(",") if name]
        if not set(given) <= set(known):
            parser.error(f"{', '.join(sorted(set(given) - set(known)))} is none of {', '.join(known)}")
        setattr(arguments, option, given)
    if OURS not in arguments.sides:
        arguments.sides.insert(0, OURS)
    return arguments


def main() -> None:
    """Run what the command line asks for, and show the tables."""
    arguments = parse()
    report = compare(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.output:
        arguments.output.write_text(render(report))
    else:
        print(render(report))
    if any("error" in record for record in report["records"] if record["side"] == OURS):
        sys.exit("benchkit itself failed; see the tables")


if __name__ == "__main__":
    main()
