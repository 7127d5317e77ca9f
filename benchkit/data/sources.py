"""The source files of samples: read once, in bounded memory, and known not to have changed meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice

from benchkit.errors import SampleError
from benchkit.format.index import are_file_names

KEPT_OPEN = 128
"""So many files are held open at once."""
_AHEAD_BYTES = 1 << 20
"""So much of each is asked for at once, so that a disk has many requests to do and nobody waits for each."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that has come there is not waited for


def source_names(indices: Sequence[int], paths: Sequence[Sequence[str]]) -> list[bytes]:
    """Return the base names that samples' files keep in their chunk.

    Args:
        indices: The samples.
        paths: The files of each.

    Raises:
        SampleError: A name cannot be one, on another machine.
    """
    names: list[bytes] = []
    try:
        names.extend(
            path[path.rfind("/") + 1 :].encode("utf-8", "surrogateescape")
            for path in chain.from_iterable(paths)
        )
    except UnicodeEncodeError as error:
        index, path = _find(len(names), indices, paths)
        raise SampleError(f"sample {index}: {path!r} is no path: {error}") from error
    if not are_file_names(names):
        index, path = _find([are_file_names([name]) for name in names].index(False), indices, paths)
        raise SampleError(
            f"sample {index}: {path!r} names no file that can be stored: its last part is empty or has a "
            "control character; rename it"
        )
    return names


def stat_sources(indices: Sequence[int], paths: Sequence[Sequence[str]]) -> Iterator[os.stat_result]:
    """Yield what the file system says of samples' files, which must be regular ones.

    Raises:
        SampleError: One is missing or no file, naming sample and path.
    """
    for number, path in enumerate(chain.from_iterable(paths)):
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise _cannot_read(*_find(number, indices, paths), error) from error
        if not stat.S_ISREG(status.st_mode):
            raise _no_file(*_find(number, indices, paths), status)
        yield status


class Sources:
    """The files of samples, looked at now, and read once, one after the other.

    Args:
        indices: The samples.
        paths: The files of each.

    Attributes:
        paths: The paths of all files.
        names: The base names that they keep in their chunk.
        sizes: Their sizes in bytes.
        statuses: What the file system says of them; once all of a file has been read, that must still be so.

    Raises:
        SampleError: One is missing or no file, or has a name that cannot be one, naming sample and path.
    """

    def __init__(self, indices: Sequence[int], paths: Sequence[Sequence[str]]) -> None:
        self._indices, self._owned = indices, paths
        self.paths = [*chain.from_iterable(paths)]
        self.names = source_names(indices, paths)
        self.statuses: list[os.stat_result] = []
        self._descriptors: list[int] = []
        self._next = 0  # the file that is read next
        self._taken = 0  # bytes of it that have been read
        try:
            for path in self.paths[:KEPT_OPEN]:
                self._descriptors.append(os.open(path, _FLAGS))
                self.statuses.append(os.fstat(self._descriptors[-1]))
            self.statuses += map(os.stat, self.paths[KEPT_OPEN:])
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            self.close()
            raise _cannot_read(*_find(len(self.statuses), indices, paths), error) from error
        self.sizes = [status.st_size for status in self.statuses]
        self._descriptors += [-1] * (len(self.paths) - len(self._descriptors))
        for number, status in enumerate(self.statuses):
            if not stat.S_ISREG(status.st_mode):
                self.close()
                raise _no_file(*_find(number, indices, paths), status)
        self._ask_ahead()

    def read(self, places: Sequence[memoryview]) -> None:
        """Fill each place with the whole of the next file.

        Raises:
            SampleError: A file cannot be read, or is not what it was when it was looked at.
        """
        for start in range(0, len(places), KEPT_OPEN):
            some = places[start : start + KEPT_OPEN]
            for number, place in enumerate(some, self._next):
                self._fill(number, place)
            self._finish(len(some))

    def read_part(self, place: memoryview) -> None:
        """Fill the place with the next bytes of the file that is next until all of it has been read.

        Raises:
            SampleError: The file cannot be read, or is not what it was when it was looked at.
        """
        self._fill(self._next, place)
        self._taken += len(place)
        if self._taken == self.statuses[self._next].st_size:
            self._finish(1)
            self._taken = 0

    def close(self) -> None:
        """Let all files go; a second call does nothing."""
        self._close(0, len(self._descriptors))

    def _ask_ahead(self) -> None:
        """Have what is open read into the page cache, which goes on while labels are made and files read."""
        if hasattr(os, "posix_fadvise"):  # macOS has none
            with suppress(OSError):  # a file system may take no hints
                for descriptor in self._descriptors[:KEPT_OPEN]:
                    os.posix_fadvise(descriptor, 0, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    def _fill(self, number: int, place: memoryview) -> None:
        try:
            descriptor = self._descriptors[number]
            if descriptor < 0:
                descriptor = self._descriptors[number] = os.open(self.paths[number], _FLAGS)
                self._check(number)
            taken = os.readv(descriptor, (place,))
            while taken < len(place):  # a disk may give them in parts
                more = os.readv(descriptor, (place[taken:],))
                if not more:
                    raise self._changed(number)
                taken += more
        except OSError as error:
            raise _cannot_read(*self._find(number), error) from error

    def _finish(self, count: int) -> None:
        """Check the next files, all of which has been read, and go on with the one behind them."""
        end = self._next + count
        for number in range(self._next, end):
            self._check(number)
        self._close(self._next, end)
        self._next = end

    def _check(self, number: int) -> None:
        """Raise an error unless the open file is what was looked at, and still has its name."""
        try:
            descriptor = self._descriptors[number]
            status, told = os.fstat(descriptor), self.statuses[number]
            if (
                status.st_size != told.st_size
                or status.st_mtime_ns != told.st_mtime_ns
                or status.st_nlink < told.st_nlink
                or (not told.st_size and os.read(descriptor, 1))  # as files of /proc have
            ):
                raise self._changed(number)
        except OSError as error:
            raise _cannot_read(*self._find(number), error) from error

    def _close(self, start: int, end: int) -> None:
        for number in range(start, end):
            descriptor, self._descriptors[number] = self._descriptors[number], -1
            if descriptor >= 0:
                os.close(descriptor)

    def _changed(self, number: int) -> SampleError:
        index, path = self._find(number)
        return SampleError(
            f"sample {index}: {path!r} changed while it was packed; nothing was published: run "
            "it again when the files are at rest, it goes on where it stopped"
        )

    def _find(self, number: int) -> tuple[int, str]:
        return _find(number, self._indices, self._owned)


def _find(number: int, indices: Sequence[int], paths: Sequence[Sequence[str]]) -> tuple[int, str]:
    """Return the sample of a file, and its path; all files of the samples are numbered."""
    owned = ((index, path) for index, files in zip(indices, paths, strict=True) for path in files)
    return next(islice(owned, number, None))


def _no_file(index: int, path: str, status: os.stat_result) -> SampleError:
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    return SampleError(f"sample {index}: {path!r} is {kind}; get_file names files")


def _cannot_read(index: int, path: str, error: OSError | ValueError) -> SampleError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SampleError(f"sample {index}: cannot read {path!r}: {reason}")
