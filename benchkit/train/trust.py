"""Trust: what loading a checkpoint may unpickle, which is tensors, arrays and plain values.

A checkpoint comes from a store, so its bytes are untrusted. Accelerate and torch unpickle some of its files
with `weights_only=True`, and others without, depending on the version. While `tensors_only` lasts, all are
read as with `weights_only=True`. The plan of a sharded model is the one file that torch unpickles by other
means: `check_plans` reads it first, under a closed list of names.
"""

from __future__ import annotations

import codecs
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException

from benchkit.errors import CorruptError
from benchkit.settings import force_weights_only

PLAN_NAME = ".metadata"

_MODULE = "torch.distributed.checkpoint"
_PLAN_NAMES = re.compile(
    rf"""{re.escape(_MODULE)}\.metadata\.
        (Metadata|MetadataIndex|StorageMeta|TensorProperties|TensorStorageMetadata|BytesStorageMetadata
        |ChunkStorageMetadata|_MEM_FORMAT_ENCODING)
    | {re.escape(_MODULE)}\.filesystem\._StorageInfo
    | torch\.(Size|bool|bfloat16|u?int\d+|float\d+\w*|complex\d+)
    | torch\.serialization\._get_layout
    | pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path
    | collections\.OrderedDict""",
    re.VERBOSE,
)
_ARRAYS: tuple[Any, ...] = (  # the parts of a NumPy array, which Accelerate's random states hold
    np.zeros(0).__reduce__()[0],
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OVSUMm"},
    codecs.encode,
)


@contextmanager
def tensors_only() -> Iterator[None]:
    """Have every `torch.load` of this process refuse all but tensors, arrays and plain values.

    Raises:
        CorruptError: A file held something else.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([*before, *_ARRAYS])
    try:
        with force_weights_only():
            yield
    except (pickle.UnpicklingError, CheckpointException) as error:
        refusals = [error] if isinstance(error, pickle.UnpicklingError) else _refusals(error)
        if not refusals:
            raise
        raise CorruptError(
            "a file of the checkpoint holds more than tensors and plain values, and was not loaded"
            f"{_named(refusals[0])}"
        ) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_plain(path: Path) -> Any:
    """Return what `torch.save` wrote, its tensors on the CPU, if they and plain values are all it holds.

    Raises:
        CorruptError: It holds something else, or is damaged.
    """
    with tensors_only():
        return torch.load(path, map_location="cpu", weights_only=True)


def check_plans(folder: Path) -> None:
    """Check the plan of every sharded model and optimizer below the folder.

    Raises:
        CorruptError: One names what no plan names, or parts outside its own folder.
    """
    for path in sorted(folder.rglob(PLAN_NAME)):
        with path.open("rb") as file:
            try:
                plan = _PlanReader(file).load()
                parts = {str(part.relative_path) for part in plan.storage_data.values()}
            except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError) as error:
                raise CorruptError(
                    f"{path} is no plan of a sharded model, and was not loaded: {error}"
                ) from error
        for part in parts:
            if Path(part).name != part or not (path.parent / part).is_file():
                raise CorruptError(f"{path} names the part {part!r:.80}, which is not in its folder")


def _refusals(error: CheckpointException) -> list[pickle.UnpicklingError]:
    """Return what a sharded load, which gathers the errors of its ranks, was refused for."""
    causes = [cause for cause, _ in error.failures.values()]
    return [cause for cause in causes if isinstance(cause, pickle.UnpicklingError)]


def _named(error: pickle.UnpicklingError) -> str:
    """Return what the file names, from torch's long advice on how to load it all the same."""
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f": it names {name[1]}" if name else ""


class _PlanReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if not _PLAN_NAMES.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:120])
        return super().find_class(module, name)
