"""Decoding images: a file of a sample as a uint8 tensor."""

from __future__ import annotations

from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image

from benchkit.errors import UsageError

ImageMode = Literal["L", "RGB", "RGBA"]


def decode_image(
    file: BinaryIO, size: int | tuple[int, int] | None = None, mode: ImageMode = "RGB"
) -> torch.Tensor:
    """Return the image as a tensor of shape (C, H, W), uint8, values 0 to 255.

    Args:
        file: An image in any format that Pillow reads.
        size: Height and width to resize to (bilinear, antialiased), one number for a square; None keeps it.
            A JPEG is decoded at the smallest of its own scales that is not smaller, which is several times
            faster.
        mode: `L` gives 1 channel, `RGB` 3, `RGBA` 4.

    Raises:
        UsageError: The size or the mode is none.
        PIL.UnidentifiedImageError: The file is no image.
    """
    if mode not in ("L", "RGB", "RGBA"):
        raise UsageError(f"image mode {mode!r} is not 'L', 'RGB' or 'RGBA'")
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)
    if size is not None and (height < 1 or width < 1):
        raise UsageError(f"image size {size!r} is not a height and a width of at least 1")
    with Image.open(file) as image:
        if size is not None:
            image.draft("L" if mode == "L" else "RGB", (width, height))
        picture = image.convert(mode)
    if size is not None and picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(picture, dtype=np.uint8)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))
