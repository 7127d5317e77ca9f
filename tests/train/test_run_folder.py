"""Laws of a run's folder: what was logged stays whatever kills the process, and one process writes."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.making import make_project
from support.processes import environment

from benchkit.errors import FormatError, StoreError, UsageError
from benchkit.train import run_folder
from benchkit.train.run_curves import read_curves
from benchkit.train.run_folder import RunFolder, is_written, metrics_files, read_lines, read_record
from benchkit.train.run_record import RunRecord, decode_record, encode_record, new_run_id
from benchkit.train.run_values import encode_logged


def record_of(name: str = "trial") -> RunRecord:
    return RunRecord(run=new_run_id(), name=name, project="p", started=1.5, updated=1.5)


def line(step: int) -> bytes:
    return encode_logged({"loss": step / 2}, step, 0.0)


def all_lines(path: Path) -> bytes:
    return b"".join(read_lines(file) for file in metrics_files(path))


def test_a_folder_holds_what_was_appended_and_its_record(tmp_path):
    folder = RunFolder.create(tmp_path / "runs", record_of())
    for step in range(3):
        folder.append(line(step))
    folder.update(state="finished", ended=9.0)
    folder.close()
    folder.close()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        ".lock",
        "checkpoints",
        "metrics",
        "model",
        "run.json",
    ]
    assert read_record(folder.path) == folder.record
    assert folder.record.state == "finished"
    assert folder.record.updated > 1.5
    assert json.loads((folder.path / "run.json").read_text())["name"] == "trial"
    assert read_curves(all_lines(folder.path)).curves["loss"].values == (0.0, 0.5, 1.0)
    with pytest.raises(UsageError, match="not open for writing"):
        folder.append(line(4))


def test_metrics_go_on_in_another_file_behind_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "METRICS_FILE_BYTES", 100)
    folder = RunFolder.create(tmp_path, record_of())
    lines = [line(step) for step in range(20)]
    for text in lines:
        folder.append(text)
    folder.close()
    files = metrics_files(folder.path)
    assert [file.name for file in files][:2] == ["000001.jsonl", "000002.jsonl"]
    assert all(100 <= file.stat().st_size < 200 for file in files[:-1])
    assert all_lines(folder.path) == b"".join(lines)


@pytest.mark.parametrize("torn", [b'{"st', b'{"step":9,"time":1.0,"values":{"loss":1.0}}', b"\0\0"])
def test_a_torn_last_line_is_left_out_and_cut_off_when_the_run_goes_on(tmp_path, torn):
    folder = RunFolder.create(tmp_path, record_of())
    folder.append(line(0))
    folder.close()
    (file,) = metrics_files(folder.path)
    with file.open("ab") as end:
        end.write(torn)
    assert read_lines(file) == line(0)
    again = RunFolder.reopen(folder.path)
    again.append(line(1))
    again.close()
    assert file.read_bytes() == line(0) + line(1)


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    folder = RunFolder.create(tmp_path, record_of())
    assert is_written(folder.path)
    with pytest.raises(UsageError, match="being written by another process"):
        RunFolder.reopen(folder.path)
    folder.append(line(0))
    folder.close()
    assert not is_written(folder.path)
    RunFolder.reopen(folder.path).close()


def log_in_child(folder: RunFolder, told) -> None:
    try:
        folder.append(line(1))
    except UsageError as error:
        told.put(str(error))


def test_a_forked_copy_cannot_write_the_run(tmp_path):
    folder = RunFolder.create(tmp_path, record_of())
    folder.append(line(0))
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    child = context.Process(target=log_in_child, args=(folder, told))
    child.start()
    refused = told.get(timeout=30)
    child.join(30)
    assert f"in process {child.pid}" in refused
    folder.append(line(2))
    folder.close()
    assert all_lines(folder.path) == line(0) + line(2)


def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path):
    folder = RunFolder.create(tmp_path, record_of())
    folder.append(line(0))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(line(0)) + 10, limits[1]))
        with pytest.raises(StoreError, match=r"not written.*make room"):
            folder.append(line(1))
        with pytest.raises(StoreError, match="make room"):
            folder.update(name="other")
        (file,) = metrics_files(folder.path)
        assert file.read_bytes() == line(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_record(folder.path).name == "trial"
    folder.append(line(1))
    folder.close()
    assert all_lines(folder.path) == line(0) + line(1)


KILLED = """
import sys, time
from benchkit import ExperimentLogger
logger = ExperimentLogger("killed", resume=True, sync_seconds=0)
for step in range(1, 100_000):
    logger.log_scalar("loss", step, step)
    print(step, flush=True)
"""


@pytest.mark.processes
def test_a_process_killed_at_any_moment_loses_no_logged_line_and_another_goes_on(tmp_path):
    project = make_project(tmp_path / "project")
    runs, reached = project / ".benchkit/experiments", []
    for attempt in range(3):
        command = [sys.executable, "-c", KILLED]
        with subprocess.Popen(
            command, env=environment(project), cwd=project, stdout=subprocess.PIPE, text=True
        ) as process:
            lines = [process.stdout.readline() for _ in range(50 + 7 * attempt)]
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
            reached.append(max(int(line) for line in lines if line.endswith("\n")))
        (run,) = runs.iterdir()
        assert not is_written(run)
        assert read_record(run).state == "running"
        curves = read_curves(all_lines(run))
        assert curves.unreadable == 0
        assert curves.calls >= sum(reached)
        assert set(range(1, max(reached) + 1)) <= set(curves.curves["loss"].steps)
    assert read_record(run).resumed == 2


def test_a_record_is_refused_unless_it_is_one_to_the_letter(tmp_path):
    record = record_of()
    data = encode_record(record)
    assert decode_record(data, what="x") == record
    document = json.loads(data)
    file = {"path": "model/m", "size": 1, "digest": "0" * 64}
    for change in (
        {"benchkit": "store"},
        {"format": 2},
        {"run": "../../etc"},
        {"state": "asleep"},
        {"started": "now"},
        {"started": 1e300},
        {"extra": 1},
        {"configuration": []},
        {"datasets": [{"name": "x", "version": 1, "manifest": "zz"}]},
        *(
            {"files": [{**file, "path": path}]}
            for path in ("../x", "/etc/x", "model/../../x", "run.json", "model/\x1b")
        ),
        {"files": [{**file, "path": "metrics/000001.jsonl", "size": 1 << 40}]},
    ):
        with pytest.raises(FormatError):
            decode_record(json.dumps({**document, **change}).encode(), what="x")
    assert (
        decode_record(json.dumps({**document, "files": [file]}).encode(), what="x").files[0].path == "model/m"
    )


def test_a_call_costs_less_than_50_microseconds(tmp_path):
    folder = RunFolder.create(tmp_path, record_of())
    values = {"train/loss": 0.123456789, "train/accuracy": 0.9, "lr": 1e-3}
    costs = []
    for _ in range(5):
        begun = time.process_time()
        for step in range(1000):
            folder.append(encode_logged(values, step, time.time()))
        costs.append((time.process_time() - begun) / 1000)
    folder.close()
    assert min(costs) < 50e-6
