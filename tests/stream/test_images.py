"""Images as tensors: shapes, modes, sizes, what is no image, and the same picture by either decoder."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from benchkit import decode_image
from benchkit.errors import UsageError
from benchkit.stream import images, jpeg

LEVELS = 2
"""How far, of 255, a pixel may lie from Pillow's."""


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> io.BytesIO:
    """Return an image file of a smooth gradient; size is width and height."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format=kind)
    file.seek(0)
    return file


def photo(size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    """Return a JPEG of coarse colours and grain; size is width and height."""
    random = np.random.default_rng(size)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size)
    grain = np.asarray(coarse) + random.normal(0, 12, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each decoder of JPEG in turn: as with the extra `fast`, and as without."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(jpeg, "simplejpeg", None)
    return request.param


def by_pillow(data: bytes, size: tuple[int, int] | None, mode: str) -> torch.Tensor:
    """Return what Pillow alone makes of an image."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L" if mode == "L" else "RGB", size and size[::-1])
        picture = image.convert(mode)
    if size:
        picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.atleast_3d(np.array(picture))).permute(2, 0, 1)


def assert_alike(decoded: torch.Tensor, expected: torch.Tensor) -> None:
    assert decoded.shape == expected.shape
    assert (decoded.int() - expected.int()).abs().max() <= LEVELS


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [None, (24, 24), (9, 70), (64, 48), (200, 300)])
@pytest.mark.parametrize("stored", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"quality": 30, "optimize": True}],
)
def test_a_jpeg_is_the_picture_that_pillow_makes(decoder, options, stored, size, mode):
    data = photo((217, 158), stored, **options)
    assert_alike(decode_image(io.BytesIO(data), size, mode), by_pillow(data, size, mode))


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 15, 17, 64])
@pytest.mark.parametrize("height", [1, 3, 8, 16, 33])
def test_jpegs_of_any_small_or_odd_size_decode_alike(decoder, width, height):
    data = photo((width, height))
    for size in (None, (1, 1), (4, 4), (2, 16), (40, 40)):
        assert_alike(decode_image(io.BytesIO(data), size), by_pillow(data, size, "RGB"))


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_either_way_to_resize_gives_the_same_picture(monkeypatch, mode, faster):
    monkeypatch.setattr(images, "_TORCH_RESIZES_FASTER", faster)
    data = photo((130, 90))
    decoded = decode_image(io.BytesIO(data), (50, 41), mode)
    assert decoded.is_contiguous()
    assert_alike(decoded, by_pillow(data, (50, 41), mode))


def test_simplejpeg_decodes_what_it_can(monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    calls = []

    def noted(*arguments, **options):
        calls.append(arguments[1])
        return simplejpeg.decode_jpeg(*arguments, **options)

    monkeypatch.setattr(jpeg, "simplejpeg", SimpleNamespace(**vars(simplejpeg) | {"decode_jpeg": noted}))
    decode_image(io.BytesIO(photo((40, 30))), 16)
    decode_image(io.BytesIO(photo((40, 30), "L")), mode="L")
    assert calls == ["RGB", "GRAY"]
    decode_image(io.BytesIO(photo((40, 30), "CMYK")))
    decode_image(picture("PNG"))
    assert len(calls) == 2


def test_the_orientation_is_left_as_it_is(decoder):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = photo((40, 24), exif=exif)
    assert decode_image(io.BytesIO(data)).shape == (3, 24, 40)
    assert_alike(decode_image(io.BytesIO(data)), decode_image(io.BytesIO(photo((40, 24)))))


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_jpeg_that_is_cut_off_is_an_error(decoder, kept):
    data = photo((200, 160))
    with pytest.raises(OSError, match=r"truncated|broken|cannot identify"):
        decode_image(io.BytesIO(data[: int(len(data) * kept)]))


def test_a_jpeg_with_bytes_behind_its_end_decodes(decoder):
    data = photo((48, 32))
    assert torch.equal(decode_image(io.BytesIO(data + b"more")), decode_image(io.BytesIO(data)))


def test_a_picture_that_is_too_large_is_refused(decoder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        decode_image(io.BytesIO(photo((40, 30))))


def test_sixteen_bits_become_eight():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 255, 256, 40_000, 65_535]], dtype=np.uint16)).save(file, "PNG")
    assert decode_image(file, mode="L").tolist() == [[[0, 0, 1, 156, 255]]]


def test_sixteen_bits_of_a_pgm_become_eight():
    values = np.array([[0, 255, 256, 40_000, 65_535]], dtype=">u2")
    file = io.BytesIO(b"P5\n5 1\n65535\n" + values.tobytes())
    assert decode_image(file, mode="L").tolist() == [[[0, 0, 1, 156, 255]]]


def test_a_file_is_read_from_its_start_wherever_it_stands(decoder, tmp_path):
    data = photo((40, 30))
    (tmp_path / "photo.jpg").write_bytes(data)
    with (tmp_path / "photo.jpg").open("rb") as file:
        file.seek(100)
        assert torch.equal(decode_image(file), decode_image(io.BytesIO(data)))


def test_the_tensor_of_a_jpeg_is_contiguous_and_the_caller_s_own(decoder):
    data = photo((40, 30))
    for size in (None, 16):
        for mode in ("L", "RGB"):
            decoded = decode_image(io.BytesIO(data), size, mode)
            assert decoded.is_contiguous()
            decoded += 1


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
    ("size", "shape"),
    [(16, (3, 16, 16)), (np.int64(16), (3, 16, 16)), ((20, 50), (3, 20, 50)), ([30, 40], (3, 30, 40))],
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


@pytest.mark.parametrize(
    "wrong",
    [{"size": size} for size in (0, (3, -1), (3,), (3, 4, 5), "33", 1.5, (2.0, 3.0))] + [{"mode": "CMYK"}],
)
def test_a_wrong_size_or_mode_is_refused_by_value(wrong):
    with pytest.raises(
        UsageError, match=str(next(iter(wrong.values()))).replace("(", r"\(").replace(")", r"\)")
    ):
        decode_image(picture("PNG"), **wrong)


def test_what_is_no_file_is_refused():
    with pytest.raises(UsageError, match=r"'cat\.png' is no open binary file"):
        decode_image("cat.png")


def test_what_is_no_image_is_an_error():
    with pytest.raises(UnidentifiedImageError):
        decode_image(io.BytesIO(b"not an image"))
