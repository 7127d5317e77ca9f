"""The source files of samples: read once, in bounded memory, and known not to have changed meanwhile."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from benchkit.errors import SampleError
from benchkit.format.chunk import SourceFile
from benchkit.format.index import is_file_name

BLOCK_BYTES = 1 << 20
"""A larger file is read in blocks of this size; the others in one go."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC


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
    return _facts(status, index, path)


def read_source(index: int, path: str, facts: FileFacts, *, at_once: int) -> SourceFile:
    """Return a file on its way into a chunk.

    Args:
        index: The sample it belongs to.
        path: Where it is.
        facts: What was found of it; they must still be so once it has been read.
        at_once: A file of at most this many bytes is read now; a larger one when its blocks are taken.

    Raises:
        SampleError: The file cannot be read, or changed since it was looked at; the blocks raise it too.
    """
    name = source_name(index, path)
    if facts.size > at_once:
        return SourceFile(name, facts.size, _read_blocks(index, path, facts))
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            data = _read_all(descriptor, facts.size)
            if len(data) != facts.size or facts != _facts(os.fstat(descriptor), index, path):
                raise _changed(index, path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_read(index, path, error) from error
    return SourceFile(name, facts.size, (data,))


def _read_all(descriptor: int, size: int) -> bytes:
    """Return the file's bytes, one more than `size` where it has grown; a disk may give them in parts."""
    data = os.read(descriptor, size + 1)
    while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
        data += more
    return data


def _read_blocks(index: int, path: str, facts: FileFacts) -> Iterator[bytes]:
    """Yield a file's bytes; all of them, or an error."""
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            if facts != _facts(os.fstat(descriptor), index, path):
                raise _changed(index, path)
            left = facts.size
            while left and (block := os.read(descriptor, min(left, BLOCK_BYTES))):
                left -= len(block)
                yield block
            if left or os.read(descriptor, 1) or facts != _facts(os.fstat(descriptor), index, path):
                raise _changed(index, path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_read(index, path, error) from error


def _facts(status: os.stat_result, index: int, path: str) -> FileFacts:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise SampleError(f"sample {index}: {path!r} is {kind}; get_file names files")
    return FileFacts(status.st_size, status.st_mtime_ns)


def _cannot_read(index: int, path: str, error: OSError | ValueError) -> SampleError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SampleError(f"sample {index}: cannot read {path!r}: {reason}")


def _changed(index: int, path: str) -> SampleError:
    return SampleError(
        f"sample {index}: {path!r} changed while it was packed; nothing was published: run it again when the "
        "files are at rest, it goes on where it stopped"
    )
