"""The settings: `benchkit.toml` of the project and the environment, read here and nowhere else."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from benchkit.errors import ProjectError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_NAME = "benchkit.toml"
STAGING_NAME = "ProjectDatasets"
JOB_VARIABLE = "BENCHKIT_CLOUD"
JOB_ROOT = Path("/opt/ml")
RUN_FOLDER_VARIABLE = "BENCHKIT_RUN_DIR"
JOB_FOLDER_VARIABLES = {
    "dataset": "MDI_DATASET_DIR",
    "model": "MDI_MODEL_DIR",
    "checkpoints": "MDI_CHECKPOINT_DIR",
    "artifacts": "MDI_ARTIFACT_DIR",
}
DEFAULT_CACHE_LIMIT_BYTES = 64 << 30
_MAX_DIGITS = 18
_URL_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_REGION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_START = 'run "bench-kit startproject NAME" to make a project, or set BENCHKIT_PROJECT to one'
_MEND = '"bench-kit startproject NAME" makes a project with a whole one to compare'
_KEYS: dict[str, dict[str, type]] = {
    "project": {"id": str, "remote": str},
    "cache": {"dir": str, "limit_bytes": int},
    "s3": {
        "endpoint_url": str,
        "region": str,
        "profile": str,
        "anonymous": bool,
        "addressing": str,
        "checksums": str,
        "server_side_encryption": str,
        "kms_key_id": str,
        "attempts": int,
        "stall_timeout_seconds": int,
    },
}

_KINDS = {str: "text in quotes", int: "a whole number", bool: "true or false"}

Addressing = Literal["auto", "path", "virtual"]
Checksums = Literal["when_supported", "when_required"]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How an `s3://` remote is spoken to; none of it is secret.

    Attributes:
        endpoint_url: The service; None is AWS, or what boto3 finds in the environment.
        region: Its region; None is what boto3 finds.
        profile: Whose credentials are used: a profile of `bench-kit configure`, else one of the AWS files.
            None is the environment's, else the profile in use, else what boto3 finds.
        anonymous: Read without credentials.
        addressing: Whether the bucket stands in the path or in the host name.
        checksums: `when_required` for older services that know no checksums but Content-MD5.
        server_side_encryption: What to ask of the service for new objects: `AES256`, `aws:kms`, ….
        kms_key_id: With which key.
        attempts: How often a request is made before it has failed.
        stall_timeout_seconds: After how long without progress a request is given up and made again.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    addressing: Addressing = "auto"
    checksums: Checksums = "when_supported"
    server_side_encryption: str | None = None
    kms_key_id: str | None = None
    attempts: int = 5
    stall_timeout_seconds: float = 30

    def __post_init__(self) -> None:
        for key, choices in (("addressing", Addressing), ("checksums", Checksums)):
            if getattr(self, key) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise UsageError(f"{key} is {getattr(self, key)!r:.60}; it is one of: {known}")
        for key in ("profile", "server_side_encryption", "kms_key_id"):
            text = getattr(self, key)
            if text is not None and not (text and text.isprintable()):
                raise UsageError(f"{key} is {text!r:.60}; leave it out, or write printable characters")
        if self.endpoint_url is not None:
            check_endpoint(self.endpoint_url)
        if self.region is not None:
            check_region(self.region)
        if self.kms_key_id and not (self.server_side_encryption or "").startswith("aws:kms"):
            raise UsageError('kms_key_id goes with server_side_encryption = "aws:kms"')
        if not 1 <= self.attempts <= 100:
            raise UsageError(f"attempts is {self.attempts}; it is 1 to 100")
        if not 0 < self.stall_timeout_seconds <= 3600:
            raise UsageError(f"stall_timeout_seconds is {self.stall_timeout_seconds}; it is 1 to 3600")
        if self.anonymous and self.profile:
            raise UsageError(f"anonymous reading takes no profile, and {self.profile!r:.60} is one: drop one")


def check_endpoint(url: str) -> str:
    """Return the URL of a service if it is one, without a user or a password, else raise `UsageError`."""
    try:
        parts = urlsplit(url)
        plain = url.isprintable() and not set(url) & set(" ?#")
        whole = plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # such as a port that is none
        whole = False
    if not whole:
        raise UsageError(
            "an endpoint is the URL of a service, as https://host, https://host:port or https://host/path"
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError("an endpoint must not carry a user or a password: use bench-kit configure")
    return url


def check_region(region: str) -> str:
    """Return the name of a region if it can be one, else raise `UsageError`."""
    if not _REGION.fullmatch(region):
        raise UsageError(f"{region!r:.80} is no region: 1 to 63 of A-Z a-z 0-9 -, as in eu-central-1")
    return region


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a project is set to.

    Attributes:
        project: The project's folder.
        project_id: Its name.
        remote: URL or path of the remote store, as written; a relative path begins at the project's folder.
        cache_dir: Folder of the machine's chunk cache.
        cache_limit_bytes: The most bytes it takes.
        s3: How an `s3://` remote is spoken to.
    """

    project: Path
    project_id: str
    remote: str
    cache_dir: Path
    cache_limit_bytes: int
    s3: S3Settings = field(default_factory=S3Settings)

    def __post_init__(self) -> None:
        if self.cache_limit_bytes < 1:
            raise ProjectError(
                f"the cache limit is {self.cache_limit_bytes} bytes: set limit_bytes under [cache] of "
                f"{SETTINGS_NAME} to at least 1, or BENCHKIT_CACHE_LIMIT_BYTES"
            )

    @property
    def staging(self) -> Path:
        """The folder that packing writes to and uploading reads from."""
        return self.project / STAGING_NAME

    @property
    def remote_url(self) -> str:
        """The URL of the remote store; a path becomes an absolute `file://` URL."""
        if "://" in self.remote:
            return self.remote
        return (self.project / _expand_home(check_path(self.remote), what="the remote")).absolute().as_uri()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFolders:
    """The folders of a job that runs from a package, as whoever launched it gives them.

    Each is what its variable names, else its usual place below `/opt/ml`.

    Attributes:
        dataset: What it reads, `MDI_DATASET_DIR`; where that is a store, it is the project's remote.
        model: For the trained model, `MDI_MODEL_DIR`.
        checkpoints: For checkpoints, `MDI_CHECKPOINT_DIR`.
        artifacts: For whatever else is to be kept, `MDI_ARTIFACT_DIR`.
    """

    dataset: Path
    model: Path
    checkpoints: Path
    artifacts: Path

    @classmethod
    def below(cls, root: Path) -> JobFolders:
        """Return the folders at their usual places below a root."""
        return cls(
            dataset=root / "input" / "data" / "training",
            model=root / "model",
            checkpoints=root / "checkpoints",
            artifacts=root / "output" / "data",
        )

    def variables(self) -> dict[str, str]:
        """Return the environment that tells a job of these folders."""
        return {JOB_VARIABLE: "true"} | {
            name: str(getattr(self, folder)) for folder, name in JOB_FOLDER_VARIABLES.items()
        }


def read_job_folders() -> JobFolders | None:
    """Return the folders of the job that this process is of, where `BENCHKIT_CLOUD` is `true`; else None."""
    if os.environ.get(JOB_VARIABLE, "").lower() != "true":
        return None
    usual = JobFolders.below(JOB_ROOT)
    named = {folder: os.environ.get(name) for folder, name in JOB_FOLDER_VARIABLES.items()}
    return replace(usual, **{folder: Path(path) for folder, path in named.items() if path})


def read_run_folder() -> Path | None:
    """Return the folder of the run that this process is launched as (BENCHKIT_RUN_DIR), or None."""
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    return Path(folder) if folder else None


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
    # Without `..`, which would make parents of children.
    begin = Path(os.path.abspath(start or current_folder()))
    for folder in (begin, *begin.parents):
        if (folder / SETTINGS_NAME).is_file():
            return folder
    raise ProjectError(f"there is no {SETTINGS_NAME} in {begin} or above it; {_START}")


def current_folder() -> Path:
    """Return the folder that this process is in.

    Raises:
        ProjectError: It has been removed.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise ProjectError("the current folder has been removed: change to one that is there") from error


def check_path(text: str) -> str:
    """Return the path of a store, unless it is a URL with a slip of the pen.

    Raises:
        UsageError: It begins as a URL does.
    """
    if _URL_START.match(text):
        raise UsageError(f"{text!r} is no URL, as s3://bucket/prefix is; a path like it begins with ./")
    return text


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
        remote=os.environ.get("BENCHKIT_REMOTE") or _job_remote() or values["remote"],
        cache_dir=project / _expand_home(folder or _default_cache_dir(), what="the cache folder"),
        cache_limit_bytes=cache.get("limit_bytes", DEFAULT_CACHE_LIMIT_BYTES) if limit is None else limit,
        s3=_read_s3(tables.get("s3", {}), path),
    )


def config_dir() -> Path:
    """Return the folder of the user's own configuration: `$XDG_CONFIG_HOME/benchkit`."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = os.path.join(base if os.path.isabs(base) else "~/.config", "benchkit")
    return _expand_home(folder, what="the configuration folder")


def environment_has_credentials() -> bool:
    """Return whether the environment itself says with which AWS credentials to work."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
    return any(os.environ.get(name) for name in names)


def environment_values(is_wanted: Callable[[str], bool]) -> frozenset[str]:
    """Return the values of the environment's variables whose names are wanted."""
    return frozenset(value for name, value in os.environ.items() if value and is_wanted(name))


def read_world() -> tuple[int, int] | None:
    """Return rank and number of processes as launchers set them (RANK, WORLD_SIZE), or None."""
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), int(world)) if rank.isdecimal() and world.isdecimal() else None


def read_local_world() -> int:
    """Return the number of training processes on this machine (LOCAL_WORLD_SIZE), 1 where it is not set."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(local) if local.isdecimal() and int(local) > 0 else 1


def started_by_torchrun() -> bool:
    """Return whether this is a rank whose parent is torchrun, on its own or in Accelerate's launcher."""
    return bool(os.environ.get("TORCHELASTIC_RUN_ID"))


def use_project(project: Path) -> None:
    """Make the project the current one, for this process and those it starts."""
    os.environ["BENCHKIT_PROJECT"] = str(project)


@contextmanager
def force_weights_only() -> Iterator[None]:
    """Have every `torch.load` meanwhile be one with `weights_only=True`, whatever its caller says."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def set_variables(names: Iterable[str]) -> list[str]:
    """Return which of these variables the environment has."""
    return [name for name in names if name in os.environ]


def hides_gpus() -> bool:
    """Return whether the environment says that no GPU is to be used."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


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
            known = ", ".join(f"[{name}]" for name in _KEYS)
            raise ProjectError(f"{path} has the unknown part {table!r}; it takes {known}; {_MEND}")
        for key, value in values.items():
            kind = _KEYS[table].get(key)
            if kind is None:
                known = ", ".join(_KEYS[table])
                raise ProjectError(
                    f"{path} has the unknown key {key!r} in [{table}]; it takes: {known}; {_MEND}"
                )
            if type(value) is not kind:
                raise ProjectError(
                    f"{path}: {key!r} in [{table}] is {value!r:.80}, not {_KINDS[kind]}; {_MEND}"
                )
    return tables


def _read_s3(values: dict[str, Any], path: Path) -> S3Settings:
    try:
        settings = S3Settings(**values)
    except UsageError as error:
        raise ProjectError(f"{path}: in [s3], {error}; {_MEND}") from error
    profile = os.environ.get("BENCHKIT_PROFILE")
    try:
        return replace(settings, profile=profile, anonymous=False) if profile else settings
    except UsageError as error:
        raise ProjectError(f"BENCHKIT_PROFILE cannot be used: {error}") from error


def _job_remote() -> str | None:
    """Return the dataset folder of this process's job where that is a store."""
    folders = read_job_folders()
    return str(folders.dataset) if folders and (folders.dataset / "benchkit.json").is_file() else None


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
