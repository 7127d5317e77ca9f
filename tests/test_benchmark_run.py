"""The benchmark runs: what each side reads is right, what fails is told in its row, and ratios are right."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
# Two runs at once, as there are two cores wherever the tests run.
HALVES = (
    (("pack", "raw"), ("benchkit", "webdataset", "tar", "copy")),
    (("decoded", "resume", "s3"), ("benchkit", "files", "decoder", "gets", "kept gets")),
)


def run(script: str, *arguments: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a script of the benchmarks."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def run_smoke(folder: Path, tasks: tuple[str, ...], sides: tuple[str, ...]) -> tuple[dict, str]:
    """Run one case of each task and side, and return the report and its tables."""
    chosen = ("--smoke", "--tasks", ",".join(tasks), "--sides", ",".join(sides))
    options = ("--scale", 0.001, "--repetitions", 1, "--timeout", 60)
    with tempfile.TemporaryDirectory(prefix="bench-") as data:  # short: sockets are made in it
        kept = (
            "--folder",
            data,
            "--json",
            folder / f"{tasks[0]}.json",
            "--output",
            folder / f"{tasks[0]}.md",
        )
        run("run.py", *chosen, *options, *kept)
    return json.loads((folder / f"{tasks[0]}.json").read_text()), (folder / f"{tasks[0]}.md").read_text()


def load_module(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.processes
def test_every_task_runs_and_every_side_reads_what_was_packed(tmp_path):
    with ThreadPoolExecutor() as pool:
        halves = list(pool.map(lambda half: run_smoke(tmp_path, *half), HALVES))
    for (report, tables), (tasks, sides) in zip(halves, HALVES, strict=True):
        measured = set()
        for record in report["records"]:
            assert "error" not in record, record
            assert record.get("repeated", 0) == 0, record
            assert record.keys() & {"first_rate", "resume_seconds"}, record
            measured.add((record["task"], record["side"]))
        assert {side for _, side in measured} | set(report["skipped"]) >= set(sides)
        assert {task for task, _ in measured} | set(report["skipped"]) >= set(tasks)
        assert {"python", "benchkit", "torch"} <= set(report["versions"])
        for task, side in measured:
            assert f"| {task}, " in tables
            assert f"| {side}" in tables


def test_ratios_are_those_of_one_repetition_and_errors_stand_in_their_row(tmp_path):
    facts = {"task": "raw", "action": "stream", "dataset": "A-256", "workers": 0, "shuffle": False}
    facts |= {"latency_ms": None, "form": "raw"}

    def record(side: str, repetition: int, **figures: object) -> dict:
        return {**facts, "side": side, "way": "plain", "repetition": repetition, **figures}

    records = [record("benchkit", number, first_rate=rate) for number, rate in enumerate((100, 200, 300))]
    records += [record("webdataset", number, first_rate=rate) for number, rate in enumerate((50, 50, 200))]
    records += [record("slices", number, first_rate=400, workers=None) for number in range(3)]
    records.append(record("litdata", 0, error="ValueError: a | b"))
    report = {"date": "", "machine": "", "load_before": 0.0, "load_after": 0.0, "scale": 1, "repetitions": 3}
    report |= {"versions": {}, "skipped": {"mosaicml": "pip install it"}, "records": records}
    report["filled_memory"] = True
    (tmp_path / "report.json").write_text(json.dumps(report))
    text = run("report.py", tmp_path / "report.json").stdout
    ratios = "webdataset 50 | **2.00** (1.50-4.00) | slices 400 | **0.50** (0.25-0.75)"
    assert f"| raw, A-256, 0 workers, in order | samples/s | 200 | {ratios} |" in text
    assert "| webdataset | 50 (50-200) **2.00** |  |" in text
    assert "| litdata |  | failed 1 time: ValueError: a / b |" in text
    assert "mosaicml is skipped: pip install it." in text
    assert "load 0.0 before and 0.0 after, memory filled; scale 1" in text


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("print('noise'); print('{\"rate\": 3}')", {"rate": 3}),
        ("raise ValueError('no\\nhints follow')", {"error": "ValueError: no", "timed_out": False}),
        ("import os; os._exit(3)", {"error": "exit status 3", "timed_out": False}),
    ],
)
def test_a_process_s_last_line_or_its_error_is_told(tmp_path, code, told):
    script = tmp_path / "script.py"
    script.write_text(code)
    found = load_module("processes").run_script(
        script, "", environment={}, output=tmp_path / "output", timeout_seconds=60
    )
    assert told.items() <= found.items()


def test_a_process_that_hangs_is_killed_with_its_children(tmp_path):
    script, beat = tmp_path / "script.py", tmp_path / "beat"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(beat)!r}).touch(); time.sleep(0.01)"
    script.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])")
    found = load_module("processes").run_script(
        script, "", environment={}, output=tmp_path / "output", timeout_seconds=2
    )
    assert found["error"] == "not done after 2 s"
    assert found["timed_out"]
    last = beat.stat().st_mtime_ns
    time.sleep(0.2)
    assert beat.stat().st_mtime_ns == last


def test_ballast_takes_no_room_on_the_disk_and_is_read_once_at_most_where_memory_does_not_fill(tmp_path):
    ballast = load_module("ballast").Ballast(tmp_path / "ballast", left_bytes=-1)
    assert ballast._size == psutil.virtual_memory().total
    ballast._size = 12 << 20
    ballast.fill()
    assert ballast._at == (16 << 20) % (12 << 20)
    assert (tmp_path / "ballast").stat().st_blocks == 0
    ballast.remove()
    assert not any(tmp_path.iterdir())


@pytest.mark.processes
def test_what_a_side_reads_wrong_is_an_error_that_names_the_sample(tmp_path):
    sources = [tmp_path / str(number) for number in range(3)]
    for source in sources:
        source.write_bytes(b"content of " + source.name.encode())
    (tmp_path / "files.txt").write_text("".join(f"{source}\n" for source in sources))
    case = {"task": "raw", "side": "slices", "kind": "B", "count": 3}
    place = {"files": "files.txt", "packed": "packed", "scratch": "", "total_bytes": 36, "chunk_bytes": 36}
    place |= {name: str(tmp_path / place[name]) for name in ("files", "packed", "scratch")}

    def do(action: str, **changes: object) -> subprocess.CompletedProcess[str]:
        job = {"case": case | {"action": action} | changes, "place": place}
        return run("job.py", json.dumps(job), ok=action == "prepare")

    do("prepare")
    assert "ValueError: 1 of 4 samples did not come" in do("check", count=4).stderr
    sources[1].write_bytes(b"another one!")
    assert "ValueError: sample 1 came back with another content" in do("check").stderr


@pytest.mark.parametrize("arguments", [("--tasks", "packing"), ("--sides", "benchkit,other")])
def test_unknown_names_are_refused_with_those_that_are_known(arguments):
    assert "is none of" in run("run.py", *arguments, ok=False).stderr


def test_the_gpu_s_benchmark_says_that_there_is_none():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run("gpu.py").stdout == "no GPU here: nothing is measured\n"
