"""An open chunk: a cached tar that can be read and cannot be evicted, until it is closed."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import final

from benchkit.data.unpack import read_at
from benchkit.errors import CacheError, CorruptError
from benchkit.store.locks import LockedFile


@final
class OpenChunk:
    """A cached plain tar, open for reading and safe from eviction until it is closed.

    It belongs to the process that opened it: in a forked child it is closed. One thread at a time uses it.

    Attributes:
        size: Bytes of the tar.
        path: Where it lies in the cache.
    """

    __slots__ = ("_file", "_what", "path", "size")

    def __init__(self, file: LockedFile, path: Path, *, size: int, what: str) -> None:
        self._file = file
        self._what = what
        self.path = path
        self.size = size

    def __enter__(self) -> OpenChunk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or was opened by the process that this one was forked from."""
        return self._file.fd < 0

    @property
    def file(self) -> LockedFile:
        """The file underneath.

        Raises:
            CacheError: The chunk is closed in this process.
        """
        self._check_open()
        return self._file

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on.

        Raises:
            CorruptError: The file ends before them, or the disk does not give them back.
            CacheError: The chunk is closed in this process.
        """
        try:
            data = os.pread(self._file.fd, length, offset)
            if len(data) < length:
                data += read_at(self._file.fd, offset + len(data), length - len(data))
                if len(data) < length:
                    end = os.fstat(self._file.fd).st_size
                    raise CorruptError(
                        f"{self._what} is corrupt in the cache: {self.path} ends at {end} of {self.size} "
                        "bytes; remove the file and it is fetched again"
                    )
        except OSError as error:
            self._check_open()
            raise CorruptError(f"{self._what} cannot be read from {self.path}: {error}") from error
        return data

    def _check_open(self) -> None:
        if self._file.fd < 0:
            raise CacheError(f"{self._what} is not open in process {os.getpid()}: open it again")

    def close(self) -> None:
        """Let the tar go; closing twice, or in a forked child, does nothing more."""
        self._file.close()
