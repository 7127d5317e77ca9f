"""The handover of a batch from a worker to the training: in memory without a name, which no kill can leave.

torch gives shared memory a name in `/dev/shm` for a moment, and what is killed in that moment leaves it there
for good; the limit of that folder, often 64 MiB in containers, holds for it too. Here memory comes from
`memfd_create`, and the sockets over which it is handed on are abstract ones, which are no files either.
torch's private corners that this takes are all in this file.
"""

from __future__ import annotations

import ctypes
import io
import multiprocessing.connection
import os
import pickle
import secrets
import sys
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import torch
from torch.multiprocessing import get_sharing_strategy

_INLINE_BYTES = 1 << 16
"""Up to how many bytes memory is copied through the pipe: a descriptor costs more."""
_AVAILABLE = sys.platform == "linux"
_Storage: Any = torch.UntypedStorage


def prepare_worker() -> None:
    """Have this worker take nameless memory, for `default_collate` too, and abstract sockets."""
    if _AVAILABLE:
        _Storage._new_using_fd_cpu = staticmethod(_new_memory)  # noqa: SLF001
        multiprocessing.connection.arbitrary_address = _new_address  # type: ignore[attr-defined]


def pack(data: Any) -> Any:
    """Return what becomes the data again when it has gone through a queue to the training's process.

    Raises:
        Exception: Something in the data cannot be pickled.
    """
    if not _AVAILABLE or get_sharing_strategy() != "file_descriptor":  # type: ignore[no-untyped-call]
        return data
    packed = _Packed(data)
    return packed if packed.memories else data


class _Packed:
    """Data as bytes, and the memory of its tensors beside."""

    def __init__(self, data: Any) -> None:
        out = _Pieces()
        packer = _Packer(out)
        packer.dump(data)
        self._pickled = out.pieces
        self.memories = packer.memories

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to unpack the data: small memory goes as bytes, large as a descriptor."""
        memories = [
            memory if isinstance(memory, bytes) else (DupFd(memory._share_fd_cpu_()[0]), memory.nbytes())
            for memory in self.memories
        ]
        return _unpack, (b"".join(self._pickled), memories)


class _Pieces:
    """A file that keeps what is written as it comes: large bytes in the data itself are not copied."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.write = self.pieces.append


class _Packer(ForkingPickler):
    """Pickles all but the memory of tensors on the CPU, which is put aside; once, however many view it."""

    def __init__(self, out: _Pieces) -> None:
        super().__init__(out, pickle.HIGHEST_PROTOCOL)
        self.memories: list[bytes | torch.UntypedStorage] = []
        self._seen: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def persistent_id(self, value: Any) -> int | None:
        """Return the number under which a storage is put aside, None for everything else."""
        if not isinstance(value, torch.UntypedStorage) or value.device.type != "cpu":
            return None
        key = value._cdata  # noqa: SLF001
        if key not in self._seen:
            self._seen[key] = len(self.memories), value  # which keeps the storage, and so its address
            self.memories.append(_put_aside(value))
        return self._seen[key][0]


class _Unpacker(pickle.Unpickler):
    """Unpickles data around storages that are there already."""

    def __init__(self, pickled: bytes, storages: list[torch.UntypedStorage]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._storages = storages

    def persistent_load(self, number: int) -> torch.UntypedStorage:
        """Return the storage that was put aside under this number."""
        return self._storages[number]


def _put_aside(storage: torch.UntypedStorage) -> bytes | torch.UntypedStorage:
    if storage.nbytes() <= _INLINE_BYTES:
        return ctypes.string_at(storage.data_ptr(), storage.nbytes())
    if storage.is_shared():
        return storage
    memory = _new_memory(storage.nbytes())
    memory.copy_(storage)
    return memory


def _unpack(pickled: bytes, memories: list[Any]) -> Any:
    storages = [
        _from_bytes(memory) if isinstance(memory, bytes) else _map(memory[0].detach(), memory[1])
        for memory in memories
    ]
    return _Unpacker(pickled, storages).load()


def _from_bytes(memory: bytes) -> torch.UntypedStorage:
    if not memory:
        return torch.UntypedStorage(0)  # type: ignore[no-untyped-call]
    return torch.frombuffer(bytearray(memory), dtype=torch.uint8).untyped_storage()


def _new_memory(size: int) -> torch.UntypedStorage:
    """Return shared memory that goes when nobody has it open."""
    if size == 0:
        return _from_bytes(b"")
    fd = os.memfd_create("benchkit")
    os.posix_fallocate(fd, 0, size)  # an error here where there is no memory, and no signal at the first byte
    return _map(fd, size)


def _map(fd: int, size: int) -> torch.UntypedStorage:
    """Return the memory behind a descriptor, which is closed."""
    try:
        storage: torch.UntypedStorage = _Storage._new_shared_fd_cpu(fd, size)  # noqa: SLF001
        return storage
    finally:
        os.close(fd)


def _new_address(_: str) -> str:
    """Return a socket's address that is no file: whoever connects has to know the processes' common key."""
    return f"\0benchkit-{secrets.token_hex(16)}"
