"""`bench-kit project-info`: the project that commands in this folder work on, and its settings."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from benchkit.cli import render

EXAMPLE = "Example: bench-kit project-info --json"


def project_info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Show this folder's project and its places."""
    from benchkit.settings import load_settings
    from benchkit.store.urls import check_url

    settings = load_settings()
    info: dict[str, str | int] = {
        "id": settings.project_id,
        "project": str(settings.project),
        "remote": check_url(settings.remote_url),
        "staging": str(settings.staging),
        "cache_dir": str(settings.cache_dir),
        "cache_limit_bytes": settings.cache_limit_bytes,
    }
    if as_json:
        print(json.dumps(info, indent=2))
        return
    limit = render.size(settings.cache_limit_bytes)
    rows = [
        (name.replace("_", " "), str(value)) for name, value in info.items() if name != "cache_limit_bytes"
    ]
    print(render.pairs([*rows, ("cache limit", limit)]))
