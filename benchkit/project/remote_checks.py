"""Checks of a remote: whether it can be reached, with which credentials, what is allowed there, its clock.

Nothing is left in it: the object that is written to try it is removed.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from benchkit.data.catalogue import open_catalogue
from benchkit.errors import CorruptError, StoreError
from benchkit.format.layout import MARKER_NAME
from benchkit.project.checks import Check, attempt, failed
from benchkit.settings import S3Settings
from benchkit.store.base import Store, Sweepable
from benchkit.store.local import LocalStore
from benchkit.store.s3 import S3Store
from benchkit.store.s3_client import credentials_source, failure_code
from benchkit.store.s3_errors import CREDENTIALS, DENIED

PROBES = "doctor/"
WARN_SKEW_SECONDS = 5.0
FAIL_SKEW_SECONDS = 300.0  # from here on S3 services refuse what is signed
_LISTED_UPLOADS = 1000


def check_remote(store: Store, s3: S3Settings) -> list[Check]:
    """Return whether the store can be reached and used, and how its clock goes."""
    if isinstance(store, LocalStore) and not os.path.lexists(store.root):
        return [_check_place(store.root)]
    checks = _reach(store, s3)
    if checks[-1].name == "list":
        checks.append(attempt("format", lambda: _look_at_format(store)))
        checks += _try_out(store, anonymous=s3.anonymous)
        if isinstance(store, Sweepable):
            checks.append(attempt("unfinished", lambda: _count_unfinished(store), state="warn"))
    return checks


def check_clock(modified: float, *, began: float, ended: float, signed: bool) -> Check:
    """Return how far the store's clock is from this machine's, by an object that was written just now.

    Args:
        modified: When the store says that it was written; it may tell whole seconds only.
        began: When writing it began by this machine's clock.
        ended: When it ended.
        signed: Whether the store refuses requests signed by a clock that is too wrong.
    """
    skew = modified - ended if modified > ended else min(0.0, modified - math.floor(began))
    if abs(skew) < WARN_SKEW_SECONDS:
        return Check(name="clock", state="ok", detail="the store's agrees with this machine's")
    behind = "behind" if skew > 0 else "ahead of"
    detail = f"this machine's is {abs(skew):.0f} s {behind} the store's"
    remedy = "set it: timedatectl set-ntp true"
    if signed and abs(skew) >= FAIL_SKEW_SECONDS:
        return Check(name="clock", state="fail", detail=detail, remedy=remedy, exit_code=StoreError.exit_code)
    return Check(name="clock", state="warn", detail=detail, remedy=remedy)


def _reach(store: Store, s3: S3Settings) -> list[Check]:
    """Return what a first request tells; the last check is `list` where the store has answered it."""
    signed, place, credentials = isinstance(store, S3Store), store.url, []
    if signed:
        credentials = [attempt("credentials", lambda: _find_credentials(s3))]
        if credentials[0].state == "fail":
            return credentials
        place += f" at {s3.endpoint_url}" if s3.endpoint_url else ""
    listed = Check(name="list", state="ok", detail="allowed")
    began = time.monotonic()
    try:
        for _ in store.list(PROBES):
            pass
    except StoreError as error:
        code = failure_code(error) if signed else ""
        if code in CREDENTIALS:
            bad = failed("credentials", error)
            return [replace(bad, detail=f"{credentials[0].detail}: {bad.detail}")]
        if code not in DENIED:
            bad = failed("clock" if code == "RequestTimeTooSkewed" else "remote", error)
            return [*credentials, replace(bad, detail=bad.detail.replace(store.url, place, 1))]
        listed = failed("list", error)
    seconds = time.monotonic() - began
    remote = Check(name="remote", state="ok", detail=f"{place} answered in {seconds * 1e3:.0f} ms")
    return [*credentials, remote, listed]


def _find_credentials(s3: S3Settings) -> Check:
    source = credentials_source(s3)
    if source != "none found":
        return Check(name="credentials", state="ok", detail=source)
    remedy = "run bench-kit configure, or set anonymous = true in [s3] to read what is public"
    return Check(
        name="credentials", state="fail", detail=source, remedy=remedy, exit_code=StoreError.exit_code
    )


def _look_at_format(store: Store) -> Check:
    open_catalogue(store)
    found = "a store of this format" if store.stat(MARKER_NAME) else "empty yet"
    return Check(name="format", state="ok", detail=found)


def _try_out(store: Store, *, anonymous: bool) -> list[Check]:
    """Return whether an object can be written, read and removed, and how the store's clock goes."""
    name = f"{PROBES}{secrets.token_hex(16)}.probe"
    data = name.encode()

    def done(check: str, action: Callable[[], object]) -> Check:
        action()
        return Check(name=check, state="ok", detail="allowed")

    def read_back() -> None:
        if store.read(name) != data:
            raise CorruptError(f"{store.url} gave back other bytes than were written: look into the service")

    def compare_clocks() -> Check:
        info = store.stat(name)
        if info is None:
            raise StoreError(f"{store.url} lost an object that was written just now: look into the service")
        return check_clock(info.modified, began=began, ended=ended, signed=isinstance(store, S3Store))

    began = time.time()
    try:
        written = attempt("write", lambda: done("write", lambda: store.write(name, data)))
        ended = time.time()
        checks = [written]
        if written.state == "ok":
            checks += [attempt("read", lambda: done("read", read_back)), attempt("clock", compare_clocks)]
    finally:  # also where the answer to its writing was lost
        removed = attempt("delete", lambda: done("delete", lambda: store.delete(name)))
    if written.state == "ok":
        return [*checks, removed]
    return [replace(written, state="warn", exit_code=0) if anonymous else written]


def _count_unfinished(store: Sweepable) -> Check:
    count = sum(1 for _ in islice(store.unfinished(), _LISTED_UPLOADS))
    detail = f"{count}{' or more' if count == _LISTED_UPLOADS else ''}; bench-kit clean removes what is dead"
    return Check(name="unfinished", state="ok", detail=detail if count else "no unfinished uploads")


def _check_place(folder: Path) -> Check:
    """Return whether a folder that is not there yet can be made."""
    if os.access(existing_folder(folder), os.W_OK | os.X_OK):
        return Check(
            name="remote", state="ok", detail=f"{folder} is not there yet: the first upload makes it"
        )
    detail = f"{folder} is not there, and cannot be made in {existing_folder(folder)}"
    remedy = "make that folder writable for you, or name another as remote in benchkit.toml"
    return Check(name="remote", state="fail", detail=detail, remedy=remedy, exit_code=StoreError.exit_code)


def existing_folder(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))
