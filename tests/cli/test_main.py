"""Laws of `bench-kit` and `python manage.py`, as a user at a terminal meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from support.making import publish_samples
from typer.testing import CliRunner

from benchkit.cli import main, manage
from benchkit.cli.app import run
from benchkit.settings import S3Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]


def bench_kit(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Return exit code, stdout and stderr of a command run in this process."""
    with pytest.raises(SystemExit) as end:
        run(main.app, arguments, program="bench-kit")
    output = capsys.readouterr()
    return end.value.code, output.out, output.err


def in_shell(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the current one, with no settings from outside."""
    for name in ("BENCHKIT_PROJECT", "BENCHKIT_REMOTE", "BENCHKIT_CACHE_DIR", "BENCHKIT_CACHE_LIMIT_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("app", [main.app, manage.app], ids=["bench-kit", "manage.py"])
def test_every_command_has_help_with_an_example_that_names_it(app: typer.Typer) -> None:
    program = {id(main.app): "bench-kit", id(manage.app): "python manage.py"}[id(app)]
    names = [command.name for command in app.registered_commands]
    assert names
    for name in names:
        result = CliRunner().invoke(app, [str(name), "--help"])
        assert result.exit_code == 0
        example = f"Example: {program} {name}".replace("start-project", "startproject")
        assert example in result.stdout


@pytest.mark.parametrize("command", ["startproject", "start-project"])
def test_startproject_makes_a_project_and_says_what_comes_next(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = bench_kit(command, "digits", capsys=capsys)
    assert (code, errors) == (0, "")
    assert (folder / "digits/manage.py").is_file()
    assert output.splitlines()[0] == "made the project digits"
    assert "cd digits" in output
    assert "python manage.py migrate-data" in output


@pytest.mark.parametrize(
    "further", [("sk-secret",), ("sk-secret", "--remote", "/data"), ("sk-secret", "more")]
)
def test_the_older_form_with_a_key_is_answered_with_remote_and_the_key_is_not_repeated(
    folder: Path, further: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = bench_kit("startproject", "my-id", *further, capsys=capsys)
    assert (code, output) == (2, "")
    assert "--remote" in errors
    assert "sk-secret" not in errors
    assert list(folder.iterdir()) == []


def test_startproject_refuses_a_bad_name_and_a_taken_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = bench_kit("startproject", "a/b", capsys=capsys)
    assert code == 2
    assert errors.startswith("error: 'a/b' is no project name")

    (folder / "taken").mkdir()
    (folder / "taken/mine.txt").touch()
    code, _, errors = bench_kit("startproject", "taken", capsys=capsys)
    assert code == 3
    assert "is not an empty folder" in errors
    assert errors.count("\n") == 1


def test_project_info_shows_the_project_as_text_and_as_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_kit("startproject", "digits", "--remote", "shared/store", capsys=capsys)
    monkeypatch.setenv("BENCHKIT_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(3 << 30))
    monkeypatch.chdir(folder / "digits/Models")

    code, output, _ = bench_kit("project-info", "--json", capsys=capsys)
    assert code == 0
    assert json.loads(output) == {
        "id": "digits",
        "project": str(folder / "digits"),
        "remote": (folder / "shared/store").as_uri(),
        "staging": str(folder / "digits/ProjectDatasets"),
        "cache_dir": str(folder / "cache"),
        "cache_limit_bytes": 3 << 30,
    }

    code, output, _ = bench_kit("project-info", capsys=capsys)
    assert code == 0
    assert f"project      {folder / 'digits'}" in output.splitlines()
    assert "cache limit  3.00 GiB" in output.splitlines()


def test_startproject_takes_how_an_s3_remote_is_spoken_to(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--endpoint-url", "https://s3.example.com", "--region", "eu-1", "--profile", "work"]
    code, output, errors = bench_kit("startproject", "p", *options, capsys=capsys)
    assert (code, output) == (2, "")
    assert "s3://bucket/prefix" in errors
    code, output, _ = bench_kit("startproject", "p", "--remote", "s3://bucket/c", *options, capsys=capsys)
    assert code == 0
    assert "  bench-kit doctor" in output.splitlines()
    assert load_settings(folder / "p").s3 == S3Settings(
        endpoint_url="https://s3.example.com", region="eu-1", profile="work"
    )

    refused = ["--remote", "s3://bucket", "--endpoint-url", "https://me:sk-secret@host"]
    code, output, errors = bench_kit("startproject", "q", *refused, capsys=capsys)
    assert (code, output) == (2, "")
    assert "must not carry a user or a password" in errors
    assert "sk-secret" not in errors
    assert [path.name for path in folder.iterdir()] == ["p"]


@pytest.mark.usefixtures("s3_environment")
def test_project_info_shows_how_s3_is_spoken_to_and_whose_credentials_without_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_kit("startproject", "p", "--remote", "s3://bucket/c", "--region", "eu-1", capsys=capsys)
    monkeypatch.chdir(folder / "p")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody-sees")

    code, output, _ = bench_kit("project-info", "--json", capsys=capsys)
    assert code == 0
    info = json.loads(output)
    assert (info["remote"], info["s3_region"], info["credentials"]) == (
        "s3://bucket/c",
        "eu-1",
        "environment",
    )
    assert "s3_endpoint_url" not in info
    assert "nobody-sees" not in output

    monkeypatch.setenv("BENCHKIT_PROFILE", "work")
    code, output, _ = bench_kit("project-info", capsys=capsys)
    assert code == 0
    assert "s3 profile   work" in output
    assert "credentials  not usable: there is no profile 'work'" in output


def test_outside_a_project_the_error_names_the_file_and_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = bench_kit("project-info", capsys=capsys)
    assert (code, output) == (3, "")
    assert "benchkit.toml" in errors
    assert "bench-kit startproject" in errors
    assert "Traceback" not in errors


def test_the_installed_program_answers(folder: Path) -> None:
    program = Path(sys.executable).with_name("bench-kit")
    done = subprocess.run(
        [program, "startproject", "p"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        [program, "project-info"], cwd=folder / "p", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["id", "p"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">/dev/full", 1, "error: the output cannot be written: its disk is full\n"),
        ("| true", 1, ""),
        (">&-", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_told_in_a_line_if_at_all(
    folder: Path, unbuffered: str, redirection: str, code: int, said: str
) -> None:
    if redirection == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    # The reader of a pipe has gone by the time the program writes.
    command = f'{{ sleep 0.2; "$0" -m benchkit.cli.main --version; echo $? >code; }} {redirection}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    assert int((folder / "code").read_text()) == code
    assert done.stderr == said


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("del-ds <&-", 2, "error: del-ds needs a name where there is no terminal"),
        ("del-ds digits <&-", 2, "there is no terminal"),
        ("show-ds <&-", 0, ""),
        ("verify digits 2>&-", 0, ""),
        ("verify unknown 2>&-", 6, ""),
    ],
)
def test_a_closed_standard_stream_is_nobody_to_ask_or_to_tell(
    folder: Path, command: str, code: int, said: str
) -> None:
    (folder / "benchkit.toml").write_text('[project]\nid = "p"\nremote = "store"\n')
    publish_samples(folder, "digits", 3, per_chunk=3)
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m benchkit.cli.main {command}', sys.executable],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_current_folder_that_was_removed_is_an_error_without_a_traceback(folder: Path) -> None:
    command = f'mkdir gone && cd gone && rmdir "$PWD" && "{sys.executable}" -m benchkit.cli.main show-ds'
    environment = {name: value for name, value in os.environ.items() if name != "BENCHKIT_PROJECT"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr == "error: the current folder has been removed: change to one that is there\n"


def test_manage_outside_a_project_is_an_error_without_a_traceback(folder: Path) -> None:
    (folder / "manage.py").write_bytes((ROOT / "manage.py").read_bytes())
    done = in_shell("manage.py", "train", cwd=folder)
    assert done.returncode == 3
    assert done.stderr.startswith(f"error: {folder / 'benchkit.toml'} is missing")
    assert done.stderr.count("\n") == 1

    done = in_shell("manage.py", "--debug", "train", cwd=folder)
    assert done.returncode == 3
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--processes", "0"], "--processes 0 is not at least 1"),
        (["--processes", "two"], "--processes"),
        (["--master-addr", "10.0.0.1"], "add --nnodes"),
        (["--nnodes", "0"], "--nnodes 0 is not at least 1"),
        (["--nnodes", "2"], "needs --master-addr"),
    ],
)
def test_train_refuses_what_cannot_be_started(folder: Path, arguments: list[str], reason: str) -> None:
    (folder / "manage.py").write_bytes((ROOT / "manage.py").read_bytes())
    (folder / "benchkit.toml").write_text('[project]\nid = "p"\nremote = "store"\n')
    (folder / "TrainScript.py").write_text("raise SystemExit('started')")
    done = in_shell("manage.py", "train", "--cpu", *arguments, cwd=folder)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
