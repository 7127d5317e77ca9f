"""`bench-kit experiment create`: code versioned, packed, and launched as a run on record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.s3_servers import Bucket
from support.scratch import BENCH_KIT, Scratch, assert_refused

from benchkit.errors import NotFoundError, ProjectError, StoreError, UsageError

LOGGED = """\
import os, sys, time
from benchkit import ExperimentLogger, IterableChunk
with ExperimentLogger("a name of its own") as logger:
    logger.log_configuration({"arguments": sys.argv[1:]})
    logger.log_scalar("rows", sum(1 for _ in IterableChunk("train", True)), 1)
    (logger.path_model() / "model.bin").write_bytes(b"m" * 1000)
    (logger.path_model_checkpoints() / "last.bin").write_bytes(b"c" * 1000)
    print(logger.run, os.environ.get("BENCHKIT_DATASET"), flush=True)
    if "wait" in sys.argv:
        time.sleep(100)
    if "fail" in sys.argv:
        raise RuntimeError("out of luck")
"""
RANKS = """\
import os
os.write(1, "rank {RANK} of {WORLD_SIZE} {ACCELERATE_USE_CPU}\\n".format(**os.environ).encode())
"""


@pytest.fixture
def ready(migrated: Scratch) -> Scratch:
    """Return a project with scripts, whose dataset is in the remote."""
    (migrated.root / "TrainScript.py").write_text(LOGGED)
    (migrated.root / "ranks.py").write_text(RANKS)
    return migrated


def create(project: Scratch, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.bench_kit("experiment", "create", "--engine", "process", *arguments)


def runs(project: Scratch) -> list[dict[str, Any]]:
    done = project.bench_kit("experiment", "ls", "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def show(project: Scratch, run: str) -> dict[str, Any]:
    done = project.bench_kit("experiment", "show", run, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def check_finished(project: Scratch) -> None:
    done = create(project, "--dataset", "train", "--name", "first", "--cmd", "python TrainScript.py 'a b'")
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    (run,) = runs(project)
    assert lines[0] == "code: version 1, new"
    assert lines[1] == f"run {run['run']} (first): python TrainScript.py 'a b', with process"
    assert lines[2] == f"{run['run']} train@1"
    assert (run["name"], run["state"], run["here"], run["remote"]) == ("first", "finished", True, True)
    shown = show(project, "first")
    assert shown["code"]["version"] == 1
    assert shown["configuration"] == {
        "launch": {"command": "python TrainScript.py 'a b'", "engine": "process", "processes": 1},
        "arguments": ["a b"],
    }
    assert shown["metrics"]["rows"]["last"] == 40
    assert [dataset["name"] for dataset in shown["datasets"]] == ["train"]
    pulled = project.root.parent / "pulled"
    assert project.bench_kit("experiment", "pull", "first", "--to", str(pulled)).returncode == 0
    assert (pulled / "model/model.bin").read_bytes() == b"m" * 1000
    assert (pulled / "checkpoints/last.bin").read_bytes() == b"c" * 1000


def test_a_run_is_launched_recorded_and_sent(ready: Scratch) -> None:
    check_finished(ready)
    again = create(ready, "--cmd", "python TrainScript.py")
    assert again.stdout.startswith("code: version 1, unchanged\n")
    assert len(runs(ready)) == 2


def test_a_run_is_launched_recorded_and_sent_to_s3(ready: Scratch, swift_bucket: Bucket) -> None:
    s3 = f'[s3]\nendpoint_url = "{swift_bucket.server.endpoint}"\n'
    toml = f'[project]\nid = "scratch"\nremote = "{swift_bucket.url}"\n{s3}'
    (ready.root / "benchkit.toml").write_text(toml)
    ready.migrate("--zip", "--up", "--chunk-mib", "1")
    check_finished(ready)


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        ("python TrainScript.py fail", 1, "RuntimeError: out of luck"),
        ("sh -c 'exit 4'", 4, "exit code 4"),
        ("sh -c 'kill -9 $$'", 137, "exit code 137"),
    ],
)
def test_a_job_that_fails_gives_its_exit_code_and_the_record_says_why(
    ready: Scratch, command: str, code: int, error: str
) -> None:
    assert create(ready, "--cmd", command).returncode == code
    (run,) = runs(ready)
    assert (run["state"], run["remote"]) == ("failed", True)
    assert show(ready, run["run"])["error"] == error


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_job_and_the_record_says_so(ready: Scratch, number: int) -> None:
    command = ["experiment", "create", "--engine", "process", "--cmd", "python TrainScript.py wait"]
    process = ready.start([BENCH_KIT, *command])
    deadline = time.monotonic() + 60
    while not list(ready.root.glob(".benchkit/experiments/*/checkpoints/last.bin")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (run,) = runs(ready)
    assert run["state"] == "running"
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the job was interrupted" in out
    (run,) = runs(ready)
    assert (run["state"], run["here"], run["remote"]) == ("interrupted", True, True)
    assert show(ready, run["run"])["metrics"]["rows"]["last"] == 40


@pytest.mark.processes
def test_a_killed_launcher_ends_the_job_and_the_run_counts_as_interrupted(ready: Scratch) -> None:
    command = [
        "experiment",
        "create",
        "--engine",
        "process",
        "--cmd",
        "sh -c 'echo $$ > pid; exec sleep 100'",
    ]
    process = ready.start([BENCH_KIT, *command])
    deadline = time.monotonic() + 60
    while not (found := list(ready.root.glob(".benchkit/jobs/*/package/pid"))):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    assert runs(ready)[0]["state"] == "running"
    process.kill()
    process.communicate()
    time.sleep(0.5)
    assert runs(ready)[0]["state"] == "interrupted"
    pid = int(found[0].read_text())
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.processes
def test_several_processes_are_launched(ready: Scratch) -> None:
    done = create(ready, "--processes", "2", "--cmd", "python ranks.py")
    assert done.returncode == 0, done
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))
    assert said == ["rank 0 of 2 true", "rank 1 of 2 true"]
    refused = create(ready, "--processes", "2", "--cmd", "sh a.sh")
    assert_refused(refused, UsageError, "--processes 2 goes with")


def test_what_cannot_be_launched_makes_no_run(ready: Scratch, tmp_path: Path) -> None:
    assert_refused(create(ready, "--dataset", "nope"), NotFoundError, "no dataset 'nope'")
    assert_refused(create(ready, "--cmd", "python 'a"), UsageError, "cannot be split")
    assert_refused(create(ready, "--name", " "), UsageError, "names no run")
    assert_refused(create(ready, "--trainer-path", str(tmp_path)), ProjectError, "benchkit.toml")
    assert not list(ready.root.glob(".benchkit/experiments/*"))
    failing = create(ready, "--cmd", "no-such-program")
    assert failing.returncode == NotFoundError.exit_code
    assert "'no-such-program' cannot be run" in failing.stderr
    (run,) = runs(ready)
    assert run["state"] == "failed"


def test_a_run_that_cannot_be_sent_is_kept_and_can_be_sent_later(ready: Scratch) -> None:
    breaking = 'sh -c \'mv "$MDI_DATASET_DIR" "$MDI_DATASET_DIR".away; touch "$MDI_DATASET_DIR"\''
    done = create(ready, "--cmd", breaking)
    assert done.returncode == 0, done
    warning = done.stderr.splitlines()
    assert warning[0].startswith("warning: the run was not sent: ")
    assert warning[1].startswith("         send it with: bench-kit experiment push ")
    (ready.root / "store").unlink()
    (ready.root / "store.away").rename(ready.root / "store")
    (run,) = runs(ready)
    assert (run["state"], run["remote"]) == ("finished", False)
    assert ready.bench_kit("experiment", "push", run["run"]).returncode == 0
    assert runs(ready)[0]["remote"]


def test_an_unreachable_remote_is_an_error_before_anything_is_run(ready: Scratch) -> None:
    s3 = '[s3]\nendpoint_url = "http://127.0.0.1:9"\nattempts = 1\nanonymous = true\n'
    toml = f'[project]\nid = "scratch"\nremote = "s3://bucket/x"\n{s3}'
    (ready.root / "benchkit.toml").write_text(toml)
    assert_refused(create(ready, "--cmd", "python TrainScript.py"), StoreError, "cannot be reached")
    assert not (ready.root / ".benchkit/experiments").exists()
