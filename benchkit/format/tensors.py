"""Torch tensors as NumPy arrays and back: the one place of the format that loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import LabelTypeError

if TYPE_CHECKING:
    import torch

# Types without a NumPy counterpart travel as their bits, in an unsigned integer of the same size.
_AS_BITS = {
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
}
_AS_NUMPY = {
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip
TENSOR_DTYPES = frozenset(_AS_NUMPY | set(_AS_BITS))
"""The dtypes that a tensor in a label may have, by their torch names."""


def is_tensor(value: object) -> bool:
    """Return whether the value is a plain `torch.Tensor` (no subclass), without loading torch."""
    return type(value).__module__ == "torch" and type(value).__qualname__ == "Tensor"


def tensor_to_array(value: Any) -> tuple[npt.NDArray[Any], str]:
    """Return the tensor's values as an array of the same shape, and the name of its dtype.

    Raises:
        LabelTypeError: The tensor is sparse, quantized, without data, or of a dtype that cannot be stored.
    """
    import torch  # noqa: PLC0415

    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout is not torch.strided or value.device.type == "meta" or dtype not in TENSOR_DTYPES:
        raise LabelTypeError(
            f"a {value.layout} tensor of {value.dtype} on {value.device} cannot be stored in a label; "
            f"dense tensors of {', '.join(sorted(TENSOR_DTYPES))} can"
        )
    dense = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if dtype in _AS_BITS:
        dense = dense.view(getattr(torch, _AS_BITS[dtype]))
    return dense.numpy(), dtype


def array_to_tensor(array: npt.NDArray[Any], dtype: str) -> torch.Tensor:
    """Return a new tensor with the array's values; `dtype` is the name `tensor_to_array` gave."""
    import torch  # noqa: PLC0415

    tensor = torch.from_numpy(np.array(array, order="C", copy=True))
    return tensor.view(getattr(torch, dtype)) if dtype in _AS_BITS else tensor


def array_dtype(dtype: str) -> str:
    """Return the name of the NumPy dtype in which a tensor of this torch dtype travels."""
    return _AS_BITS.get(dtype, dtype)
