"""Images as tensors: shapes, modes, sizes, and what is no image."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from benchkit import decode_image
from benchkit.errors import UsageError


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> io.BytesIO:
    """Return an image file of a smooth gradient; size is width and height."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format=kind)
    file.seek(0)
    return file


def test_a_png_decodes_to_its_very_pixels():
    file = picture("PNG")
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    file.seek(0)
    decoded = decode_image(file)
    assert decoded.dtype == torch.uint8
    assert decoded.is_contiguous()
    assert torch.equal(decoded, expected)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
@pytest.mark.parametrize("stored", ["L", "RGB", "P"])
def test_any_image_comes_in_the_mode_that_was_asked_for(mode, channels, stored):
    assert decode_image(picture("PNG", stored), mode=mode).shape == (channels, 30, 40)


@pytest.mark.parametrize(
    ("size", "shape"), [(16, (3, 16, 16)), ((20, 50), (3, 20, 50)), ((30, 40), (3, 30, 40))]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_size_is_height_and_width(kind, size, shape):
    assert decode_image(picture(kind), size=size).shape == shape


def test_a_jpeg_decoded_at_a_smaller_scale_shows_the_same_picture():
    file = picture("JPEG", size=(800, 600))
    whole = Image.open(file).convert("RGB").resize((80, 60), Image.Resampling.BILINEAR)
    file.seek(0)
    difference = decode_image(file, size=(60, 80)).permute(1, 2, 0).numpy().astype(int) - np.array(whole)
    assert np.abs(difference).mean() < 2


def test_the_tensor_is_the_caller_s_own():
    decoded = decode_image(picture("PNG"))
    decoded += 1
    assert not torch.equal(decoded, decode_image(picture("PNG")))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": (3, -1)}, {"mode": "CMYK"}])
def test_a_wrong_size_or_mode_is_refused_by_value(wrong):
    with pytest.raises(
        UsageError, match=str(next(iter(wrong.values()))).replace("(", r"\(").replace(")", r"\)")
    ):
        decode_image(picture("PNG"), **wrong)


def test_what_is_no_image_is_an_error():
    with pytest.raises(UnidentifiedImageError):
        decode_image(io.BytesIO(b"not an image"))
