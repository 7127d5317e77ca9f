"""Packages run through the real command line: without a container, and in one where an engine can be had."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.containers import EngineMissingError, container_engine, shell_files
from support.s3_servers import Bucket
from support.scratch import BENCH_KIT, Scratch, assert_refused

from benchkit import __version__
from benchkit.errors import CorruptError, NotFoundError, ProjectError, UsageError
from benchkit.project.job import JobOptions, plan_container
from benchkit.settings import JobFolders, load_settings

READ = """\
import json, os, sys
from Datasets.ProjectDatasets import NotesChunk
from net import NAME
rows = sorted(NotesChunk("train", True))
with open(os.path.join(os.environ["MDI_MODEL_DIR"], "model.json"), "w") as file:
    json.dump([NAME, len(rows), sys.argv[1:], os.environ["BENCHKIT_DATASET"], os.getcwd()], file)
sys.exit(int(sys.argv[-1]))
"""


@pytest.fixture
def packed(migrated: Scratch) -> Scratch:
    """Return a project with a training script and its package, whose dataset is in the remote."""
    (migrated.root / "scripts").mkdir()
    (migrated.root / "scripts/train.py").write_text(READ)
    (migrated.root / "src").mkdir()
    (migrated.root / "src/net.py").write_text("NAME = 'net'\n")
    assert migrated.bench_kit("trainer", "create-zip").returncode == 0
    return migrated


def job_of(project: Scratch) -> Path:
    (job,) = (project.root / ".benchkit/jobs").iterdir()
    return job


def launch(project: Scratch, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.bench_kit("runc", "launch-local", "--engine", "process", *arguments)


def test_a_package_runs_in_a_fresh_folder_with_the_folders_of_a_job(packed: Scratch) -> None:
    before = (packed.root / "scripts/train.py").read_text()
    (packed.root / "scripts/train.py").write_text("not what was packed")
    done = launch(packed, "--dataset", "train", "python scripts/train.py --name 'a b' \"c'd\" 5")
    assert done.returncode == 5, done
    model = job_of(packed) / "ml/model/model.json"
    arguments = ["--name", "a b", "c'd", "5"]
    assert json.loads(model.read_text()) == ["net", 40, arguments, "train@1", str(job_of(packed) / "package")]
    assert (job_of(packed) / "package/scripts/train.py").read_text() == before
    assert done.stdout == f"the job ended with exit code 5; model in {model.parent}\n"


def test_words_behind_two_dashes_are_taken_as_they_are(packed: Scratch) -> None:
    done = launch(packed, "--dataset", "train@1", "--", "python", "scripts/train.py", "a  b", "--engine", "0")
    assert done.returncode == 0, done
    written = json.loads((job_of(packed) / "ml/model/model.json").read_text())
    assert written[2:4] == [["a  b", "--engine", "0"], "train@1"]


def test_a_package_without_a_project_runs_too(tmp_path: Path) -> None:
    here = Scratch(tmp_path / "plain", tmp_path / "cache")
    here.root.mkdir()
    (here.root / "run.py").write_text("import os; print(os.environ['BENCHKIT_CLOUD'], os.getcwd())\n")
    assert here.bench_kit("trainer", "create-zip").returncode == 0
    done = launch(here, "python run.py")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0] == f"true {job_of(here)}/package"
    assert_refused(launch(here, "--dataset", "x", "python run.py"), ProjectError, "benchkit.toml")


def test_a_package_reads_from_an_s3_remote(packed: Scratch, swift_bucket: Bucket) -> None:
    s3 = f'[s3]\nendpoint_url = "{swift_bucket.server.endpoint}"\n'
    toml = f'[project]\nid = "scratch"\nremote = "{swift_bucket.url}"\n{s3}'
    (packed.root / "benchkit.toml").write_text(toml)
    packed.migrate("--zip", "--up", "--chunk-mib", "1")
    assert packed.bench_kit("trainer", "create-zip").returncode == 0
    done = launch(packed, "--dataset", "train", "python scripts/train.py 0")
    assert done.returncode == 0, done


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--dataset", "nope", "python a.py"], NotFoundError, ["no dataset 'nope'", "train"]),
        (["--dataset", "train@9", "python a.py"], NotFoundError, ["no version 9"]),
        (["--package", "nope.zip", "python a.py"], NotFoundError, ["nope.zip is not there", "create-zip"]),
        (["--package", "manage.py", "python a.py"], CorruptError, ["is no zip"]),
        (["no-such-program"], NotFoundError, ["'no-such-program' cannot be run"]),
        (["python 'a"], UsageError, ["cannot be split", "quotation"]),
        ([""], UsageError, ["no command to run"]),
    ],
)
def test_what_cannot_be_run_is_said(packed: Scratch, arguments: list[str], error, words) -> None:
    assert_refused(launch(packed, *arguments), error, *words)


def test_without_an_engine_it_is_said_what_to_install_and_what_goes_without(packed: Scratch) -> None:
    for arguments in (
        ["build-local"],
        ["build-local", "--engine", "podman"],
        ["launch-local", "python a.py"],
        ["launch-local", "--engine", "docker", "python a.py"],
    ):
        process = subprocess.run(
            [BENCH_KIT, "runc", *arguments],
            cwd=packed.root,
            env=packed.environment | {"PATH": str(packed.root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert_refused(
            process, NotFoundError, "is not installed", "podman.io", "docker.com", "--engine process"
        )
    assert_refused(
        packed.bench_kit("runc", "build-local", "--engine", "process"), UsageError, "needs no image"
    )


@pytest.mark.processes
def test_an_interrupt_ends_the_job(packed: Scratch) -> None:
    process = packed.start(
        [BENCH_KIT, "runc", "launch-local", "--engine", "process"],
        'sh -c \'trap "exit 1" INT; echo > "$MDI_ARTIFACT_DIR"/begun; while :; do sleep 0.05; done\'',
    )
    deadline = time.monotonic() + 30
    while not list(packed.root.glob(".benchkit/jobs/*/ml/output/data/begun")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "")
    assert out.startswith("the job was interrupted; artifacts in ")


def test_a_containers_remote_cache_and_keys_are_passed_in(
    project: Path, monkeypatch: pytest.MonkeyPatch, s3_environment: None
) -> None:
    folders = JobFolders.below(project / "ml")
    options = JobOptions(
        package=Path("p.zip"), command=("python", "a.py"), engine="docker", dataset="train@1",
        run_folder=project / "run",
    )  # fmt: skip
    settings = load_settings()
    local = plan_container(options, "i", "job", folders, settings, finds_modules=False)
    places = {mount.target: (str(mount.source), mount.read_only) for mount in local.mounts}
    assert places == {
        "/opt/ml/model": (str(project / "ml/model"), False),
        "/opt/ml/checkpoints": (str(project / "ml/checkpoints"), False),
        "/opt/ml/output/data": (str(project / "ml/output/data"), False),
        "/opt/ml/input/data/training": (str(project / "store"), False),
        "/opt/ml/run": (str(project / "run"), False),
        "/opt/benchkit/cache": (str(settings.cache_dir), False),
    }
    assert local.variables["BENCHKIT_REMOTE"] == "/opt/ml/input/data/training"
    assert local.variables["BENCHKIT_RUN_DIR"] == "/opt/ml/run"
    assert local.variables["PYTHONPATH"] == "src:."
    assert local.inherited == []

    monkeypatch.setenv("BENCHKIT_REMOTE", "s3://bucket/x")
    config = Path(os.environ["XDG_CONFIG_HOME"], "benchkit")
    config.mkdir(parents=True)
    remote = plan_container(options, "i", "job", folders, load_settings(), finds_modules=True)
    assert remote.variables["BENCHKIT_REMOTE"] == "s3://bucket/x"
    assert remote.variables["XDG_CONFIG_HOME"] == "/opt/benchkit/config"
    assert "PYTHONPATH" not in remote.variables
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(remote.inherited)
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in str(remote)
    places = {mount.target: (str(mount.source), mount.read_only) for mount in remote.mounts}
    assert places["/opt/benchkit/config/benchkit"] == (str(config), True)
    assert places["/opt/ml/input/data/training"] == (str(project / "ml/input/data/training"), False)


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[str, dict[str, str]]]:
    """Return a container engine's name and environment, for this file's tests."""
    folder = Path(tempfile.mkdtemp(prefix="bk-docker-", dir="/tmp"))
    try:
        with container_engine(folder) as found:
            yield found
    except EngineMissingError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def in_container(
    engine: tuple[str, dict[str, str]], migrated: Scratch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `bench-kit` where the engine answers, beside a package with a shell."""
    root = migrated.root
    (root / "scripts").mkdir()
    (root / "scripts/any.py").write_text("")
    (root / "scripts/train.sh").write_text(
        'pwd > "$MDI_MODEL_DIR/made"\n'
        'printf "%s\\n" "$BENCHKIT_CLOUD" "$BENCHKIT_REMOTE" "$BENCHKIT_DATASET" "$@" >> /opt/ml/model/made\n'
        'echo "$PYTHONPATH" >> /opt/ml/model/made\n'
        "read marker < /opt/ml/input/data/training/benchkit.json\n"
        'case "$marker" in *store*) ;; *) exit 9;; esac\n'
        "exit 6\n"
    )
    (root / "Dockerfile").write_text(
        'FROM scratch\nCOPY image/ /\nWORKDIR /opt/package\nCOPY . .\nENTRYPOINT ["/bin/no"]\n'
    )
    for path, source in shell_files().items():
        (root / "image" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / "image" / path)

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BENCH_KIT, *arguments],
            cwd=root,
            env=migrated.environment | engine[1],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    run.root = root  # type: ignore[attr-defined]
    run.engine = engine  # type: ignore[attr-defined]
    return run


@pytest.mark.processes
@pytest.mark.slow
def test_a_package_is_built_and_runs_in_a_container(in_container) -> None:
    assert in_container("trainer", "create-zip").returncode == 0
    missing = in_container("runc", "launch-local", "sh scripts/train.sh")
    assert_refused(missing, NotFoundError, "has no image localhost/benchkit-package:", "build-local")
    built = in_container("runc", "build-local", "trainer.zip")
    assert built.returncode == 0, built
    assert "built localhost/benchkit-package:" in built.stdout
    command = "/bin/sh scripts/train.sh 'a b' \"$HOME\""
    done = in_container("runc", "launch-local", "--dataset", "train", command)
    assert done.returncode == 6, done
    (job,) = (in_container.root / ".benchkit/jobs").glob("*/ml/model/made")
    assert job.read_text().splitlines() == [
        "/opt/package", "true", "/opt/ml/input/data/training", "train@1", "a b", "$HOME", "src:.",
    ]  # fmt: skip
    assert f"the job ended with exit code 6; model in {job.parent}" in done.stdout


@pytest.mark.processes
@pytest.mark.slow
def test_a_package_without_a_dockerfile_gets_one(in_container) -> None:
    root = in_container.root
    pip = '#!/bin/sh\nprintf "%s\\n" "$*" >> /installed\n'
    (root / "image/bin/pip").write_text(pip)
    (root / "image/bin/pip").chmod(0o755)
    (root / "Dockerfile").write_text("FROM scratch\nCOPY image/ /\nENV PATH=/bin\n")
    assert in_container("trainer", "create-zip").returncode == 0
    assert in_container("runc", "build-local", "--image", "localhost/benchkit-base:1").returncode == 0
    (root / "Dockerfile").unlink()
    (root / "dependencies.txt").write_text("")
    (root / "src").mkdir()
    (root / "src/net.py").write_text("")
    assert in_container("trainer", "create-zip").returncode == 0
    built = in_container("runc", "build-local", "--base", "localhost/benchkit-base:1")
    assert built.returncode == 0, built
    script = 'while read line; do echo "$line"; done < /installed; echo "$PYTHONPATH"; pwd; echo *'
    done = in_container("runc", "launch-local", "--", "/bin/sh", "-c", script)
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[0] == f"install --no-cache-dir /tmp/benchkit-{__version__}-py3-none-any.whl"
    assert lines[1:4] == [
        "install --no-cache-dir -r dependencies.txt",
        "/opt/package/src:/opt/package",
        "/opt/package",
    ]
    assert {"manage.py", "benchkit.toml", "scripts"} <= set(lines[4].split())


@pytest.mark.processes
@pytest.mark.slow
def test_a_run_on_record_gets_its_image_where_there_is_none(in_container) -> None:
    (in_container.root / "scripts/once.py").write_text(f"# {secrets.token_hex()}")
    arguments = ["experiment", "create", "--dataset", "train", "--cmd", "/bin/sh scripts/train.sh"]
    first, second = in_container(*arguments), in_container(*arguments)
    assert (first.returncode, second.returncode) == (6, 6), (first, second)
    assert "the image of this package is built with" in first.stdout
    assert "is built with" not in second.stdout
    shown = in_container("experiment", "ls", "--json")
    assert [run["state"] for run in json.loads(shown.stdout)] == ["failed", "failed"]
    assert len(list((in_container.root / ".benchkit/experiments").glob("*/model/made"))) == 2


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_container_ends_with_an_interrupt_and_with_who_launched_it(in_container, number) -> None:
    name, environment = in_container.engine
    assert in_container("trainer", "create-zip").returncode == 0
    assert in_container("runc", "build-local").returncode == 0
    script = 'trap "exit 3" INT; echo 1 > "$MDI_MODEL_DIR/begun"; while :; do :; done'
    process = subprocess.Popen(
        [BENCH_KIT, "runc", "launch-local", "--", "/bin/sh", "-c", script],
        cwd=in_container.root,
        env={**os.environ, **environment, "BENCHKIT_CACHE_DIR": str(in_container.root / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(in_container.root.glob(".benchkit/jobs/*/ml/model/begun")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert ("the job was interrupted" in out) == (number == signal.SIGINT)
    deadline = time.monotonic() + (20 if number == signal.SIGKILL else 0)
    while subprocess.run(
        [name, "ps", "--all", "--quiet", "--filter", "name=benchkit-"],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    ).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.processes
@pytest.mark.slow
def test_an_image_that_cannot_be_built_is_an_error(in_container) -> None:
    (in_container.root / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    assert in_container("trainer", "create-zip").returncode == 0
    done = in_container("runc", "build-local")
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "could not build the image of trainer.zip" in done.stderr
