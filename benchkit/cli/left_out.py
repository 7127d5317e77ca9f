"""What was left out of code that is packed, said to its owner, who may count on it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchkit.cli import render

if TYPE_CHECKING:
    from benchkit.project.source_files import SourceFiles

_SHOWN = 20


def tell_left_out(sources: SourceFiles) -> None:
    """Say what was left out that its owner may count on, and how to pack it anyway."""
    from benchkit.project.ignore import IGNORE_FILE

    if sources.secrets:
        print(f"warning: left out as secrets: {_names(sources.secrets)}", file=sys.stderr)
        name = sources.secrets[0]
        print(
            f"         to pack one all the same, write !/{render.escape(name)} in {IGNORE_FILE}",
            file=sys.stderr,
        )
    if sources.specials:
        what = _names(sources.specials)
        print(f"warning: left out, as links and the like are not packed: {what}", file=sys.stderr)


def _names(paths: list[str]) -> str:
    shown = ", ".join(render.escape(path) for path in paths[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN:,} more"
