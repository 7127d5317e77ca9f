"""The handover of a batch from a worker to the training: in memory without a name, which no kill can leave.

torch gives shared memory a name in `/dev/shm` for a moment, and what is killed in that moment leaves it there
for good; the limit of that folder, often 64 MiB in containers, holds for it too. Here it is in slots, which
`slots.py` lends. torch's private corners that this takes are all in this file.
"""

from __future__ import annotations

import ctypes
import io
import os
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing import get_sharing_strategy
from torch.multiprocessing.reductions import reduce_tensor

from benchkit.stream.slots import Loan, Slots, borrow, can_lend

_INLINE_BYTES = 1 << 16
"""Up to how many bytes memory is copied through the pipe."""
_Storage: Any = torch.UntypedStorage
_slots: Slots | None = None
"""Those of this process, if it is a worker."""


def prepare_worker() -> None:
    """Have this worker take memory of slots, for `default_collate` too."""
    global _slots  # noqa: PLW0603
    if can_lend():
        _slots = Slots()
        _Storage._new_using_fd_cpu = staticmethod(_new_memory)  # noqa: SLF001


def pack(data: Any) -> Any:
    """Return what becomes the data again when it has gone through a queue to the training's process.

    Raises:
        Exception: Something in the data cannot be pickled.
    """
    if _slots is None or get_sharing_strategy() != "file_descriptor":  # type: ignore[no-untyped-call]
        return data
    return _Packed(data)


class _Packed:
    """Data as bytes, and the memory of its tensors beside; what is large is lent."""

    def __init__(self, data: Any) -> None:
        out = _Pieces()
        packer = _Packer(out)
        packer.dump(data)
        self._pickled = _put_pieces_aside(out.pieces)
        self._memories = packer.memories

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to unpack the data."""
        return _unpack, (self._pickled, self._memories)


class _Pieces:
    """A file that keeps what is written as it comes: large bytes in the data itself are not copied."""

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []

    def write(self, piece: bytes | pickle.PickleBuffer) -> None:
        """Keep bytes, or an array's memory."""
        self.pieces.append(piece if isinstance(piece, bytes) else pickle.PickleBuffer(piece).raw())


class _Packer(ForkingPickler):
    """Pickles all but the memory of tensors on the CPU, which is put aside; once, however many view it."""

    def __init__(self, out: _Pieces) -> None:
        super().__init__(out, pickle.HIGHEST_PROTOCOL)
        self.dispatch_table[torch.Tensor] = _reduce_tensor
        self.memories: list[bytes | Loan] = []
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


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    """Reduce a tensor as torch does, which would drop what is put off in it: to conjugate, to negate."""
    return reduce_tensor(tensor.resolve_conj().resolve_neg())  # type: ignore[no-untyped-call]


class _Unpacker(pickle.Unpickler):
    """Unpickles data around storages that are there already."""

    def __init__(self, pickled: bytes | memoryview, storages: list[torch.UntypedStorage]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._storages = storages

    def persistent_load(self, number: int) -> torch.UntypedStorage:
        """Return the storage that was put aside under this number."""
        return self._storages[number]


def _put_pieces_aside(pieces: list[bytes | memoryview]) -> bytes | Loan:
    length = sum(map(len, pieces))
    if length <= _INLINE_BYTES:
        return b"".join(pieces)
    slot, memory = _own().take(length)
    end = 0
    for piece in pieces:
        start, end = end, end + len(piece)
        memory[start:end] = piece
    return slot.lend(length)


def _put_aside(storage: torch.UntypedStorage) -> bytes | Loan:
    length = storage.nbytes()
    if length <= _INLINE_BYTES:
        return ctypes.string_at(storage.data_ptr(), length)
    slot = _own().find(storage.data_ptr())
    if slot is None:
        slot, memory = _own().take(length)
        _over(memory).copy_(storage)
    return slot.lend(length)


def _unpack(pickled: bytes | Loan, memories: list[bytes | Loan]) -> Any:
    storages = [
        _over(borrow(memory) if isinstance(memory, Loan) else bytearray(memory)) for memory in memories
    ]
    data = borrow(pickled) if isinstance(pickled, Loan) else pickled
    return _Unpacker(data, storages).load() if storages else pickle.loads(data)  # noqa: S301  # a worker of this process


def _over(memory: memoryview | bytearray) -> torch.UntypedStorage:
    """Return a storage of this memory, which it holds."""
    if not memory:
        return torch.UntypedStorage(0)  # type: ignore[no-untyped-call]
    return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()


def _new_memory(length: int) -> torch.UntypedStorage:
    """Return memory of a slot, as torch asks for shared memory."""
    return _over(_own().take(length)[1] if length else bytearray())


def _own() -> Slots:
    if _slots is None:
        raise RuntimeError("this process is no worker")
    return _slots


def _before_fork() -> None:
    if _slots is not None:
        _slots.keep_used()


def _after_fork() -> None:
    """Take nothing from the slots of the worker that has forked this child."""
    global _slots  # noqa: PLW0603
    if _slots is not None:
        _slots = None
        del _Storage._new_using_fd_cpu  # noqa: SLF001  # behind it is torch's own


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
