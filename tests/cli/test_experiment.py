"""Laws of `experiment`, run as users run it: runs here and in any remote, read whole or refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.s3_servers import Bucket
from support.scratch import BENCH_KIT, Scratch, assert_refused, flip, table_rows

from benchkit.errors import CorruptError, FormatError, NotFoundError, StoreError, UsageError

TRAIN = """
import os, signal, sys, threading
from benchkit import ExperimentLogger

name, lr, ending = sys.argv[1], float(sys.argv[2]), sys.argv[3]
logger = ExperimentLogger(name, sync_seconds=0.2)
logger.log_configuration({"lr": lr, "batch_size": 128, "model": {"depth": 2}})
for step in range(0, 100, 10):
    logger.log_scalar("train/loss", lr / (step + 1), step)
    logger.log_metric("accuracy", step / 100, step)
logger.log_scalar("train/loss", float("nan"), 100)
(logger.path_model_checkpoints() / "last.bin").write_bytes(b"c" * 100_000)
(logger.path_model() / "model.bin").write_bytes(b"m" * 1000)
print(logger.run, flush=True)
if ending == "finish":
    logger.finish()
elif ending == "error":
    raise RuntimeError("out of \\x1b[31mmemory")
elif ending == "exit 3":
    sys.exit(3)
elif ending == "quit 3":
    quit(3)
elif ending == "exit told":
    sys.exit("no data")
elif ending == "exit 0":
    sys.exit(0)
elif ending == "exit in with":
    with logger:
        raise SystemExit(3)
elif ending == "exit 0 in with":
    with logger:
        sys.exit()
elif ending == "exit of a thread":
    thread = threading.Thread(target=sys.exit, args=[3])
    thread.start()
    thread.join()
elif ending == "interrupt":
    raise KeyboardInterrupt
elif ending == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""A training script: its arguments are a name, a learning rate, and how it ends."""

EXIT_CODES = {
    "error": 1,
    "exit 3": 3,
    "quit 3": 3,
    "exit told": 1,
    "exit in with": 3,
    "interrupt": -signal.SIGINT,
    "kill": -signal.SIGKILL,
}
"""With which code it ends, where that is not 0."""


def make_project(folder: Path, *, remote: str = "store", endpoint: str = "") -> Scratch:
    project = Scratch.make(folder, files=0)
    s3 = f'[s3]\nendpoint_url = "{endpoint}"\n' if endpoint else ""
    (project.root / "benchkit.toml").write_text(f'[project]\nid = "scratch"\nremote = "{remote}"\n{s3}')
    (project.root / "train.py").write_text(TRAIN)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Scratch:
    """Return a project with a training script, whose remote is a folder."""
    return make_project(tmp_path / "scratch")


@pytest.fixture(params=["local", "swift", "moto"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    """Return such a project with a remote of each kind."""
    if request.param == "local":
        return make_project(tmp_path / "scratch")
    bucket: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return make_project(tmp_path / "scratch", remote=bucket.url, endpoint=bucket.server.endpoint)


def train(project: Scratch, name: str = "base", lr: float = 1.0, ending: str = "finish") -> str:
    """Run the training script, and return the run's id."""
    process = project.start([sys.executable, "train.py"], name, str(lr), ending)
    out, err = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODES.get(ending, 0), err
    return out.strip()


def tell(project: Scratch, *arguments: str):
    """Run `bench-kit experiment … --json`, and return what it told."""
    done = project.bench_kit("experiment", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout, parse_constant=pytest.fail)


def forget_here(project: Scratch) -> None:
    shutil.rmtree(project.root / ".benchkit/experiments")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "run.json"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_runs_are_listed_shown_compared_and_pulled_from_any_remote(anywhere):
    first, second = train(anywhere, "base", 1.0), train(anywhere, "wide", 0.5)
    original = contents(anywhere.root / ".benchkit/experiments" / first)
    assert [(run["run"], run["here"], run["remote"]) for run in tell(anywhere, "ls")] == [
        (first, True, True),
        (second, True, True),
    ]
    shown_here = tell(anywhere, "show", first)
    forget_here(anywhere)
    listed = tell(anywhere, "ls")
    assert [(run["name"], run["state"], run["here"], run["files"]) for run in listed] == [
        ("base", "finished", False, 3),
        ("wide", "finished", False, 3),
    ]

    shown = tell(anywhere, "show", "base")
    assert {**shown, "here": True, "folder": shown_here["folder"]} == shown_here
    assert shown["configuration"] == {"lr": 1.0, "batch_size": 128, "model": {"depth": 2}}
    assert shown["metrics"]["train/loss"] == {
        "points": 11,
        "last": "NaN",
        "last_step": 100,
        "goal": "least",
        "best": pytest.approx(1 / 91),
        "best_step": 90,
    }
    compared = tell(anywhere, "compare", first, "wide")
    assert compared["differences"]["configuration.lr"] == [1.0, 0.5]
    assert set(compared["differences"]) == {"configuration.lr"}
    assert [summary["last"] for summary in compared["metrics"]["accuracy"]] == [0.9, 0.9]

    pulled = tell(anywhere, "pull", first[-8:])
    folder = anywhere.root / ".benchkit/experiments" / first
    assert pulled["folder"] == str(folder)
    assert contents(folder) == original
    assert [(run["here"], run["remote"]) for run in tell(anywhere, "ls")] == [(True, True), (False, True)]
    assert tell(anywhere, "show", first)["metrics"] == shown["metrics"]
    elsewhere = anywhere.root / "elsewhere"
    tell(anywhere, "pull", "wide", "--to", str(elsewhere))
    assert (elsewhere / "model/model.bin").read_bytes() == b"m" * 1000


@pytest.mark.parametrize(
    ("ending", "state", "sent"),
    [
        ("end", "finished", "finished"),
        ("error", "failed", "failed"),
        ("interrupt", "interrupted", "interrupted"),
        ("kill", "interrupted", None),
    ],
)
def test_a_run_says_how_its_script_ended_and_what_was_killed_can_be_sent(project, ending, state, sent):
    run = train(project, ending=ending)
    shown = tell(project, "show", run)
    assert shown["state"] == state
    assert shown["calls"] == 21
    if ending == "error":
        assert shown["error"] == "RuntimeError: out of \x1b[31mmemory"
        text = project.bench_kit("experiment", "show", run)
        assert "RuntimeError: out of \\x1b[31mmemory" in text.stdout
        assert "\x1b" not in text.stdout
    pushed = tell(project, "push", run)
    assert bool(pushed["files"]) == (sent is None)
    forget_here(project)
    (stored,) = tell(project, "ls")
    assert (stored["state"], stored["files"]) == (state, 3)


@pytest.mark.parametrize(
    ("ending", "state", "error"),
    [
        ("exit 3", "failed", "exit code 3"),
        ("quit 3", "failed", "exit code 3"),
        ("exit told", "failed", "no data"),
        ("exit in with", "failed", "exit code 3"),
        ("exit 0", "finished", None),
        ("exit 0 in with", "finished", None),
        ("exit of a thread", "finished", None),
    ],
)
def test_a_script_that_exits_has_failed_unless_its_code_is_0(project, ending, state, error):
    shown = tell(project, "show", train(project, ending=ending))
    assert (shown["state"], shown["error"]) == (state, error)


def test_a_large_model_of_a_script_that_never_says_that_it_ended_goes_to_the_remote_too(
    tmp_path, swift_bucket
):
    project = make_project(
        tmp_path / "scratch", remote=swift_bucket.url, endpoint=swift_bucket.server.endpoint
    )
    script = (
        "from benchkit import ExperimentLogger\n"
        "logger = ExperimentLogger()\n"
        "(logger.path_model() / 'large.bin').write_bytes(bytes(40 << 20))\n"  # more than one request takes
    )
    process = project.start([sys.executable, "-c", script])
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")
    (run,) = tell(project, "ls")
    assert (run["name"], run["state"], run["remote"], run["files"]) == ("scratch", "finished", True, 2)
    assert not swift_bucket.uploads()


def test_tables_for_people(project):
    first, second = train(project, "base", 1.0), train(project, "wide", 0.5)
    heads, *rows = table_rows(project.bench_kit("experiment", "ls").stdout)
    assert heads == ["run", "name", "state", "started", "took", "datasets", "where"]
    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
        (first, "base", "finished", "here + remote"),
        (second, "wide", "finished", "here + remote"),
    ]
    shown = table_rows(project.bench_kit("experiment", "show", "base").stdout)
    assert ["lr", "1.0"] in shown
    assert ["model.depth", "2"] in shown
    assert ["accuracy", "10", "0.9", "90", "0.9 (most)", "90"] in shown
    assert ["train/loss", "11", "nan", "100", "0.010989 (least)", "90"] in shown
    compared = table_rows(project.bench_kit("experiment", "compare", "base", "wide").stdout)
    assert ["what differs", first[-8:], second[-8:]] in compared
    assert ["configuration.lr", "1.0", "0.5"] in compared
    assert ["train/loss", "nan (0.010989)", "nan (0.0054945)"] in compared


def test_a_project_without_runs_says_what_makes_one(project):
    done = project.bench_kit("experiment", "ls")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ExperimentLogger" in done.stdout
    assert tell(project, "ls") == []
    assert_refused(
        project.bench_kit("experiment", "show", "x"), NotFoundError, "no run 'x'", "ExperimentLogger"
    )


def test_unknown_and_ambiguous_runs_are_answered_with_those_there_are(project):
    first, second = train(project, "base"), train(project, "base")
    unknown = project.bench_kit("experiment", "show", "bse")
    assert_refused(unknown, NotFoundError, "no run 'bse'", first, second)
    assert_refused(
        project.bench_kit("experiment", "pull", "base"), UsageError, "the name of 2 runs", first, second
    )
    assert_refused(project.bench_kit("experiment", "show", first[:4]), UsageError, "begins the ids of 2 runs")
    assert_refused(project.bench_kit("experiment", "compare", first), UsageError, "two runs or more")
    assert_refused(project.bench_kit("experiment", "compare", first, first[-8:]), UsageError, "named twice")
    assert tell(project, "show", first[-8:-2])["run"] == first


def test_torn_and_damaged_lines_are_told_and_left_out(project):
    run = train(project)
    shutil.rmtree(project.root / "store")
    metrics = project.root / ".benchkit/experiments" / run / "metrics/000001.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([*lines[:5], b"\0\0garbage\n", *lines[5:], lines[0][:20]]))
    done = project.bench_kit("experiment", "show", run, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["calls"] == 21
    assert "1 line of its metrics cannot be read" in done.stderr
    assert "last line was cut off" in done.stderr


def test_a_run_that_is_written_is_running_and_cannot_be_pushed(project):
    held = (
        "import sys; from benchkit import ExperimentLogger\n"
        "logger = ExperimentLogger('live', sync_seconds=0.1); logger.log_scalar('x', 1, 1)\n"
        "print(logger.run, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held],
        cwd=project.root,
        env=project.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        run = process.stdout.readline().strip()
        assert tell(project, "show", run)["state"] == "running"
        assert_refused(project.bench_kit("experiment", "push", run), UsageError, "being written")
        process.communicate("", timeout=60)
    assert tell(project, "show", run)["state"] == "finished"


def test_a_run_is_deleted_here_and_in_any_remote_and_no_other_is(anywhere):
    first, second = train(anywhere, "base"), train(anywhere, "wide")
    original = contents(anywhere.root / ".benchkit/experiments" / second)
    assert_refused(anywhere.bench_kit("experiment", "rm", "base"), UsageError, "asks before", "--yes")
    assert len(tell(anywhere, "ls")) == 2
    done = anywhere.bench_kit("experiment", "rm", "base", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"deleted run {first} (base) on this machine and in " in done.stdout
    assert [(run["run"], run["here"], run["files"]) for run in tell(anywhere, "ls")] == [(second, True, 3)]
    assert not (anywhere.root / ".benchkit/experiments" / first).exists()
    assert_refused(anywhere.bench_kit("experiment", "rm", first, "-y"), NotFoundError, first, "wide")
    forget_here(anywhere)
    tell(anywhere, "pull", "wide")
    assert contents(anywhere.root / ".benchkit/experiments" / second) == original
    forget_here(anywhere)
    assert "on this machine" not in anywhere.bench_kit("experiment", "rm", "wide", "-y").stdout
    assert tell(anywhere, "ls") == []


def test_on_a_terminal_deleting_a_run_asks(project):
    run = train(project)
    command = [BENCH_KIT, "experiment", "rm", "base"]
    out, _ = project.on_terminal(command, typed=b"n\n", code=1)
    assert f"Delete run {run} (base) on this machine and in ".encode() in out
    assert len(tell(project, "ls")) == 1
    project.on_terminal(command, typed=b"y\n")
    assert tell(project, "ls") == []


def test_a_run_that_is_written_is_not_deleted_here_nor_from_another_machine(project):
    held = (
        "import sys; from benchkit import ExperimentLogger\n"
        "logger = ExperimentLogger('live', sync_seconds=0.1); logger.log_scalar('x', 1, 1)\n"
        "print(logger.run, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held],
        cwd=project.root,
        env=project.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        run = process.stdout.readline().strip()
        refused = project.bench_kit("experiment", "rm", run, "--yes")
        assert_refused(refused, UsageError, "is being written on", "end it first")
        deadline = time.monotonic() + 60
        while not (project.root / "store/experiments" / run / "run.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        elsewhere = Scratch(project.root.parent / "elsewhere", project.cache)
        elsewhere.root.mkdir()
        settings = (project.root / "benchkit.toml").read_text()
        remote = (project.root / "store").as_uri()
        (elsewhere.root / "benchkit.toml").write_text(settings.replace('"store"', f'"{remote}"'))
        refused = elsewhere.bench_kit("experiment", "rm", "live", "--yes")
        assert_refused(refused, UsageError, "is being written on")
        process.communicate("", timeout=60)
    assert tell(project, "show", run)["state"] == "finished"
    assert elsewhere.bench_kit("experiment", "rm", "live", "--yes").returncode == 0
    assert [(listed["here"], listed["remote"]) for listed in tell(project, "ls")] == [(True, False)]


def test_what_is_left_of_a_run_is_deleted_by_its_id(project):
    first, second = train(project, "base"), train(project, "wide")
    forget_here(project)
    store = project.root / "store/experiments"
    (store / first / "run.json").write_text("{}")
    (store / second / "run.json").unlink()
    for run in (first, second):
        assert f"deleted run {run} in " in project.bench_kit("experiment", "rm", run, "--yes").stdout
    assert not [path for path in store.rglob("*") if path.is_file()]
    assert tell(project, "ls") == []


@pytest.mark.parametrize("damage", ["flip", "remove", "shorten"])
@pytest.mark.parametrize("path", ["checkpoints/last.bin", "metrics/000001.jsonl"])
def test_a_run_that_is_damaged_in_the_store_is_pulled_not_at_all(project, damage, path):
    run = train(project)
    forget_here(project)
    stored = project.root / "store/experiments" / run / path
    if damage == "flip":
        flip(stored)
    elif damage == "remove":
        stored.unlink()
    else:
        stored.write_bytes(stored.read_bytes()[:-1])
    assert_refused(project.bench_kit("experiment", "pull", run), CorruptError, path, "nothing was kept")
    runs = project.root / ".benchkit/experiments"
    assert not list(runs.iterdir())
    if path.startswith("metrics"):
        assert_refused(project.bench_kit("experiment", "show", run), CorruptError, path)


def test_pull_writes_over_nothing(project):
    run = train(project)
    assert_refused(project.bench_kit("experiment", "pull", run), UsageError, run, "there already")
    taken = project.root / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("x")
    assert_refused(
        project.bench_kit("experiment", "pull", run, "--to", str(taken)), UsageError, "there already"
    )
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]


def test_a_disk_that_fills_up_while_pulling_leaves_nothing(project):
    run = train(project)
    forget_here(project)

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        [BENCH_KIT, "experiment", "pull", run],
        cwd=project.root,
        env=project.environment,
        capture_output=True,
        text=True,
        preexec_fn=fill,
        check=False,
    )
    assert_refused(done, StoreError, "make room")
    assert not list((project.root / ".benchkit/experiments").iterdir())


@pytest.mark.parametrize("path", ["../../../escaped", "model/../../../escaped", "/tmp/escaped", "run.json"])
def test_no_path_of_a_stored_record_leads_out_of_the_run_s_folder(project, path):
    run = train(project)
    forget_here(project)
    record = project.root / "store/experiments" / run / "run.json"
    document = json.loads(record.read_text())
    document["files"][0]["path"] = path
    record.write_text(json.dumps(document))
    assert_refused(project.bench_kit("experiment", "pull", run), FormatError, "no path of a file")
    assert not list(project.root.parent.rglob("escaped"))


def test_nothing_of_a_stored_record_steers_the_terminal(project):
    run = train(project)
    forget_here(project)
    record = project.root / "store/experiments" / run / "run.json"
    document = json.loads(record.read_text())
    evil = "\x1b]0;evil\x07\n"
    document |= {"name": evil, "configuration": {evil: evil}, "code": {"revision": evil, evil: 1}}
    document["environment"] |= {"host": evil, "gpus": [evil], "arguments": [evil], "python": evil}
    record.write_text(json.dumps(document))
    for arguments in (["ls"], ["show", run], ["pull", "nothing"]):
        done = project.bench_kit("experiment", *arguments)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr


def test_a_record_that_cannot_be_read_hides_no_other_run(project):
    first, second = train(project, "base"), train(project, "wide")
    forget_here(project)
    (project.root / "store/experiments" / first / "run.json").write_text("{}")
    done = project.bench_kit("experiment", "ls")
    assert_refused(done, FormatError, first, "no record of a run")
    assert second in done.stdout
    shown = project.bench_kit("experiment", "show", "wide", "--json")
    assert shown.returncode == 0
    assert first in shown.stderr


def test_a_remote_that_cannot_be_reached_hides_only_what_is_there(tmp_path, s3_environment):
    project = make_project(tmp_path / "scratch", remote="s3://bucket/prefix", endpoint="http://127.0.0.1:9")
    with (project.root / "benchkit.toml").open("a") as settings:
        settings.write("attempts = 1\n")
    process = project.start([sys.executable, "train.py"], "base", "1.0", "finish")
    out, err = process.communicate(timeout=120)
    run = out.strip()
    assert process.returncode == 0
    assert f"bench-kit experiment push {run}" in err
    assert "Traceback" not in err
    done = project.bench_kit("experiment", "ls")
    assert_refused(done, StoreError, "s3://bucket/prefix", "cannot be reached")
    assert run in done.stdout
    shown = project.bench_kit("experiment", "show", run)
    assert shown.returncode == 0
    assert "cannot be reached" in shown.stderr
    assert_refused(project.bench_kit("experiment", "show", "other"), StoreError)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_curves_are_drawn_into_a_file(project, suffix, magic):
    pytest.importorskip("matplotlib", reason='no matplotlib: pip install "benchkit[plot]"')
    first, second = train(project, "base", 1.0), train(project, "wi$de_x^2", 0.5)
    picture = project.root / f"curves{suffix}"
    done = project.bench_kit("experiment", "compare", first, second, "--plot", str(picture))
    assert (done.returncode, done.stderr) == (0, "")
    assert picture.read_bytes().startswith(magic)
    assert str(picture) in done.stdout
    assert not list(project.root.glob(".curves*"))


def test_pictures_that_cannot_be_drawn_say_why(project, tmp_path):
    run = train(project)
    show = ["experiment", "show", run, "--plot"]
    assert_refused(project.bench_kit(*show, "curves.gif"), UsageError, ".png, .svg, .pdf")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "matplotlib.py").write_text("raise ImportError('hidden')\n")
    done = subprocess.run(
        [BENCH_KIT, *show, "curves.png"],
        cwd=project.root,
        env=project.environment | {"PYTHONPATH": str(hidden)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert_refused(done, UsageError, "matplotlib", 'pip install "benchkit[plot]"')
    assert not (project.root / "curves.png").exists()
    pytest.importorskip("matplotlib", reason='no matplotlib: pip install "benchkit[plot]"')
    assert_refused(project.bench_kit(*show, "no/such/folder/curves.png"), StoreError, "cannot be written")


def test_a_resumed_run_counts_once_and_shows_what_was_logged_last(project):
    run = train(project, ending="kill")
    resume = (
        "from benchkit import ExperimentLogger\n"
        "with ExperimentLogger('base', resume=True, sync_seconds=0.1) as logger:\n"
        "    logger.log_metric('accuracy', 0.5, 90); logger.log_metric('accuracy', 0.75, 100)\n"
    )
    process = project.start([sys.executable, "-c", resume])
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    (listed,) = tell(project, "ls")
    assert (listed["run"], listed["state"], listed["resumed"]) == (run, "finished", 1)
    accuracy = tell(project, "show", run)["metrics"]["accuracy"]
    assert (accuracy["points"], accuracy["last"], accuracy["best"]) == (11, 0.75, 0.8)


def test_the_folder_of_a_run_killed_as_it_began_is_passed_over(project):
    run = train(project)
    (project.root / ".benchkit/experiments/20200101-000000-00000000/metrics").mkdir(parents=True)
    os.mkdir(project.root / "store/experiments/unknown")
    assert [listed["run"] for listed in tell(project, "ls")] == [run]
