"""What both programs share: the options before a command, and how an error ends one.

A `BenchKitError` is one line on stderr and the exit code of its class (`benchkit/errors.py`); a wrong
argument is exit code 2, Ctrl-C 130. Anything else is a defect and keeps its traceback.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from benchkit import __version__
from benchkit.cli import render
from benchkit.errors import BenchKitError, UsageError

_PROGRAMS = {"benchkit.cli.main": "bench-kit", "benchkit.cli.manage": "python manage.py"}
_PACKAGE = str(Path(__file__).parents[1])
_format_as_python = warnings.formatwarning

# Further arguments of these commands belong to the user's script.
FORWARDING_COMMANDS = frozenset({"train"})


def make_app(summary: str) -> typer.Typer:
    """Return a program without commands, which knows `--help`, `--version` and `--debug`."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(help=summary)
    def take_common_options(
        _version: Annotated[
            bool,
            typer.Option(
                "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
            ),
        ] = False,
        _debug: Annotated[
            bool,
            typer.Option(
                "--debug", help="Show the traceback of an error; stands before or after the command."
            ),
        ] = False,
    ) -> None:
        """Both act before a command runs: `_show_version` and `take_debug`."""

    return app


def run(app: typer.Typer, arguments: Sequence[str], *, program: str, folder: Path | None = None) -> NoReturn:
    """Run the command that the arguments name, and end the process with its exit code.

    Args:
        app: The program.
        arguments: What follows the program's name on the command line.
        program: The name that help and usage show.
        folder: Where `manage.py` lies; commands find it as their context's `obj`.
    """
    debug, rest = take_debug(arguments)
    warnings.formatwarning = _format_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may be in no encoding at all
    try:
        try:
            _check_command(app, rest)
            typer.main.get_command(app).main(args=rest, prog_name=program, obj=folder)
        finally:
            if sys.stdout:  # it may have been closed
                sys.stdout.flush()
    except BenchKitError as error:
        if debug:
            traceback.print_exc()
        lines = str(error).split("\n")  # a report may have several; nothing else steers the terminal
        print("error: " + "\n".join(map(render.escape, lines)), file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE) or error.filename is not None:
            raise
        if error.errno == errno.ENOSPC:
            print("error: the output cannot be written: its disk is full", file=sys.stderr)
        # What is left of the output would be written, and fail, once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def managed_project(context: typer.Context) -> Path:
    """Return the project of the `manage.py` that was run, for a command of that program."""
    from benchkit.project import scaffold

    return scaffold.managed_project(context.obj)


def take_debug(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Split `--debug` off, wherever it stands; what follows a forwarding command is left alone.

    >>> take_debug(["migrate-data", "train", "--debug"])
    (True, ['migrate-data', 'train'])
    >>> take_debug(["train", "--debug"])
    (False, ['train', '--debug'])
    """
    words = [number for number, argument in enumerate(arguments) if not argument.startswith("-")]
    forwards = bool(words) and arguments[words[0]] in FORWARDING_COMMANDS
    end = words[0] if forwards else len(arguments)
    rest = [argument for argument in arguments[:end] if argument != "--debug"]
    return len(rest) < end, [*rest, *arguments[end:]]


def _check_command(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Raise `UsageError` where a command is one of the other program's."""
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command is None or command in _list_commands(app):
        return
    for module, program in _PROGRAMS.items():
        if command in _list_commands(import_module(module).app):
            raise UsageError(f"{command!r} is a command of another program: {program} {command}")


def _list_commands(app: typer.Typer) -> set[str | None]:
    return {entry.name for entry in app.registered_commands} | {group.name for group in app.registered_groups}


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as a command prints it: the package's own without a line of its code."""
    if filename.startswith(_PACKAGE):
        return f"warning: {render.escape(str(message))}\n"
    return _format_as_python(message, category, filename, lineno, line)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"bench-kit {__version__}")
        raise typer.Exit
