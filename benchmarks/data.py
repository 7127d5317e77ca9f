"""The data that is measured: made here, from seeds, the same on every machine with the same Pillow.

A  photo-like JPEGs of about 65 KB in 100 class folders: smooth fields plus noise, 256-500 px, quality 85-90
B  files of about 1 KB, a label each
C  float32 arrays of 16 KB, as .npy files
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"A": 20_000, "B": 200_000, "C": 20_000}
CLASSES = 100
_BATCH = 500


def make_dataset(kind: str, folder: Path, *, scale: float = 1.0) -> list[Path]:
    """Make what is not there yet, and return the files in order.

    Args:
        kind: `A`, `B` or `C`.
        folder: Where they go.
        scale: How many, as a share of the whole number.
    """
    count = max(1, round(COUNTS[kind] * scale))
    paths = [folder / path_of(kind, number) for number in range(count)]
    missing = [number for number in range(count) if not paths[number].exists()]
    batches = [missing[start : start + _BATCH] for start in range(0, len(missing), _BATCH)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(partial(_write_files, kind, folder), batches))
    return paths


def path_of(kind: str, number: int) -> str:
    """Return a file's path in its dataset's folder; a class is a folder."""
    suffix = {"A": "jpg", "B": "bin", "C": "npy"}[kind]
    return f"{number % CLASSES:03d}/{number:06d}.{suffix}"


def write_file(kind: str, path: Path, number: int, *, seed: int = 0) -> None:
    """Write the file of one number; another seed gives it other contents."""
    random = np.random.default_rng((seed, number))
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "A":
        _draw_photo(random).save(path, quality=int(random.integers(85, 91)))
    elif kind == "B":
        path.write_bytes(random.bytes(int(random.integers(900, 1150))))
    else:
        np.save(path, random.standard_normal(4096, dtype=np.float32))


def _write_files(kind: str, folder: Path, numbers: list[int]) -> None:
    for number in numbers:
        write_file(kind, folder / path_of(kind, number), number)


def _draw_photo(random: np.random.Generator) -> Image.Image:
    """Return a picture that compresses as a photograph does: a coarse field of colours, and grain."""
    width, height = (int(side) for side in random.integers(256, 501, 2))
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.normal(0, 15, (height, width, 1)) + random.normal(0, 5, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))


def main() -> None:
    """Make the datasets that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", default="ABC", help="which of them, such as A or BC")
    parser.add_argument("--scale", type=float, default=1.0, help="how many, as a share of the whole number")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        paths = make_dataset(kind, arguments.folder / kind, scale=arguments.scale)
        size = sum(path.stat().st_size for path in paths)
        print(f"{kind}: {len(paths):,} files, {size / 1e6:,.1f} MB, mean {size / len(paths) / 1e3:.1f} KB")


if __name__ == "__main__":
    main()
