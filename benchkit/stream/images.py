"""Decoding images: a file of a sample as a uint8 tensor."""

from __future__ import annotations

import io
from collections.abc import Sequence
from operator import index
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn.functional import interpolate

from benchkit.errors import UsageError
from benchkit.stream.jpeg import decode_jpeg

ImageMode = Literal["L", "RGB", "RGBA"]

_TORCH_RESIZES_FASTER = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def decode_image(
    file: BinaryIO, size: int | tuple[int, int] | None = None, mode: ImageMode = "RGB"
) -> torch.Tensor:
    """Return the image as a contiguous tensor of shape (C, H, W), uint8, values 0 to 255.

    16 bits a channel become 8. An animation gives its first frame. EXIF's orientation is not applied.

    Args:
        file: An image in any format that Pillow reads. With the extra `fast` simplejpeg decodes JPEG: the
            same picture, within two levels of 255 a pixel, sooner.
        size: Height and width to resize to (bilinear, antialiased), one number for a square; None keeps it.
            A JPEG is decoded at the smallest of its own scales that is not smaller, which is several times
            faster.
        mode: `L` gives 1 channel, `RGB` 3, `RGBA` 4.

    Raises:
        UsageError: The size or the mode is none, or the file is no open binary file.
        PIL.UnidentifiedImageError: The file is no image.
        OSError: The image is cut off or damaged.
        PIL.Image.DecompressionBombError: It has over twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if mode not in ("L", "RGB", "RGBA"):
        raise UsageError(f"image mode {mode!r} is not 'L', 'RGB' or 'RGBA'")
    shape = None if size is None else _shape(size)
    data = _read(file)
    pixels = decode_jpeg(data, shape, mode)
    if pixels is None:
        pixels = _decode_with_pillow(data, shape, mode)
    if shape is None or pixels.shape[:2] == shape:
        return _as_tensor(pixels)
    return _resize(pixels, shape)


def _shape(size: int | tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = map(index, size if isinstance(size, Sequence) else (size, size))
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise UsageError(f"image size {size!r:.60} is not a height and a width of at least 1")
    return height, width


def _read(file: BinaryIO) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    if not hasattr(file, "read"):
        raise UsageError(f"{file!r:.80} is no open binary file: hand decode_image one of a sample's files")
    if file.seekable():
        file.seek(0)
    return file.read()


def _decode_with_pillow(data: bytes, size: tuple[int, int] | None, mode: ImageMode) -> npt.NDArray[np.uint8]:
    """Return the pixels (H, W, C); a JPEG's at the smallest of its scales that is not smaller."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L" if mode == "L" else "RGB", size and size[::-1])
        picture = convert_picture(image, mode)
    return np.atleast_3d(np.array(picture))


def convert_picture(image: Image.Image, mode: ImageMode) -> Image.Image:
    """Return the picture in another mode; 16 bits become 8, where Pillow makes 255 of every larger value."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    return image.convert(mode)


def _resize(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> torch.Tensor:
    """Return the pixels in another size; torch's and Pillow's differ by two levels at most.

    Pillow weighs colours with their alpha. Torch does not, but takes a third of the time where it has code
    for the processor's vector unit, and twice the time elsewhere.
    """
    channels = pixels.shape[2]
    if channels < 4 and _TORCH_RESIZES_FASTER:
        planes = torch.from_numpy(pixels).permute(2, 0, 1)
        return interpolate(planes[None], size=size, mode="bilinear", antialias=True)[0].contiguous()
    picture = Image.fromarray(pixels if channels > 1 else pixels[..., 0])
    return _as_tensor(np.atleast_3d(np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR))))


def _as_tensor(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
