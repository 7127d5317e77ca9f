"""A package: a folder with a training script in one zip, as it is built into an image or run as it is.

The layout: scripts in `scripts/` or at the top, modules in `src/`, a `Dockerfile`, without which one is
generated, and a file of requirements. Only a script has to be there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from benchkit.errors import NotFoundError, StoreError, UsageError
from benchkit.format.archive import Archive, ArchiveFile, open_archive, write_archive
from benchkit.format.digests import digest_file
from benchkit.project.ignore import IGNORE_FILE
from benchkit.project.source_files import SourceFiles, find_source_files, ignored_by_settings
from benchkit.settings import SETTINGS_NAME, load_settings
from benchkit.store.folders import scratch_folder

DEFAULT_PACKAGE = "trainer.zip"
REQUIREMENTS = ("dependencies.txt", "requirements.txt", "pyproject.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a package has that matters for running it.

    Attributes:
        scripts: Its Python scripts, at the top or in `scripts/`.
        has_dockerfile: Whether it says itself how its image is built.
        requirements: The file of what it needs; None where there is none.
    """

    scripts: tuple[str, ...]
    has_dockerfile: bool
    requirements: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package that has been made.

    Attributes:
        path: The zip.
        sources: What was packed, and what was left out.
        files: What it holds.
        layout: What of it matters for running it.
    """

    path: Path
    sources: SourceFiles
    files: tuple[ArchiveFile, ...]
    layout: Layout


@dataclass(frozen=True, slots=True)
class OpenPackage:
    """A package that is read: its archive, layout, and the digest of the whole zip."""

    archive: Archive
    layout: Layout
    digest: str


def create_package(source: Path, output: Path) -> Package:
    """Pack a folder; the zip appears whole, or what was there before stays.

    Raises:
        ProjectError: The folder cannot be read, or holds no code.
        UsageError: It has no script, or something that cannot be packed.
        StoreError: The zip cannot be written.
    """
    source, output = Path(os.path.abspath(source)), Path(os.path.abspath(output))
    if not source.is_dir():
        raise NotFoundError(f"{source} is no folder: name the one that has the training script")
    if output.suffix != ".zip":
        raise UsageError(f"{output.name!r:.100} does not end in .zip, as a package does")
    also = [output.relative_to(source).as_posix()] if output.is_relative_to(source) else []
    if (source / SETTINGS_NAME).is_file():
        also += ignored_by_settings(load_settings(source))
    sources = find_source_files(source, also_ignore=also)
    layout = check_layout(sources.paths, what=str(source))
    try:
        with _appearing(output) as file:
            files = write_archive(file, source, sources.paths)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{output} cannot be made: {error}") from error
    return Package(path=output, sources=sources, files=files, layout=layout)


@contextmanager
def open_package(path: Path) -> Iterator[OpenPackage]:
    """Open a package, which need not be one that this project made.

    Raises:
        NotFoundError: There is no such file.
        CorruptError: It is no zip, or refused.
        UsageError: It holds no script.
    """
    try:
        with open(path, "rb") as file:
            digest = digest_file(file)
            with open_archive(file, name=str(path)) as archive:
                layout = check_layout([entry.path for entry in archive.files], what=str(path))
                yield OpenPackage(archive, layout, digest)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there: make it with: bench-kit trainer create-zip") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder: pack it with: bench-kit trainer create-zip {path}") from error


def check_layout(paths: Iterable[str], *, what: str) -> Layout:
    """Return the layout of the files of a package.

    Raises:
        UsageError: There is no script in it.
    """
    paths = list(paths)
    scripts = tuple(path for path in paths if _is_script(path))
    if not scripts:
        raise UsageError(
            f"{what} has no Python script, neither at the top nor in scripts/: a package is a folder such as "
            f"bench-kit startproject makes (or does {IGNORE_FILE} leave it out?)"
        )
    return Layout(
        scripts=scripts,
        has_dockerfile="Dockerfile" in paths,
        requirements=next((name for name in REQUIREMENTS if name in paths), None),
    )


def _is_script(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder in ("", "scripts") and name.endswith(".py")


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file that gets its name when nothing went wrong, and else goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, f".{path.name}-") as scratch:
        with open(scratch / path.name, "x+b") as file:
            yield file
        os.replace(scratch / path.name, path)
