"""The source files of samples: read once, in bounded memory, and known not to have changed meanwhile."""

from __future__ import annotations

import os
import stat

from benchkit.errors import SampleError
from benchkit.format.index import is_file_name

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that has come there is not waited for


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


def stat_source(index: int, path: str) -> os.stat_result:
    """Return what the file system says of a file, which must be a regular one.

    Raises:
        SampleError: It is missing or no file, naming sample and path.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _cannot_read(index, path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise _no_file(index, path, status)
    return status


class Source:
    """A file of a sample, looked at now, and read once, piece by piece.

    Args:
        index: The sample it belongs to.
        path: Where it is.
        keep_open: Open it now, not when it is read.

    Attributes:
        name: The base name that it keeps in its chunk.
        status: What the file system says of it; once all of it has been read, that must still be so.
        size: Its size in bytes.

    Raises:
        SampleError: It is missing or no file, naming sample and path.
    """

    __slots__ = ("_descriptor", "_index", "_left", "_path", "name", "size", "status")

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
        self.status = status
        self.size = self._left = status.st_size

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
        status, told = os.fstat(self._descriptor), self.status
        if (
            status.st_size != told.st_size
            or status.st_mtime_ns != told.st_mtime_ns
            or status.st_nlink < told.st_nlink
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
