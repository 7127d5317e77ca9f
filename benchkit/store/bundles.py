"""Bundles: numbered versions of a folder of files in a store, each there as a whole or not at all.

A bundle's files lie under a folder of its own, as they are, and its record is written last:

    <prefix>files/<folder>/<path>            the files; the folder is `<YYYYMMDD-HHMMSS>-<8 hex digits>`
    <prefix>versions/<number>-<digest>.json  the record, a numbered object

Nothing is ever overwritten, and what a killed upload has left counts for nothing until it is cleaned away.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchkit.errors import (
    CorruptError,
    FormatError,
    NotFoundError,
    ObjectNotFoundError,
    StoreError,
    UsageError,
)
from benchkit.format.digests import digest_file, new_hasher
from benchkit.format.layout import is_object_name, parse_numbered_name
from benchkit.format.record import BundleFile, Record, decode_record, encode_record, is_folder_name
from benchkit.store.base import ObjectInfo, Store
from benchkit.store.clock import read_clock
from benchkit.store.folders import fresh_folder
from benchkit.store.numbered import (
    Numbered,
    list_numbered,
    publish_numbered,
    read_numbered,
    replace_numbered,
)

Progress = Callable[[int], None]

_SENDERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """What an upload left behind, files that no record names: their folder, object names, and bytes.

    Attributes:
        folder: The folder that they have for themselves.
        names: Their object names.
        size: Their bytes.
        modified: When the newest came: seconds since 1970, the store's clock.
    """

    folder: str
    names: tuple[str, ...]
    size: int
    modified: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The bundles of one name.

    Attributes:
        store: Where they are.
        prefix: What their object names begin with, up to and with a slash.
        kind: What a bundle is, as its record and messages say it: `checkpoint`, `code`.
        name: Of what they are versions.
        maker: What puts one there, for messages.
    """

    store: Store
    prefix: str
    kind: str
    name: str
    maker: str

    def versions(self) -> list[Numbered]:
        """Return the bundles that are whole, oldest first; none is an empty list."""
        return list_numbered(self.store, self._versions)

    def find(self, number: int | None = None) -> Numbered:
        """Return the bundle of that number; None is the newest.

        Raises:
            NotFoundError: There is none; the message says which there are.
        """
        bundles = self.versions()
        for bundle in reversed(bundles):
            if number in (None, bundle.number):
                return bundle
        if not bundles:
            raise NotFoundError(
                f"there is no {self.kind} {self.name!r} in {self.store.url}; {self.maker} puts one there"
            )
        known = ", ".join(str(bundle.number) for bundle in bundles)
        raise NotFoundError(
            f"{self.kind} {self.name!r} in {self.store.url} has no version {number}; it has: {known}"
        )

    def read(self, bundle: Numbered) -> Record:
        """Return a bundle's record.

        Raises:
            ObjectNotFoundError: The bundle has been deleted.
            CorruptError: Its bytes are not what was written.
            FormatError: It is of a newer format.
        """
        data = read_numbered(self.store, bundle)
        return decode_record(data, digest=bundle.digest, kind=self.kind, name=self.name)

    def put(
        self, folder: Path, *, details: Mapping[str, Any] | None = None, on_progress: Progress | None = None
    ) -> Numbered:
        """Make a bundle of every file below a folder; see `send` and `publish`."""
        into = new_folder()
        return self.publish(self.send(folder, into=into, on_progress=on_progress), into=into, details=details)

    def send(self, folder: Path, *, into: str, on_progress: Progress | None = None) -> tuple[BundleFile, ...]:
        """Send every file below a folder and return what they are; nobody sees them before `publish`.

        Args:
            folder: Where they are.
            into: The bundle's folder: one that `new_folder` gave, the same for all who send parts of it.
            on_progress: Called with the bytes of each file that has arrived.

        Raises:
            UsageError: Something in the folder cannot be sent.
            StoreError: The store failed, or a file changed while it was sent.
        """
        files = []
        send = partial(_send_file, self.store, folder, f"{self._files}{into}/")
        with ThreadPoolExecutor(_SENDERS, thread_name_prefix="benchkit-bundle") as pool:
            for file in pool.map(send, _list_paths(folder)):
                files.append(file)
                if on_progress:
                    on_progress(file.size)
        return tuple(files)

    def publish(
        self,
        files: Iterable[BundleFile],
        *,
        into: str,
        details: Mapping[str, Any] | None = None,
        instead_of: Numbered | None = None,
    ) -> Numbered:
        """Make the bundle of files that were sent: the next number, seen by everybody from now on.

        Args:
            files: What `send` has returned.
            into: Their folder.
            details: What there is to say of them.
            instead_of: The bundle whose number it gets, and which is removed once this one is whole.

        Raises:
            StoreError: The store failed, or files have vanished from it.
        """
        record = Record(
            kind=self.kind,
            name=self.name,
            folder=into,
            created=int(time.time()),
            files=tuple(sorted(files, key=lambda file: file.path)),
            details=details or {},
        )
        prefix = f"{self._files}{into}/"
        present = {info.name: info.size for info in self.store.list(prefix)}
        missing = [file.path for file in record.files if present.get(prefix + file.path) != file.size]
        if missing:
            raise StoreError(
                f"{len(missing)} files of {self.kind} {self.name!r}, {missing[0]!r} for one, vanished from "
                f"{self.store.url} while it was sent: send it again"
            )
        if instead_of is None:
            return publish_numbered(self.store, self._versions, encode_record(record))[0]
        replaced = self._file_names(instead_of)
        bundle = replace_numbered(self.store, instead_of, encode_record(record))
        for name in replaced:
            self.store.delete(name)
        return bundle

    def fetch(self, bundle: Numbered, target: Path, *, on_progress: Progress | None = None) -> Record:
        """Make a folder of a bundle's files, each verified: whole, or not at all; return the record.

        Args:
            bundle: Which one.
            target: The folder; there is none yet, or it is empty.
            on_progress: Called with bytes as they arrive.

        Raises:
            UsageError: There is something at the target.
            CorruptError: A file's bytes are not what was written.
            StoreError: The store or the disk failed.
        """
        record = self.read(bundle)
        try:
            with fresh_folder(target) as fresh:
                for file in record.files:
                    path = fresh / file.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("xb") as output:
                        for block in self.stream(record, file):
                            output.write(block)
                            if on_progress:
                                on_progress(len(block))
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error}") from error
        return record

    def stream(self, record: Record, file: BundleFile) -> Iterator[bytes]:
        """Yield one file's bytes; more, fewer or other ones end in an error.

        Raises:
            CorruptError: They are not what was written, which shows at their end.
        """
        hasher, size = new_hasher(), 0
        what = f"{file.path!r} of {self.kind} {self.name!r} in {self.store.url}"
        try:
            for block in self.store.stream(f"{self._files}{record.folder}/{file.path}"):
                size += len(block)
                if size > file.size:
                    break
                hasher.update(block)
                yield block
        except ObjectNotFoundError as error:
            raise CorruptError(f"{what} is missing: take another version") from error
        if size != file.size or hasher.hexdigest() != file.digest:
            raise CorruptError(
                f"{what} is corrupt: its bytes are not those that were sent; take another version"
            )

    def remove(self, bundle: Numbered) -> None:
        """Remove a bundle: its record first, so that nobody sees half of it."""
        for name in (bundle.object_name, *self._file_names(bundle)):
            self.store.delete(name)

    def abandoned(self, *, older_than_seconds: float) -> list[Abandoned]:
        """Return what uploads have left that were cut off; the newest file of each is older than this.

        Raises:
            CorruptError, FormatError: A record cannot be read, so that it is not known which files it has.
        """
        # Files are listed before records, so that none is taken whose record came in between.
        groups: dict[str, list[ObjectInfo]] = {}
        for info in self.store.list(self._files):
            folder = info.name.removeprefix(self._files).split("/")[0]
            if is_folder_name(folder):
                groups.setdefault(folder, []).append(info)
        for folder in self._recorded_folders():
            groups.pop(folder, None)
        if not groups:
            return []
        oldest = read_clock(self.store, f"{self._files}{new_folder()}/clock") - older_than_seconds
        found = [
            Abandoned(
                folder=folder,
                names=tuple(info.name for info in infos),
                size=sum(info.size for info in infos),
                modified=max(info.modified for info in infos),
            )
            for folder, infos in groups.items()
        ]
        return [left for left in found if left.modified <= oldest]

    @property
    def _files(self) -> str:
        return f"{self.prefix}files/"

    @property
    def _versions(self) -> str:
        return f"{self.prefix}versions/"

    def _file_names(self, bundle: Numbered) -> list[str]:
        """Return the object names of a bundle's files, as far as they can be told."""
        try:
            prefix = f"{self._files}{self.read(bundle).folder}/"
        except (CorruptError, FormatError, ObjectNotFoundError):
            return []  # `abandoned` finds them when they are old
        return [info.name for info in self.store.list(prefix)]

    def _recorded_folders(self) -> Iterator[str]:
        """Yield the folders that records name, those also that have lost their number."""
        for info in self.store.list(self._versions):
            if parsed := parse_numbered_name(self._versions, info.name):
                number, digest = parsed
                bundle = Numbered(prefix=self._versions, number=number, digest=digest, modified=info.modified)
                try:
                    yield self.read(bundle).folder
                except ObjectNotFoundError:
                    continue  # deleted since it was listed


def new_folder() -> str:
    """Return a name for the files of a bundle that no other has."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def list_names(store: Store, prefix: str) -> list[str]:
    """Return the names below a prefix that have a whole bundle, in order."""
    found = set()
    for info in store.list(prefix):
        name, _, rest = info.name.removeprefix(prefix).partition("/")
        if parse_numbered_name("versions/", rest):
            found.add(name)
    return sorted(found)


def _list_paths(folder: Path) -> list[str]:
    """Return the POSIX paths of the files below a folder, in order."""
    paths = []
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            raise UsageError(f"{path} is no plain file: remove it, or put the file itself there")
        if not is_object_name(relative):
            raise UsageError(f"{path} has a backslash or a control character in its name: rename it")
        paths.append(relative)
    return sorted(paths)


def _send_file(store: Store, folder: Path, prefix: str, path: str) -> BundleFile:
    source = folder / path
    with source.open("rb") as file:
        before, digest = os.fstat(file.fileno()), digest_file(file)
        store.write(prefix + path, source)
        after = source.stat()
    if (after.st_ino, after.st_size, after.st_mtime_ns) != (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    ):
        raise StoreError(f"{source} changed while it was sent: send it again")
    return BundleFile(path=path, size=before.st_size, digest=digest)
