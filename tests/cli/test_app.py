"""Laws of how a program starts and ends."""

from __future__ import annotations

import pytest
import typer

from benchkit import __version__
from benchkit.cli.app import make_app, run, take_debug
from benchkit.cli.main import app as bench_kit
from benchkit.cli.manage import app as manage
from benchkit.errors import BenchKitError, CorruptError, StallError, UsageError


def failing_app(error: BaseException | None) -> typer.Typer:
    app = make_app("A program for tests.")

    @app.command("fail")
    def fail() -> None:
        if error is not None:
            raise error

    @app.command("other")
    def other() -> None:
        """Make this a program of several commands."""

    return app


def exit_code(app: typer.Typer, *arguments: str) -> object:
    with pytest.raises(SystemExit) as end:
        run(app, arguments, program="prog")
    return end.value.code


@pytest.mark.parametrize("kind", [BenchKitError, UsageError, CorruptError, StallError])
def test_an_error_is_one_line_on_stderr_and_its_class_gives_the_exit_code(
    kind: type[BenchKitError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(failing_app(kind("chunk 3f9a is corrupt")), "fail") == kind.exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "error: chunk 3f9a is corrupt\n"


@pytest.mark.parametrize("arguments", [("--debug", "fail"), ("fail", "--debug")])
def test_debug_shows_the_traceback_before_or_after_the_command(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(failing_app(UsageError("no such thing")), *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback (most recent call last):")
    assert errors.endswith("\nerror: no such thing\n")


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(failing_app(ZeroDivisionError("by zero")), ["fail"], program="prog")


def test_success_is_exit_code_zero() -> None:
    assert exit_code(failing_app(None), "fail") == 0


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(failing_app(None), "--version") == 0
    assert capsys.readouterr().out == f"bench-kit {__version__}\n"


@pytest.mark.parametrize(
    ("program", "command", "named"),
    [(bench_kit, "migrate-data", "python manage.py migrate-data"), (manage, "runc", "bench-kit runc")],
)
def test_a_command_of_the_other_program_is_named_with_it(
    program: typer.Typer, command: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(program, command, "--help") == 2
    assert capsys.readouterr().err == f"error: {command!r} is a command of another program: {named}\n"


@pytest.mark.parametrize("arguments", [("nonsense",), ("fail", "--nonsense"), ("fail", "nonsense")])
def test_a_wrong_command_line_is_exit_code_two(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(failing_app(None), *arguments) == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "debug", "rest"),
    [
        ([], False, []),
        (["--debug"], True, []),
        (["migrate-data", "train", "--debug"], True, ["migrate-data", "train"]),
        (["--debug", "train", "--epochs", "1"], True, ["train", "--epochs", "1"]),
        (["train", "--debug"], False, ["train", "--debug"]),
        (["--debug", "train", "--debug"], True, ["train", "--debug"]),
    ],
)
def test_what_follows_a_command_that_forwards_is_left_to_the_script(
    arguments: list[str], debug: bool, rest: list[str]
) -> None:
    assert take_debug(arguments) == (debug, rest)
