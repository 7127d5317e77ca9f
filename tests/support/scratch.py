"""Scratch projects for tests of the command line: a folder, its datasets, and both programs run in it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchkit.errors import BenchKitError

ROOT = Path(__file__).resolve().parents[2]
BENCH_KIT = Path(sys.executable).with_name("bench-kit")

NOTES = """\
from pathlib import Path

from benchkit import IterableChunk, ProcessorDataset

DATA = Path(__file__).resolve().parents[1] / "data"


class Notes(ProcessorDataset):
    def __init__(self):
        self.files = sorted(DATA.glob("*.txt"))

    def __len__(self):
        return len(self.files)

    def get_file(self, item):
        return [str(self.files[item])]

    def get_label_and_numeric_data(self, item):
        return int(self.files[item].stem)


class NotesChunk(IterableChunk):
    def _data_iterator(self):
        for label, files in super()._data_iterator():
            yield label, int(files[0].read(9))


def main():
    return [(Notes(), NotesChunk, "train", [], {})]
"""
"""`Datasets/ProjectDatasets.py` of a scratch project: a file says its own number, which is its label too."""


def note(number: int, size: int) -> bytes:
    """Return the contents of file `number`: its number in nine digits, and bytes that do not compress."""
    return b"%09d" % number + np.random.default_rng(number).bytes(size - 9)


@dataclass(frozen=True, slots=True)
class Scratch:
    """A project that is made and used as a user would.

    Attributes:
        root: Its folder.
        cache: The chunk cache of all commands run in it.
    """

    root: Path
    cache: Path

    @classmethod
    def make(cls, root: Path, *, files: int = 40, size: int = 300, datasets: str = NOTES) -> Scratch:
        """Make a project of so many files of so many bytes."""
        root.mkdir(parents=True)
        (root / "benchkit.toml").write_text('[project]\nid = "scratch"\nremote = "store"\n')
        (root / "manage.py").write_bytes((ROOT / "project_template/manage.py").read_bytes())
        (root / "data").mkdir()
        for number in range(files):
            (root / f"data/{number:04d}.txt").write_bytes(note(number, size))
        project = cls(root, root.parent / f"{root.name}-cache")
        project.write_datasets(datasets)
        return project

    def write_datasets(self, text: str) -> None:
        """Write `Datasets/ProjectDatasets.py`."""
        path = self.root / "Datasets/ProjectDatasets.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its commands, with no settings from outside."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("BENCHKIT_")}
        return ours | {
            "BENCHKIT_CACHE_DIR": str(self.cache),
            "OMP_NUM_THREADS": "1",
            # Python would take datasets for unchanged that are written anew in the same second and size.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, program: list[str | Path], *arguments: str) -> subprocess.Popen[str]:
        """Start a program in the project's folder, in a process group of its own."""
        return subprocess.Popen(
            [*program, *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def on_terminal(
        self, command: list[str | Path], *, typed: bytes = b"", code: int = 0
    ) -> tuple[bytes, bytes]:
        """Run a command that ends with the code, its stdin and stderr on a terminal where something is typed.

        Returns:
            Its stdout, which is a pipe, and what the terminal shows.
        """
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        os.write(leader, typed)
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=follower,
            stdout=subprocess.PIPE,
            stderr=follower,
        )
        os.close(follower)
        shown = bytearray()
        try:
            while block := os.read(leader, 1 << 16):
                shown += block
        except OSError:  # what Linux says when the other end is closed
            out, _ = process.communicate(timeout=60)
        os.close(leader)
        assert process.returncode == code, (out, shown)
        return out, bytes(shown)

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python manage.py …`."""
        return self._run([sys.executable, "manage.py"], *arguments)

    def migrate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python manage.py migrate-data …` and see it succeed in silence but for its tables."""
        done = self.manage("migrate-data", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done

    def bench_kit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `bench-kit …`."""
        return self._run([BENCH_KIT], *arguments)

    def objects(self, store: str) -> dict[str, bytes]:
        """Return the contents of every object in a store of the project, `store` or `ProjectDatasets`."""
        folder = self.root / store
        files = (path for path in folder.rglob("*") if path.is_file() and ".tmp" not in path.parts)
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    def versions(self, store: str, dataset: str = "train") -> list[Path]:
        """Return the files of a dataset's manifests, oldest first."""
        folder = self.root / store / "datasets" / dataset / "versions"
        return sorted(folder.glob("*.json"), key=lambda path: int(path.name.partition("-")[0]))

    def chunks(self, store: str, dataset: str = "train") -> list[Path]:
        """Return the files of a dataset's chunks, in order of name."""
        return sorted((self.root / store / "datasets" / dataset / "chunks").iterdir())

    def _run(self, program: list[str | Path], *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(program, *arguments)
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def flip(path: Path, position: float = 0.5) -> None:
    """Change one bit of a file, so far into it."""
    data = bytearray(path.read_bytes())
    data[int((len(data) - 1) * position)] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    """Take the last byte off a file."""
    path.write_bytes(path.read_bytes()[:-1])


def table_rows(output: str) -> list[list[str]]:
    """Return the cells of the tables in a command's output, headings included; blank lines part tables."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in output.splitlines() if line]


def assert_refused(
    done: subprocess.CompletedProcess[str], error: type[BenchKitError], *words: str, debug: bool = False
) -> None:
    """Check that a command ended in one line that says all these words, and the error's exit code.

    With `debug` there is a traceback before that line, and else none anywhere.
    """
    lines = done.stderr.splitlines()
    assert done.returncode == error.exit_code, done
    assert ("Traceback (most recent call last):" in lines) == debug, done.stderr
    assert len(lines) == 1 or debug, done.stderr
    assert lines[-1].startswith("error: "), done.stderr
    assert "Traceback" not in done.stdout
    for word in words:
        assert word in lines[-1], (word, lines[-1])
