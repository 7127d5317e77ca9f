"""The versions of a project's code in its remote: listed, packed and published, fetched, removed."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchkit import __version__
from benchkit.data.catalogue import find_version, open_catalogue
from benchkit.errors import (
    CorruptError,
    NotFoundError,
    ObjectNotFoundError,
    ProjectError,
    StoreError,
    UsageError,
)
from benchkit.format import layout
from benchkit.format.archive import MAX_ARCHIVE_BYTES, Archive, ArchiveFile, open_archive, write_archive
from benchkit.project.code_version import (
    ARCHIVE_NAME,
    KIND,
    Changes,
    CodeVersion,
    MadeWith,
    UsedDataset,
    compare_files,
    decode_version,
    encode_details,
)
from benchkit.project.source_files import SourceFiles, find_source_files, ignored_by_settings
from benchkit.project.unpacking import SCRATCH_FOLDER
from benchkit.settings import SETTINGS_NAME, Settings
from benchkit.store.base import Store
from benchkit.store.bundles import Shelf, new_folder
from benchkit.store.folders import scratch_folder
from benchkit.store.urls import open_remote
from benchkit.train.revision import describe_code


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePacked:
    """A project's code in one archive, not published yet.

    Attributes:
        folder: The folder that holds the archive alone.
        sources: What was packed, and what was left out.
        files: What the archive holds.
    """

    folder: Path
    sources: SourceFiles
    files: tuple[ArchiveFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeReport:
    """What came of migrating a project's code.

    Attributes:
        version: The version that holds it.
        new: Whether it was made now.
        replaced: The version whose number it took.
        changes: How its files differ from the one that it replaced or follows; empty for the first.
    """

    version: CodeVersion
    new: bool
    replaced: CodeVersion | None = None
    changes: Changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What publishing would do: nothing, since `same` holds these files, or make the version `number`."""

    number: int
    same: CodeVersion | None
    replaces: CodeVersion | None
    before: CodeVersion | None


@dataclass(frozen=True, slots=True)
class CodeShelf:
    """The versions of one project's code.

    Attributes:
        settings: The project's.
        store: Its remote.
    """

    settings: Settings
    store: Store

    @classmethod
    def of(cls, settings: Settings) -> CodeShelf:
        """Return those of a project, in its remote.

        Raises:
            ProjectError: Its id cannot name them.
        """
        if not layout.is_dataset_name(settings.project_id):
            raise ProjectError(
                f"{settings.project / SETTINGS_NAME}: the project's id names its code in the remote, and "
                f"{settings.project_id!r:.120} cannot: write 1 to 100 of A-Z a-z 0-9 . _ -, beginning with a "
                "letter or digit"
            )
        return cls(settings, open_remote(settings))

    @property
    def shelf(self) -> Shelf:
        """The bundles."""
        return _open_shelf(self.store, self.settings.project_id)

    def versions(self) -> list[CodeVersion]:
        """Return the versions, oldest first.

        Raises:
            CorruptError, FormatError: A record cannot be read.
        """
        open_catalogue(self.store)
        found = []
        for bundle in self.shelf.versions():
            with suppress(ObjectNotFoundError):  # it has just been deleted
                found.append(decode_version(bundle, self.shelf.read(bundle)))
        return found

    def find(self, number: int) -> CodeVersion:
        """Return a version.

        Raises:
            NotFoundError: There is none of that number.
        """
        open_catalogue(self.store)
        bundle = self.shelf.find(number)
        return decode_version(bundle, self.shelf.read(bundle))

    def plan(self, files: tuple[ArchiveFile, ...], number: int | None, *, force: bool) -> Plan:
        """Return what publishing these files would do.

        Args:
            files: They.
            number: The number that is wanted; None is the next.
            force: Replace the version of that number.

        Raises:
            UsageError: The number is taken, or neither there nor the next.
        """
        versions = self.versions()
        newest = versions[-1] if versions else None
        following = newest.number + 1 if newest else 1
        taken = next((version for version in versions if version.number == number), None)
        if number is None or number == following:
            same = newest if newest and newest.files == files else None
            return Plan(number=following, same=same, replaces=None, before=newest)
        if taken is None:
            raise UsageError(f"version {number} would leave a gap: the next is {following}")
        if taken.files == files:
            return Plan(number=number, same=taken, replaces=None, before=taken)
        if not force:
            raise UsageError(
                f"version {number} is there already, with other files: leave the number out to make version "
                f"{following}, see what differs with: bench-kit diff-vs {number}; or replace it with --force"
            )
        return Plan(number=number, same=None, replaces=taken, before=taken)

    def publish(self, packed: CodePacked, plan: Plan, made_with: MadeWith) -> CodeReport:
        """Publish packed code as a version: whole, or not at all.

        Raises:
            StoreError: The remote failed; no version has come or gone.
        """
        changes = compare_files(plan.before.files, packed.files) if plan.before else {}
        if plan.same:
            return CodeReport(version=plan.same, new=False, changes={})
        open_catalogue(self.store, create=True)
        into = new_folder()
        bundle = self.shelf.publish(
            self.shelf.send(packed.folder, into=into),
            into=into,
            details=encode_details(made_with, packed.files),
            instead_of=plan.replaces.bundle if plan.replaces else None,
        )
        version = decode_version(bundle, self.shelf.read(bundle))
        return CodeReport(version=version, new=True, replaced=plan.replaces, changes=changes)

    @contextmanager
    def opened(self, version: CodeVersion) -> Iterator[Archive]:
        """Fetch a version's archive and open it; it holds the files that the record says, and no others.

        Raises:
            CorruptError: It is not what was sent, or not what the record says.
            StoreError: The store or the disk failed.
        """
        what = f"version {version.number} of the code {self.settings.project_id!r}"
        if version.archive.size > MAX_ARCHIVE_BYTES:
            raise CorruptError(f"{what} is refused: its archive has {version.archive.size:,} bytes")
        where = f"{what} cannot be kept in {tempfile.gettempdir()}"
        with ExitStack() as stack:
            with _translated(where):
                file = stack.enter_context(tempfile.TemporaryFile(prefix="benchkit-code-"))
                for block in self.shelf.stream(version.record, version.archive):
                    file.write(block)
                file.flush()
            with open_archive(file, name=what, max_bytes=version.size) as archive:
                listed = [(file.path, file.size, file.executable) for file in version.files]
                if [(file.path, file.size, file.executable) for file in archive.files] != listed:
                    raise CorruptError(
                        f"{what} is corrupt: its archive has not the files that its record says"
                    )
                yield archive


def list_code_shelves(store: Store) -> list[Shelf]:
    """Return the shelves of all projects that have anything there, also of uploads that were cut off."""
    names = {info.name.split("/")[1] for info in store.list(layout.CODE)}
    return [_open_shelf(store, name) for name in sorted(names) if layout.is_dataset_name(name)]


@contextmanager
def pack_code(settings: Settings) -> Iterator[CodePacked]:
    """Pack a project's code into one archive, in a folder of the project's that goes at the end.

    Raises:
        ProjectError: The project cannot be read.
        UsageError: Something in it cannot be packed.
        StoreError: The disk is full, or a file changed meanwhile.
    """
    sources = find_source_files(settings.project, also_ignore=ignored_by_settings(settings))
    with ExitStack() as stack:
        with _translated(f"the code of {settings.project} cannot be packed"):
            scratch = settings.project / SCRATCH_FOLDER
            scratch.mkdir(exist_ok=True)
            folder = stack.enter_context(scratch_folder(scratch, "code-"))
            with open(folder / ARCHIVE_NAME, "xb") as output:
                files = write_archive(output, settings.project, sources.paths)
        yield CodePacked(folder=folder, sources=sources, files=files)


@contextmanager
def open_packed(packed: CodePacked) -> Iterator[Archive]:
    """Open the archive of code that is not published yet."""
    with open(packed.folder / ARCHIVE_NAME, "rb") as file, open_archive(file, name=ARCHIVE_NAME) as archive:
        yield archive


def describe_making(settings: Settings, store: Store, datasets: Sequence[str] | None) -> MadeWith:
    """Return what code is packed with.

    Args:
        settings: The project's.
        store: Its remote.
        datasets: The names of those that it uses; None where they are not known.
    """
    git = describe_code(settings.project)
    return MadeWith(
        benchkit=__version__,
        python=platform.python_version(),
        torch=_torch_version(),
        revision=git.get("revision"),
        dirty=git.get("dirty"),
        datasets=None if datasets is None else tuple(_used_dataset(store, name) for name in datasets),
    )


def _open_shelf(store: Store, project_id: str) -> Shelf:
    prefix = f"{layout.CODE}{project_id}/"
    return Shelf(
        store=store, prefix=prefix, kind=KIND, name=project_id, maker="python manage.py migrate-code"
    )


def _used_dataset(store: Store, name: str) -> UsedDataset:
    try:
        version = find_version(store, layout.check_dataset_name(name))
    except (NotFoundError, UsageError):
        return UsedDataset(name=name, version=None, manifest=None)
    return UsedDataset(name=name, version=version.number, manifest=version.digest)


def _torch_version() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the operating system's errors into the store's."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{what}: {error}") from error
