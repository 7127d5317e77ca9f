"""The limit of packing: `tar`, and `tar | zstd -1 -T2`, over the same list of files."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from cases import Case, Place


def pack(files: Sequence[str], out: Path, case: Case, place: Place) -> None:
    """Write one tar, or one tar.zst."""
    del files
    out.mkdir(parents=True)
    tar = ["tar", "--absolute-names", "-T", str(place.files), "-cf"]
    if case.way == "plain":
        subprocess.run([*tar, str(out / "all.tar")], check=True)
        return
    with (
        subprocess.Popen([*tar, "-"], stdout=subprocess.PIPE) as writer,
        (out / "all.tar.zst").open("wb") as file,
    ):
        subprocess.run(["zstd", "-1", "-T2", "-q", "-c"], stdin=writer.stdout, stdout=file, check=True)
    if writer.returncode:
        raise subprocess.CalledProcessError(writer.returncode, tar)
