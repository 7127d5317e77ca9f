"""JPEG by libjpeg-turbo, where the extra `fast` is installed: Pillow's pixels in less time.

Nothing else imports the package. Where it is missing, and for what it does not do just as Pillow does, Pillow
decodes: so the extra changes no picture and no error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_FORMATS = {"L": "GRAY", "RGB": "RGB"}
_BLOCK = 8
"""Pixels along a JPEG's block: below it two scales can give the same size, and other pixels."""


def decode_jpeg(data: bytes, size: tuple[int, int] | None, mode: str) -> npt.NDArray[np.uint8] | None:
    """Return a JPEG's pixels (H, W, C), or None where Pillow is to decode, or to say what is wrong.

    Args:
        data: A file's bytes, of any format.
        size: Height and width wanted: the result has the smallest of the scales 1, 1/2, 1/4 and 1/8 that is
            not smaller, as `PIL.Image.Image.draft` chooses it. None is the whole.
        mode: `L` or `RGB`; any other is Pillow's.
    """
    if simplejpeg is None or mode not in _FORMATS or not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        # Pillow has its own way from CMYK to RGB, and warns of a picture that may be a decompression bomb.
        too_large = Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS
        if too_large or max(height, width) < _BLOCK or space not in ("Gray", "RGB", "YCbCr"):
            return None
        scale = next((n for n in (8, 4, 2) if size and height // n >= size[0] and width // n >= size[1]), 1)
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, _FORMATS[mode], min_height=-(-height // scale), min_width=-(-width // scale)
        )
    except ValueError:  # damaged, or of a kind it does not know
        return None
    return pixels
