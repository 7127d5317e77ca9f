"""The source files of samples: read once, in bounded memory, and known not to have changed meanwhile."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from benchkit.errors import SampleError
from benchkit.format.index import is_file_name

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that has come there is not waited for


class FileFacts(NamedTuple):
    """What the file system says of a file: its size in bytes and when it was last written, in ns."""

    size: int
    mtime_ns: int


def source_name(index: int, path: str) -> bytes:
    """Return the base name that a file keeps in its chunk.

    Raises:
        SampleError: It cannot be one, on another machine.
    """
    try:
        name = path[path.rfind("/") + 1 :].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SampleError(f"sample {index}: {path!r} is no path: {error}") from error
    if not is_file_name(name):
        raise SampleError(
            f"sample {index}: {path!r} names no file that can be stored: its last part is empty or has a "
            "control character; rename it"
        )
    return name


def stat_source(index: int, path: str) -> FileFacts:
    """Return the facts of a file, which must be a regular one.

    Raises:
        SampleError: It is missing or no file, naming sample and path.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _cannot_read(index, path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise _no_file(index, path, status)
    return FileFacts(status.st_size, status.st_mtime_ns)


class Source:
    """A file of a sample, looked at now, and read once, piece by piece.

    Args:
        index: The sample it belongs to.
        path: Where it is.
        keep_open: Open it now, not when it is read.

    Attributes:
        name: The base name that it keeps in its chunk.
        size: Its size in bytes.
        mtime_ns: When it was last written, in ns. Both must still be so once all of it has been read.

    Raises:
        SampleError: It is missing or no file, naming sample and path.
    """

    __slots__ = ("_descriptor", "_index", "_left", "_links", "_path", "mtime_ns", "name", "size")

    def __init__(self, index: int, path: str, *, keep_open: bool) -> None:
        self._index, self._path, self._descriptor = index, path, -1
        self.name = source_name(index, path)
        try:
            if keep_open:
                self._descriptor = os.open(path, _FLAGS)
                status = os.fstat(self._descriptor)
            else:
                status = os.stat(path)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            self.close()
            raise _cannot_read(index, path, error) from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise _no_file(index, path, status)
        self.size, self.mtime_ns = status.st_size, status.st_mtime_ns
        self._left, self._links = self.size, status.st_nlink

    @property
    def facts(self) -> FileFacts:
        """What was found of it."""
        return FileFacts(self.size, self.mtime_ns)

    def readinto(self, view: memoryview) -> int:
        """Fill a buffer with the next bytes, and return how many those are; the last read must be asked for.

        Raises:
            SampleError: The file cannot be read, or is not what it was when it was looked at.
        """
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, _FLAGS)
                self._check()
            taken = os.readv(self._descriptor, (view,))
            while taken < len(view):  # a disk may give them in parts
                more = os.readv(self._descriptor, (view[taken:],))
                if not more:
                    raise self._changed()
                taken += more
            self._left -= taken
            if not self._left:
                self._check()
                self.close()
        except OSError as error:
            raise _cannot_read(self._index, self._path, error) from error
        return taken

    def close(self) -> None:
        """Let the file go; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _check(self) -> None:
        """Raise an error unless the open file is what was looked at, and still has its name."""
        status = os.fstat(self._descriptor)
        if (
            status.st_size != self.size
            or status.st_mtime_ns != self.mtime_ns
            or status.st_nlink < self._links
            or (not self.size and os.read(self._descriptor, 1))  # as files of /proc have
        ):
            raise self._changed()

    def _changed(self) -> SampleError:
        return SampleError(
            f"sample {self._index}: {self._path!r} changed while it was packed; nothing was published: run "
            "it again when the files are at rest, it goes on where it stopped"
        )


def _no_file(index: int, path: str, status: os.stat_result) -> SampleError:
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    return SampleError(f"sample {index}: {path!r} is {kind}; get_file names files")


def _cannot_read(index: int, path: str, error: OSError | ValueError) -> SampleError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SampleError(f"sample {index}: cannot read {path!r}: {reason}")
