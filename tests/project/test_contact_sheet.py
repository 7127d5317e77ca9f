"""Laws of the contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchkit.errors import SampleError, UsageError
from benchkit.format.sample import MemberFile
from benchkit.project.contact_sheet import (
    GAP_PIXELS,
    LABEL_CHARACTERS,
    LABEL_PIXELS,
    PICTURE_PIXELS,
    Tile,
    _decode,
    draw_sheet,
    label_text,
    write_sheet,
)

STEP_X = PICTURE_PIXELS + GAP_PIXELS
STEP_Y = PICTURE_PIXELS + LABEL_PIXELS + GAP_PIXELS


def tile(size: tuple[int, int], colour: tuple[int, int, int], label: str = "7") -> Tile:
    return Tile(picture=Image.new("RGB", size, colour), label=label)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (64, 8, 8)])
def test_the_grid_is_nearly_square_and_shows_every_sample(count: int, columns: int, rows: int) -> None:
    colours = [(0, 3 * number, 255) for number in range(count)]
    sheet = draw_sheet([tile((8, 8), colour) for colour in colours])
    assert sheet.size == (columns * STEP_X + GAP_PIXELS, rows * STEP_Y + GAP_PIXELS)
    middles = [
        sheet.getpixel((GAP_PIXELS + n % columns * STEP_X + 32, GAP_PIXELS + n // columns * STEP_Y + 32))
        for n in range(count)
    ]
    assert middles == colours


def test_a_small_picture_keeps_its_pixels_and_a_label_stands_below() -> None:
    picture = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("RGB")
    sheet = np.asarray(draw_sheet([Tile(picture=picture, label="8")]))
    square = sheet[GAP_PIXELS : GAP_PIXELS + 64, GAP_PIXELS : GAP_PIXELS + 64, 0]
    assert np.array_equal(square, np.kron([[0, 255], [255, 0]], np.ones((32, 32))))
    assert sheet[GAP_PIXELS + PICTURE_PIXELS : -GAP_PIXELS].min() < 128


@pytest.mark.parametrize("size", [(400, 10), (3, 5000), (1, 1)])
def test_a_picture_of_any_shape_fits_its_square(size: tuple[int, int]) -> None:
    sheet = np.asarray(draw_sheet([tile(size, (255, 0, 0), label="")]))
    red = np.argwhere((sheet == (255, 0, 0)).all(axis=2))
    assert len(red) > 0
    assert red.min() >= GAP_PIXELS
    assert red.max() < GAP_PIXELS + PICTURE_PIXELS


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (7, "7"),
        ("cat\nand dog", "cat and.."),
        ("größe", "größe"),
        ("日本", "\\u65e5\\u.."),
        ([1, 2], "[1, 2]"),
        (None, "None"),
    ],
)
def test_a_label_is_one_short_line(label: object, text: str) -> None:
    assert label_text(label) == text
    assert len(label_text(label)) <= LABEL_CHARACTERS


def test_a_picture_of_sixteen_bits_is_as_bright_as_one_of_eight() -> None:
    file = MemberFile()
    Image.fromarray(np.array([[0, 40_000, 65_535]], dtype=np.uint16)).save(file, "PNG")
    assert np.asarray(_decode(1, [file], name="n").picture)[0, :, 0].tolist() == [0, 156, 255]


def test_what_is_no_picture_is_named_alone() -> None:
    file = MemberFile(b"no picture")
    file.name = "a.png"
    with pytest.raises(SampleError, match=r"^'a.png' of n is no picture that Pillow knows$"):
        _decode(1, [file], name="n")


def test_the_sheet_is_written_as_png_whatever_its_name(tmp_path: Path) -> None:
    write_sheet([tile((8, 8), (1, 2, 3))], tmp_path / "sheet.picture")
    with Image.open(tmp_path / "sheet.picture") as sheet:
        assert sheet.format == "PNG"


def test_a_sheet_that_cannot_be_written_is_an_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*nowhere"):
        write_sheet([tile((8, 8), (1, 2, 3))], tmp_path / "nowhere/sheet.png")
