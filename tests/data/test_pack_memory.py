"""Packing takes a bounded memory: little for a sample, nothing for the size of a file."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from benchkit.data import ProcessorDataset
    from benchkit.data.pack import pack
    from benchkit.store.local import LocalStore

    project, count, repeats = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    class Same(ProcessorDataset):
        def __len__(self):
            return count

        def get_file(self, item):
            return [str(project / "file.bin")] * repeats

        def get_label_and_numeric_data(self, item):
            return item % 10

        def get_key(self, item):
            return str(item)

    staging = LocalStore(project / "staging")
    pack(Same(), "train", staging=staging, project=project, workers=2, chunk_bytes=1 << 20)
    """
)


def anonymous_bytes(process: psutil.Process) -> int:
    """Return the memory of a process that is no file's, shared pages divided among those that share them."""
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) << 10
    raise ProcessLookupError(process.pid)


def peak_bytes(project: Path, count: int, repeats: int) -> int:
    """Pack, and return the most that all processes together took."""
    script = project / "script.py"
    script.write_text(SCRIPT)
    peak = 0
    with subprocess.Popen([sys.executable, str(script), str(project), str(count), str(repeats)]) as process:
        leader = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, sum(map(anonymous_bytes, [leader, *leader.children()])))
            except (OSError, psutil.Error):
                continue  # one has just ended
            time.sleep(0.005)
    assert process.returncode == 0
    return peak


@pytest.mark.processes
@pytest.mark.slow
def test_memory_grows_by_less_than_64_bytes_a_sample(tmp_path: Path) -> None:
    for name in ("few", "many"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.bin").write_bytes(bytes(100))
    few, many = (
        [peak_bytes(folder, count, 1) for _ in ("the first time", "again, building on that")]
        for folder, count in ((tmp_path / "few", 20_000), (tmp_path / "many", 200_000))
    )
    for turn in (0, 1):
        assert many[turn] - few[turn] < 64 * 180_000


@pytest.mark.processes
def test_memory_does_not_grow_with_the_size_of_a_file_or_of_a_sample(tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(1 << 20))
    small = peak_bytes(tmp_path, 2, 1)
    assert peak_bytes(tmp_path, 2, 100) <= small + (32 << 20)
    with file.open("r+b") as sparse:
        sparse.truncate(200 << 20)
    assert peak_bytes(tmp_path, 2, 1) <= small + (32 << 20)
