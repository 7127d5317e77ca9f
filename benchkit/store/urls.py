"""Store URLs: which backend a URL means."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from benchkit.errors import UsageError
from benchkit.settings import S3Settings, Settings, check_path
from benchkit.store.base import Store
from benchkit.store.local import LocalStore
from benchkit.store.s3 import S3Store

SCHEMES = ("file", "s3")


def check_url(url: str) -> str:
    """Return the URL if a store can be opened at it.

    Raises:
        UsageError: An unknown scheme, or a password in the URL.
    """
    scheme, separator, rest = url.partition("://")
    if not url or "\0" in unquote(url):
        raise UsageError("a store's URL is empty or has a NUL in it; write file:///folder or a path")
    if not separator:
        return check_path(url)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        shown = f"{scheme}://" if scheme.isalnum() else "this URL"  # which may be a password put wrongly
        raise UsageError(f"{shown} is no store that is known; known are {known} and plain paths")
    host, slash, _ = rest.partition("/")
    if "@" in host:
        raise UsageError(f"a {scheme}:// URL must not carry a user or a password")
    if scheme == "s3":
        S3Store.of(url)
        return url
    if host not in ("", "localhost") or not slash:
        raise UsageError("a file:// URL names a folder of this machine: file:///folder, with three slashes")
    return url


def open_store(url: str, *, base: Path | None = None, s3: S3Settings | None = None) -> Store:
    """Return the store at a URL or a path; nothing is asked of it yet.

    Args:
        url: `file://…`, `s3://bucket/prefix`, or a path.
        base: Where a relative path begins; None is the current folder.
        s3: How an `s3://` store is spoken to; None is the defaults.

    Raises:
        UsageError: An unknown scheme, or a password in the URL.
    """
    scheme, separator, rest = check_url(url).partition("://")
    if scheme == "s3" and separator:
        return S3Store.of(url, s3 or S3Settings())
    if separator:
        return LocalStore(Path("/" + unquote(rest.partition("/")[2], errors="surrogateescape")))
    path = os.path.expanduser(url)
    if path.startswith("~"):
        raise UsageError(f"the home folder in {url!r} is not known; write the whole path")
    return LocalStore((base or Path.cwd()) / path)


def open_remote(settings: Settings) -> Store:
    """Return the remote store of a project; nothing is asked of it yet.

    Raises:
        UsageError: Its URL is none that is known.
    """
    return open_store(settings.remote_url, s3=settings.s3)
