"""Rows: what every side makes of a sample's number and bytes, and how rows become a batch."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from cases import Form
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import default_collate

PIXELS = 224

Row = tuple[int, Any]
MakeRow = Callable[[int, bytes], Row]
Collate = Callable[[Sequence[Row]], Any]


def row_maker(form: Form) -> MakeRow:
    """Return what makes a row of a sample: its number, and its bytes or its picture."""
    if form == "raw":
        return _raw
    return _by_pillow if form == "pillow" else _by_simplejpeg


def collate_of(form: Form) -> Collate:
    """Return what makes a batch of rows: numbers and a list of bytes, or two tensors."""
    return _collate_raw if form == "raw" else default_collate


def decode_pillow(data: bytes) -> torch.Tensor:
    """Return a JPEG as uint8 of shape (3, 224, 224), by Pillow, at the smallest scale that does."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (PIXELS, PIXELS))
        fitted = image.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(fitted).transpose(2, 0, 1).copy())


def decode_simplejpeg(data: bytes) -> torch.Tensor:
    """Return the same picture by libjpeg-turbo and torch, as fast as is known, and as `decode_image` does."""
    import simplejpeg  # noqa: PLC0415  # an extra that raw batches do not need

    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    # Scales between the whole and its half take longer than the whole.
    scale = next((n for n in (8, 4, 2) if height // n >= PIXELS and width // n >= PIXELS), 1)
    least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
    pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return interpolate(planes, (PIXELS, PIXELS), mode="bilinear", antialias=True)[0].contiguous()


def _raw(number: int, data: bytes) -> Row:
    return number, data


def _by_pillow(number: int, data: bytes) -> Row:
    return number, decode_pillow(data)


def _by_simplejpeg(number: int, data: bytes) -> Row:
    return number, decode_simplejpeg(data)


def _collate_raw(rows: Sequence[Row]) -> tuple[list[int], list[bytes]]:
    return [number for number, _ in rows], [data for _, data in rows]
