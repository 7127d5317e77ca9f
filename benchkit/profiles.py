"""Profiles: a user's credentials for object stores, one file in the user's own configuration folder.

The file `profiles.json` is readable by its owner alone, and is replaced whole. Nothing of it is ever shown
whole, logged, or put into a project.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchkit.errors import NotFoundError, ProjectError, UsageError
from benchkit.settings import check_endpoint, check_region, config_dir

FILE_NAME = "profiles.json"
FILE_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MEND = "make it anew with bench-kit configure, once it is moved away"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One user's credentials for one service.

    Attributes:
        name: 1 to 64 of A-Z a-z 0-9 . _ -.
        access_key_id: The public half of the key.
        secret_access_key: The secret half.
        session_token: What goes with a key that is valid for a while only.
        endpoint_url: The service, unless the project names one; None is AWS.
        region: Its region, unless the project names one.
    """

    name: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = None
    region: str | None = None

    def __post_init__(self) -> None:
        check_profile_name(self.name)
        check_key("an access key id", self.access_key_id)
        check_key("a secret access key", self.secret_access_key)
        if self.session_token is not None:
            check_key("a session token", self.session_token)
        if self.endpoint_url is not None:
            check_endpoint(self.endpoint_url)
        if self.region is not None:
            check_region(self.region)


def check_profile_name(name: str) -> str:
    """Return the name if a profile can have it, else raise `UsageError` saying what a name is."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r:.80} is no profile name: 1 to 64 of A-Z a-z 0-9 . _ -")
    return name


def check_key(what: str, value: str) -> str:
    """Return a part of a key if it can be one, else raise `UsageError`, which does not show it."""
    if not (value and value.isascii() and value.isprintable() and " " not in value):
        raise UsageError(f"{what} is printable ASCII without blanks, and this one is empty or is not")
    return value


def mask(key: str) -> str:
    """Return an access key id as it is shown: its last four characters.

    >>> [mask("AKIAIOSFODNN7EXAMPLE"), mask("short")]
    ['****MPLE', '****']
    """
    return "****" + (key[-4:] if len(key) >= 8 else "")


def profiles_path() -> Path:
    """Return where the profiles are kept."""
    return config_dir() / FILE_NAME


def list_profiles() -> list[Profile]:
    """Return the profiles in order of name.

    Raises:
        ProjectError: Their file cannot be read, or others can read it.
    """
    profiles = _read().profiles
    return [profiles[name] for name in sorted(profiles)]


def find_profile(name: str | None) -> Profile | None:
    """Return the profile of the name, or the one in use; None where there is none.

    Args:
        name: A name; None is the profile in use.

    Raises:
        ProjectError: The file of profiles cannot be read, or others can read it.
    """
    book = _read()
    wanted = book.in_use if name is None else name
    return None if wanted is None else book.profiles.get(wanted)


def get_profile(name: str) -> Profile:
    """Return the profile of the name.

    Raises:
        NotFoundError: There is none of that name; the message says which there are.
        ProjectError: The file of profiles cannot be read, or others can read it.
    """
    return _read().get(name)


def save_profile(profile: Profile, *, use: bool) -> None:
    """Keep a profile, in place of one of its name; `use` makes it the one in use.

    Raises:
        ProjectError: The file of profiles cannot be read or written.
    """
    with _changing() as book:
        book.profiles[profile.name] = profile
        if use:
            book.in_use = profile.name


def use_profile(name: str) -> None:
    """Make a profile the one in use.

    Raises:
        NotFoundError: There is none of that name; the message says which there are.
        ProjectError: The file of profiles cannot be read or written.
    """
    with _changing() as book:
        book.in_use = book.get(name).name


def remove_profile(name: str) -> None:
    """Remove a profile and its keys; if it was the one in use, none is.

    Raises:
        NotFoundError: There is none of that name; the message says which there are.
        ProjectError: The file of profiles cannot be read or written.
    """
    with _changing() as book:
        del book.profiles[book.get(name).name]
        if book.in_use == name:
            book.in_use = None


@dataclass(slots=True)
class _Book:
    """What the file holds."""

    in_use: str | None = None
    profiles: dict[str, Profile] = field(default_factory=dict)

    def get(self, name: str) -> Profile:
        if name not in self.profiles:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise NotFoundError(
                f"there is no profile {name!r:.80}; known are: {known}; "
                "bench-kit profile create NAME makes one"
            )
        return self.profiles[name]


def _read() -> _Book:
    path = profiles_path()
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ProjectError(
                    f"{path} holds keys and is open to other users (mode {mode:04o}): "
                    f'run "chmod 600 {path}", and renew the keys if others may have seen them'
                )
            data = file.read()
    except FileNotFoundError:
        return _Book()
    except OSError as error:
        raise ProjectError(f"{path} cannot be read ({error.strerror}): make it readable for you") from error
    try:
        return _decode(json.loads(data))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        # Its cause might show some of what the file holds.
        raise ProjectError(f"{path} is no file of profiles that this benchkit reads: {_MEND}") from None


def _decode(value: Any) -> _Book:
    """Return what the file's JSON says; whatever is not as it should be is some error of Python's."""
    if set(value) != {"format", "in_use", "profiles"} or value["format"] != FILE_FORMAT:
        raise ValueError("other keys, or another format")
    profiles = {name: Profile(name=name, **values) for name, values in value["profiles"].items()}
    texts = (getattr(profile, key.name) for profile in profiles.values() for key in fields(profile))
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError("a value that is no text")
    if value["in_use"] is not None and value["in_use"] not in profiles:
        raise KeyError("the profile in use")
    return _Book(value["in_use"], profiles)


def _encode(book: _Book) -> bytes:
    profiles = {
        name: {key: value for key, value in asdict(profile).items() if key != "name" and value is not None}
        for name, profile in book.profiles.items()
    }
    value = {"format": FILE_FORMAT, "in_use": book.in_use, "profiles": profiles}
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


@contextmanager
def _changing() -> Iterator[_Book]:
    """Give what the file holds, and write it back at the end; others who change it wait."""
    path = profiles_path()
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with os.fdopen(os.open(path.with_suffix(".lock"), flags, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = _read()
            yield book
            _replace(path, _encode(book))
    except OSError as error:
        raise ProjectError(
            f"{path} cannot be written ({error.strerror}): make its folder writable for you, "
            "or name another with XDG_CONFIG_HOME"
        ) from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file that its owner alone can read: whole or not at all."""
    temporary = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        temporary.unlink()  # a killed writer's
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
