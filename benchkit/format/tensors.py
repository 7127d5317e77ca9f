"""Torch tensors as NumPy arrays and back: the one place of the format that loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from benchkit.errors import FormatError, LabelTypeError

if TYPE_CHECKING:
    import torch

# Types without a NumPy counterpart travel as their bits, in an unsigned integer of the same size.
_AS_BITS = {
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
    "float4_e2m1fn_x2": "uint8",
    "complex32": "uint32",
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


def array_to_tensor(array: npt.NDArray[Any], dtype: str, *, what: object) -> torch.Tensor:
    """Return the array's values as a tensor, which may share its memory.

    Args:
        array: A writable array in C order, as `decode_array` gives it.
        dtype: The name that `tensor_to_array` gave.
        what: The sample, for messages.

    Raises:
        FormatError: The array is not of the dtype in which such a tensor travels, or torch does not know it.
    """
    import torch  # noqa: PLC0415

    if array.dtype.name != _AS_BITS.get(dtype, dtype):
        raise FormatError(f"the label of {what} has an array of {array.dtype} where its kind says {dtype}")
    known = getattr(torch, dtype, None)
    if not isinstance(known, torch.dtype):
        raise FormatError(f"the label of {what} has a tensor of {dtype}: upgrade torch")
    tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    return tensor.view(known) if dtype in _AS_BITS else tensor
