"""The settings: `benchkit.toml` of the project and the environment, read here and nowhere else."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit.errors import ProjectError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_NAME = "benchkit.toml"
STAGING_NAME = "ProjectDatasets"
DEFAULT_CACHE_LIMIT_BYTES = 64 << 30
_MAX_DIGITS = 18
_START = 'run "bench-kit startproject NAME" to make a project, or set BENCHKIT_PROJECT to one'
_MEND = '"bench-kit startproject NAME" makes a project with a whole one to compare'
_KEYS: dict[str, dict[str, type]] = {
    "project": {"id": str, "remote": str},
    "cache": {"dir": str, "limit_bytes": int},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a project is set to.

    Attributes:
        project: The project's folder.
        project_id: Its name.
        remote: URL or path of the remote store, as written; a relative path begins at the project's folder.
        cache_dir: Folder of the machine's chunk cache.
        cache_limit_bytes: The most bytes it takes.
    """

    project: Path
    project_id: str
    remote: str
    cache_dir: Path
    cache_limit_bytes: int

    def __post_init__(self) -> None:
        if self.cache_limit_bytes < 1:
            raise ProjectError(f"the cache limit is {self.cache_limit_bytes} bytes; set at least 1")

    @property
    def staging(self) -> Path:
        """The folder that packing writes to and uploading reads from."""
        return self.project / STAGING_NAME

    @property
    def remote_url(self) -> str:
        """The URL of the remote store; a path becomes an absolute `file://` URL."""
        if "://" in self.remote:
            return self.remote
        return (self.project / _expand_home(self.remote, what="the remote")).absolute().as_uri()


def find_project(start: Path | None = None) -> Path:
    """Return the project's folder: BENCHKIT_PROJECT, else the nearest with a `benchkit.toml` upward.

    Args:
        start: Where to begin; None is the current folder.

    Raises:
        ProjectError: There is none.
    """
    named = os.environ.get("BENCHKIT_PROJECT")
    if named:
        project = Path(named).expanduser().absolute()
        if not (project / SETTINGS_NAME).is_file():
            raise ProjectError(
                f"BENCHKIT_PROJECT names {project}, where there is no {SETTINGS_NAME}; {_START}"
            )
        return project
    begin = Path(os.path.abspath(start or Path.cwd()))  # without `..`, which would make parents of children
    for folder in (begin, *begin.parents):
        if (folder / SETTINGS_NAME).is_file():
            return folder
    raise ProjectError(f"there is no {SETTINGS_NAME} in {begin} or above it; {_START}")


def load_settings(project: Path | None = None) -> Settings:
    """Return the settings of a project (None: the one `find_project` finds); the environment comes first.

    Raises:
        ProjectError: There is no project, or its `benchkit.toml` cannot be used; the message names the key.
    """
    project = (project or find_project()).absolute()
    path = project / SETTINGS_NAME
    tables = _read_tables(path)
    values = tables.get("project", {})
    for key in _KEYS["project"]:
        if not values.get(key):
            raise ProjectError(
                f"{path} lacks the key {key!r} in [project], which a new project has; {_START}"
            )
    cache = tables.get("cache", {})
    folder = os.environ.get("BENCHKIT_CACHE_DIR") or cache.get("dir")
    limit = _limit_from_environment()
    return Settings(
        project=project,
        project_id=values["id"],
        remote=os.environ.get("BENCHKIT_REMOTE") or values["remote"],
        cache_dir=project / _expand_home(folder or _default_cache_dir(), what="the cache folder"),
        cache_limit_bytes=cache.get("limit_bytes", DEFAULT_CACHE_LIMIT_BYTES) if limit is None else limit,
    )


def read_world() -> tuple[int, int] | None:
    """Return rank and number of processes as launchers set them (RANK, WORLD_SIZE), or None."""
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), int(world)) if rank.isdecimal() and world.isdecimal() else None


def read_local_world() -> int:
    """Return the number of training processes on this machine (LOCAL_WORLD_SIZE), 1 where it is not set."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(local) if local.isdecimal() and int(local) > 0 else 1


def use_project(project: Path) -> None:
    """Make the project the current one, for this process and those it starts."""
    os.environ["BENCHKIT_PROJECT"] = str(project)


def child_environment(variables: dict[str, str], *, defaults: dict[str, str]) -> dict[str, str]:
    """Return this process's environment for a child: with these variables, and defaults where none is set."""
    return defaults | dict(os.environ) | variables


def _read_tables(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProjectError(f"{path} is missing; {_START}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path} is no TOML: {error}; {_MEND}") from error
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}") from error
    for table, values in tables.items():
        if table not in _KEYS or not isinstance(values, dict):
            raise ProjectError(f"{path} has the unknown part {table!r}; it takes [project], [cache]; {_MEND}")
        for key, value in values.items():
            kind = _KEYS[table].get(key)
            if kind is None:
                known = ", ".join(_KEYS[table])
                raise ProjectError(
                    f"{path} has the unknown key {key!r} in [{table}]; it takes: {known}; {_MEND}"
                )
            if type(value) is not kind:
                raise ProjectError(
                    f"{path}: {key!r} in [{table}] is {value!r:.80}, not a {kind.__name__}; {_MEND}"
                )
    return tables


def _limit_from_environment() -> int | None:
    text = os.environ.get("BENCHKIT_CACHE_LIMIT_BYTES")
    if not text:
        return None
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise ProjectError(f"BENCHKIT_CACHE_LIMIT_BYTES is {text!r:.40}, not a number of bytes")
    return int(text)


def _default_cache_dir() -> str:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else "~/.cache", "benchkit")  # its standard: else ignored


def _expand_home(path: str, *, what: str) -> Path:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ProjectError(
            f"{what} is {path!r}, and that home folder is not known: write a whole path in {SETTINGS_NAME}, "
            "or set HOME, BENCHKIT_REMOTE or BENCHKIT_CACHE_DIR"
        )
    return Path(expanded)
