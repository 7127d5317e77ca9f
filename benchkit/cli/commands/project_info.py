"""`bench-kit project-info`: the project that commands in this folder work on, and its settings."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render

if TYPE_CHECKING:
    from benchkit.settings import S3Settings

EXAMPLE = "Example: bench-kit project-info --json"


def project_info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Show this folder's project and its places."""
    from benchkit.settings import load_settings
    from benchkit.store.urls import check_url

    settings = load_settings()
    info: dict[str, str | int | float] = {
        "id": settings.project_id,
        "project": str(settings.project),
        "remote": check_url(settings.remote_url),
        "staging": str(settings.staging),
        "cache_dir": str(settings.cache_dir),
        "cache_limit_bytes": settings.cache_limit_bytes,
    }
    if settings.remote_url.startswith("s3://"):
        info |= _s3_fields(settings.s3)
    if as_json:
        print(json.dumps(info, indent=2))
        return
    limit = render.size(settings.cache_limit_bytes)
    rows = [
        (name.replace("_", " "), str(value)) for name, value in info.items() if name != "cache_limit_bytes"
    ]
    print(render.pairs([*rows, ("cache limit", limit)]))


def _s3_fields(s3: S3Settings) -> dict[str, str | int | float]:
    """Return what is set, and where the credentials come from: nothing secret is in either."""
    from benchkit.errors import BenchKitError
    from benchkit.settings import S3Settings
    from benchkit.store.s3_client import credentials_source

    plain = S3Settings()
    names = [key.name for key in fields(s3) if getattr(s3, key.name) != getattr(plain, key.name)]
    try:
        credentials = credentials_source(s3)
    except BenchKitError as error:
        credentials = f"not usable: {error}"
    return {f"s3_{name}": getattr(s3, name) for name in names} | {"credentials": credentials}
