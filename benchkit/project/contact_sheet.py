"""A contact sheet: decoded samples of a dataset as one picture, each over its label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from benchkit.errors import DatasetError, SampleError, UsageError
from benchkit.format.sample import MemberFile
from benchkit.stream import IterableChunk
from benchkit.stream.images import convert_picture

PICTURE_PIXELS = 64
LABEL_PIXELS = 14
GAP_PIXELS = 6
LABEL_CHARACTERS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One sample on the sheet.

    Attributes:
        picture: Its picture in RGB, or a cross on grey in its place.
        label: Its label as text.
        failure: Why there is a cross; empty where there is none.
    """

    picture: Image.Image
    label: str
    failure: str = ""


def read_tiles(name: str, *, version: int | None = None, cloud: bool, count: int) -> list[Tile]:
    """Return the first samples of a dataset in a shuffled order, decoded; some may fail.

    Args:
        name: The dataset.
        version: Number of the version; None is the newest.
        cloud: True reads the project's remote, False its staging.
        count: At most how many.

    Raises:
        SampleError: None of them has a first file that is a picture and that Pillow reads.
        DatasetError: The dataset is empty.
    """
    samples = itertools.islice(IterableChunk(name, cloud, version=version, shuffle=True), count)
    tiles = [_make_tile(label, files, name=name) for label, files in samples]
    if not tiles:
        raise DatasetError(f"dataset {name} holds no samples to show")
    if all(tile.failure for tile in tiles):
        raise SampleError(tiles[0].failure)
    return tiles


def write_sheet(tiles: Sequence[Tile], output: Path) -> None:
    """Write the sheet of the tiles as a PNG."""
    try:
        draw_sheet(tiles).save(output, format="PNG")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error}") from error


def draw_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """Return the tiles row by row in a nearly square grid, RGB on white.

    A picture is scaled, in its own proportions, into a square of 64 pixels; below it stands its label.
    """
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    width, height = PICTURE_PIXELS + GAP_PIXELS, PICTURE_PIXELS + LABEL_PIXELS + GAP_PIXELS
    sheet = Image.new("RGB", (columns * width + GAP_PIXELS, rows * height + GAP_PIXELS), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for number, tile in enumerate(tiles):
        left = GAP_PIXELS + number % columns * width
        top = GAP_PIXELS + number // columns * height
        picture = _fit(tile.picture)
        sheet.paste(
            picture,
            (left + (PICTURE_PIXELS - picture.width) // 2, top + (PICTURE_PIXELS - picture.height) // 2),
        )
        indent = (PICTURE_PIXELS - pen.textlength(tile.label, font=font)) / 2
        pen.text((left + indent, top + PICTURE_PIXELS), tile.label, fill="black", font=font)
    return sheet


def label_text(label: object) -> str:
    """Return a label as one short line of Latin-1, which the built-in font can draw."""
    text = str(label).encode("latin-1", "backslashreplace").decode("latin-1")
    text = " ".join(text.split())
    return text if len(text) <= LABEL_CHARACTERS else f"{text[: LABEL_CHARACTERS - 2].rstrip()}.."


def _make_tile(label: object, files: Sequence[MemberFile] | None, *, name: str) -> Tile:
    try:
        return _decode(label, files, name=name)
    except SampleError as error:
        return Tile(picture=_draw_cross(), label=label_text(label), failure=str(error))


def _decode(label: object, files: Sequence[MemberFile] | None, *, name: str) -> Tile:
    if not files:
        raise SampleError(f"a sample of {name} has no file to show: show-samples is for datasets of pictures")
    try:
        with Image.open(files[0]) as picture:
            pixels = convert_picture(picture, "RGB")
    except UnidentifiedImageError as error:
        raise SampleError(f"{files[0].name!r} of {name} is no picture that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SampleError(f"{files[0].name!r} of {name} is no picture that Pillow reads: {error}") from error
    return Tile(picture=pixels, label=label_text(label))


def _draw_cross() -> Image.Image:
    last = PICTURE_PIXELS - 1
    square = Image.new("RGB", (PICTURE_PIXELS, PICTURE_PIXELS), "lightgrey")
    pen = ImageDraw.Draw(square)
    for line in ((0, 0, last, last), (0, last, last, 0)):
        pen.line(line, fill="red", width=2)
    return square


def _fit(picture: Image.Image) -> Image.Image:
    scale = PICTURE_PIXELS / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Small pictures show their pixels; large ones are averaged down.
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
