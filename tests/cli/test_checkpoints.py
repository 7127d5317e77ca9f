"""Laws of `show-check`, `get-check` and `del-check`, run as users run them, on a folder and on S3 servers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault
from support.s3_servers import Bucket
from support.scratch import BENCH_KIT, Scratch, assert_refused, flip, table_rows

from benchkit.errors import CorruptError, NotFoundError, StoreError, UsageError

TRAIN = """\
import sys
import torch
from benchkit import get_accelerator, load_model_checkpoint, upload_model_checkpoint

action, name = sys.argv[1:3]
accelerator = get_accelerator(cpu=True)
model = torch.nn.Linear(200, 200)
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
if action == "load":
    print(load_model_checkpoint(accelerator, name).label)
else:
    print(upload_model_checkpoint(accelerator, name, wait=action == "wait").label)
accelerator.end_training()
"""


def make_project(folder: Path, *, remote: str = "store", endpoint: str = "") -> Scratch:
    project = Scratch.make(folder, files=0)
    s3 = f'[s3]\nendpoint_url = "{endpoint}"\nattempts = 2\n' if endpoint else ""
    (project.root / "benchkit.toml").write_text(f'[project]\nid = "scratch"\nremote = "{remote}"\n{s3}')
    (project.root / "train.py").write_text(TRAIN)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Scratch:
    """Return a project whose remote is a folder."""
    return make_project(tmp_path / "scratch")


@pytest.fixture(params=["local", "swift", "moto"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    """Return such a project with a remote of each kind."""
    if request.param == "local":
        return make_project(tmp_path / "scratch")
    bucket: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return make_project(tmp_path / "scratch", remote=bucket.url, endpoint=bucket.server.endpoint)


def run_script(project: Scratch, action: str, name: str) -> subprocess.CompletedProcess[str]:
    """Run the training script: `wait`, `save` or `load` a checkpoint."""
    process = project.start([sys.executable, "train.py"], action, name)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def save(project: Scratch, name: str = "cats") -> str:
    """Save a checkpoint, and return its label."""
    done = run_script(project, "wait", name)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def shown(project: Scratch) -> list[dict]:
    done = project.bench_kit("show-check", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_checkpoints_are_shown_fetched_loaded_and_deleted_on_any_remote(anywhere: Scratch) -> None:
    assert shown(anywhere) == []
    assert "upload_model_checkpoint" in anywhere.bench_kit("show-check").stdout
    assert [save(anywhere), save(anywhere), save(anywhere, "dogs")] == ["cats@1", "cats@2", "dogs@1"]
    found = shown(anywhere)
    assert [(it["checkpoint"], it["version"]) for it in found] == [("cats", 1), ("cats", 2), ("dogs", 1)]
    assert {(it["files"], it["processes"]) for it in found} == {(3, 1)}
    heads, *rows = table_rows(anywhere.bench_kit("show-check").stdout)
    assert heads[0] == "checkpoint"
    assert [row[0] for row in rows] == ["cats@1", "cats@2", "dogs@1"]

    done = anywhere.bench_kit("get-check", "cats@1", "--to", "here/cats")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cats@1: 3 files, ")
    files = {path.name: path.stat().st_size for path in (anywhere.root / "here/cats").iterdir()}
    assert set(files) == {"model.safetensors", "optimizer.bin", "random_states_0.pkl"}
    assert sum(files.values()) == found[0]["bytes"]
    assert_refused(
        anywhere.bench_kit("get-check", "cats@1", "--to", "here/cats"), UsageError, "is there already"
    )

    done = anywhere.bench_kit("get-check", "cats@1")
    assert f"fetched to {anywhere.root}/checkpoint/cats/{found[0]['id']}" in done.stdout
    assert "whole already in" in anywhere.bench_kit("get-check", "cats@1").stdout
    assert "whole already in" in anywhere.bench_kit("get-check", "cats").stdout
    assert run_script(anywhere, "load", "cats").stdout == "cats@2\n"

    done = anywhere.bench_kit("del-check", "cats@2", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("deleted cats@2 in ")
    assert [(it["checkpoint"], it["version"]) for it in shown(anywhere)] == [("cats", 1), ("dogs", 1)]
    assert run_script(anywhere, "load", "cats").stdout == "cats@1\n"
    assert "deleted cats in" in anywhere.bench_kit("del-check", "cats", "-y").stdout
    assert [it["checkpoint"] for it in shown(anywhere)] == ["dogs"]


@pytest.mark.parametrize("command", [["get-check"], ["del-check", "--yes"]])
def test_an_unknown_name_or_version_says_which_there_are(project: Scratch, command: list[str]) -> None:
    assert_refused(
        project.bench_kit(*command, "cats"), NotFoundError, "it holds: none", "upload_model_checkpoint"
    )
    save(project)
    before = project.objects("store")
    assert_refused(project.bench_kit(*command, "cats@9"), NotFoundError, "no version 9", "it has: 1")
    assert_refused(project.bench_kit(*command, "dogs"), NotFoundError, "'dogs'", "it holds: cats")
    assert_refused(project.bench_kit(*command, "cats@two"), UsageError, "no version number")
    assert_refused(project.bench_kit(*command, "../cats"), UsageError, "no checkpoint name")
    assert project.objects("store") == before


def test_without_a_terminal_nothing_is_asked_and_nothing_done(project: Scratch) -> None:
    for command in ("get-check", "del-check"):
        assert_refused(project.bench_kit(command), UsageError, "holds no checkpoint")
    save(project)
    before = project.objects("store")
    for command in ("get-check", "del-check"):
        assert_refused(project.bench_kit(command), UsageError, "needs a name", "cats")
    assert_refused(project.bench_kit("del-check", "cats"), UsageError, "--yes")
    assert project.objects("store") == before


def test_on_a_terminal_they_list_and_ask_and_show_how_far_they_are(project: Scratch) -> None:
    save(project)
    save(project)
    command: list[str | Path] = [BENCH_KIT, "del-check"]
    for typed in (b"cats@1\n\n", b"cats@1\nn\n"):
        out, _ = project.on_terminal(command, typed=typed, code=1)
        assert b"cats@1, cats@2" in out
        assert b"Delete cats@1 in " in out
    assert len(shown(project)) == 2
    project.on_terminal(command, typed=b"cats@1\ny\n")
    assert [it["version"] for it in shown(project)] == [2]
    out, screen = project.on_terminal([BENCH_KIT, "get-check", "--to", "here"], typed=b"cats\n")
    assert b"fetched to" in out
    assert b"fetching cats@2" in screen


def test_a_damaged_record_hides_no_other_and_can_be_deleted(project: Scratch) -> None:
    save(project)
    save(project)
    (record,) = (project.root / "store/checkpoints/cats/versions").glob("1-*")
    flip(record)
    done = project.bench_kit("show-check")
    assert done.returncode == CorruptError.exit_code
    rows = table_rows(done.stdout)
    assert rows[1][0] == "cats@1"
    assert rows[1][1] == "cannot be read"
    assert rows[2][0] == "cats@2"
    assert done.stderr.count("bench-kit del-check cats@1") == done.stderr.count("cats@1:") == 1
    unreadable, whole = json.loads(project.bench_kit("show-check", "--json").stdout)
    assert (unreadable["version"], "error" in unreadable, whole["version"]) == (1, True, 2)
    assert_refused(project.bench_kit("get-check", "cats@1"), CorruptError, "cats@1")
    assert project.bench_kit("get-check", "cats").returncode == 0
    assert project.bench_kit("del-check", "cats@1", "--yes").returncode == 0
    assert project.bench_kit("show-check").returncode == 0


def test_a_flipped_byte_is_never_fetched(project: Scratch) -> None:
    save(project)
    (weights,) = (project.root / "store/checkpoints").rglob("model.safetensors")
    flip(weights)
    (project.root / "checkpoint").rename(project.root / "aside")
    done = project.bench_kit("get-check", "cats", "--to", "here")
    told = "model.safetensors", "bench-kit del-check cats@1"
    assert_refused(done, CorruptError, *told)
    assert_refused(project.bench_kit("get-check", "cats"), CorruptError, *told)
    assert not (project.root / "here").exists()
    assert not list((project.root / "checkpoint/cats").glob("2*-*/"))


def test_an_upload_that_is_cut_off_is_an_error_and_the_next_run_makes_up_for_it(
    swift_bucket: Bucket, tmp_path: Path
) -> None:
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        project = make_project(tmp_path / "scratch", remote=swift_bucket.url, endpoint=proxy.url)
        assert save(project) == "cats@1"
        proxy.inject(Fault("upload", "close", at=100_000), where=lambda it: "model" in it.key, times=math.inf)
        for action in ("wait", "save"):
            done = run_script(project, action, "cats")
            assert done.returncode == 1
            assert "StoreError: " in done.stderr
            assert [it["version"] for it in shown(project)] == [1]
        proxy.forget()
        done = run_script(project, "load", "cats")
        assert (done.returncode, done.stderr) == (0, "")
        assert "not in the store" in done.stdout
        assert [it["version"] for it in shown(project)] == [1, 2]


def test_a_fetch_that_is_cut_off_leaves_nothing(swift_bucket: Bucket, tmp_path: Path) -> None:
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        project = make_project(tmp_path / "scratch", remote=swift_bucket.url, endpoint=proxy.url)
        save(project)
        proxy.inject(
            Fault("download", "close", at=50_000), where=lambda it: "model" in it.key, times=math.inf
        )
        assert_refused(
            project.bench_kit("get-check", "cats", "--to", "here"), StoreError, "model.safetensors"
        )
        assert os.listdir(project.root / "checkpoint/cats")
        assert not list(project.root.glob("*here*"))
        proxy.forget()
        assert project.bench_kit("get-check", "cats", "--to", "here").returncode == 0
