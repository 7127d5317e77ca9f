"""A new project: the template's files and a `benchkit.toml`, in a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from benchkit.errors import ProjectError, UsageError
from benchkit.project.samples import SAMPLES_ARCHIVE, unpack_samples
from benchkit.settings import SETTINGS_NAME, S3Settings
from benchkit.store.folders import scratch_folder
from benchkit.store.urls import check_url

DEFAULT_REMOTE = "store"
TEMPLATE_FOLDER = "project_template"

# What a project is made of, beside its benchkit.toml; anything else in the template's folder is left there.
TEMPLATE_FILES = (
    ".benchkitignore",
    ".gitignore",
    "Datasets/ProjectDatasets.py",
    "Datasets/digits.LICENSE.txt",
    SAMPLES_ARCHIVE,
    "Models/ProjectModels.py",
    "TrainScript.py",
    "dependencies.txt",
    "manage.py",
)

_PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SETTINGS_TEXT = """\
# This file makes the folder a Bench-Kit project.

[project]
id = {name}
# Where `python manage.py migrate-data --up` sends datasets: a folder, or a URL such as "file:///data/store".
remote = {remote}

# Chunks that training reads are kept in one folder of the machine, up to a limit. These are the defaults.
# [cache]
# dir = "~/.cache/benchkit"
# limit_bytes = 68_719_476_736

# How a remote in an S3-compatible service is spoken to. Keys are no part of a project: "bench-kit configure".
{s3}"""
_S3_EXAMPLES = {
    "endpoint_url": "https://s3.example.com",
    "region": "eu-central-1",
    "profile": "work",
}


def start_project(
    parent: Path,
    name: str,
    *,
    remote: str | None = None,
    s3: S3Settings | None = None,
    template: Path | None = None,
) -> Path:
    """Make the project `parent/name`: a copy of the template that runs untouched.

    Args:
        parent: An existing folder.
        name: The project's name: its folder and its id.
        remote: Where its datasets go, a URL or a path; a relative path is taken from `parent`. None is the
            folder `store` in the project.
        s3: Endpoint, region and profile for a remote of `s3://`; the rest is left to be written by hand.
        template: The template's folder; None is the one that belongs to this package.

    Returns:
        The project's folder, absolute.

    Raises:
        UsageError: The name or the remote cannot be used, or they do not go with `s3`.
        ProjectError: There is something in the way, or the folder cannot be written; nothing is left behind.
    """
    target = Path(os.path.abspath(parent)) / check_project_name(name)
    if s3 and not (remote or "").startswith("s3://"):
        raise UsageError("endpoint, region and profile go with a remote of s3://bucket/prefix: add --remote")
    settings = settings_text(name, remote=absolute_remote(remote, parent=target.parent), s3=s3)
    source = template or find_template()
    try:
        if not _is_free(target):
            raise ProjectError(
                f"{target} exists and is not an empty folder: choose another name, or move it away"
            )
        with scratch_folder(target.parent, f".{name}-") as scratch:
            draft = scratch / name
            for file in TEMPLATE_FILES:
                (draft / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, draft / file)
            (draft / SETTINGS_NAME).write_text(settings, encoding="utf-8")
            unpack_samples(draft)
            draft.rename(target)
    except OSError as error:
        raise ProjectError(f"cannot make the project {target}: {error}") from error
    return target


def managed_project(folder: Path) -> Path:
    """Return the project that a `manage.py` in the folder works on, its sample data unpacked.

    That is the folder itself, or, at the root of a working copy of this repository, the template beside it.

    Raises:
        ProjectError: Neither is a project.
    """
    for project in (folder, folder / TEMPLATE_FOLDER):
        if (project / SETTINGS_NAME).is_file():
            unpack_samples(project)
            return project
    raise ProjectError(
        f"{folder / SETTINGS_NAME} is missing, so this is no project: "
        'make one with "bench-kit startproject NAME"'
    )


def check_project_name(name: str) -> str:
    """Return the name if a project can have it, else raise `UsageError` saying what a name is."""
    if not _PROJECT_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no project name: 1 to 64 of A-Z a-z 0-9 _ -, beginning with a letter or digit"
        )
    return name


def absolute_remote(remote: str | None, *, parent: Path) -> str:
    """Return a remote as `benchkit.toml` holds it: a URL as it is, a path made absolute."""
    if remote is None:
        return DEFAULT_REMOTE
    if not remote or not remote.isprintable():
        raise UsageError(f"{remote!r} is no remote: give a folder, or a URL such as file:///data/store")
    check_url(remote)
    return remote if "://" in remote else os.path.abspath(parent / os.path.expanduser(remote))


def settings_text(name: str, *, remote: str, s3: S3Settings | None = None) -> str:
    """Return the text of a new project's `benchkit.toml`.

    Args:
        name: The project's id, printable.
        remote: A URL or a path, printable. The strings of JSON are strings of TOML too.
        s3: Whose endpoint, region and profile are written; what is None is shown as a comment.
    """
    given: dict[str, str | None] = {key: getattr(s3, key, None) for key in _S3_EXAMPLES}
    lines = ["[s3]" if any(given.values()) else "# [s3]"]
    for key, example in _S3_EXAMPLES.items():
        value = given[key]
        lines.append(f"{key} = {_quote(value)}" if value else f"# {key} = {_quote(example)}")
    return _SETTINGS_TEXT.format(
        name=_quote(name), remote=_quote(remote), s3="".join(f"{line}\n" for line in lines)
    )


def find_template() -> Path:
    """Return the template's folder: inside an installed package, or beside it in a working copy."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_template", package.parent / TEMPLATE_FOLDER):
        if (folder / "manage.py").is_file():
            return folder
    raise ProjectError(f"the project template is missing from {package}: install benchkit again")


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _is_free(target: Path) -> bool:
    if not os.path.lexists(target):
        return True
    return target.is_dir() and not target.is_symlink() and not any(target.iterdir())
