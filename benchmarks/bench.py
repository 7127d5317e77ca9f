"""A run of the benchmark: source data, packed datasets and measurements in one folder."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ballast import Ballast
from cases import Action, Case, Form, Place, write_job
from data import COUNTS, make_dataset
from objects import Objects
from processes import run_script
from sides import OURS, SIDES

_JOB = Path(__file__).with_name("job.py")
_CHUNK_BYTES = 32 << 20  # what `pack` makes unless it is told otherwise
# However little data there is: of two workers, one waits for the other's last chunk.
_LEAST_CHUNKS = 16

Record = dict[str, Any]


class Bench:
    """Prepares what cases need, once, and measures them.

    Args:
        folder: Where all data goes; what an earlier run has made there is used again.
        timeout_seconds: The longest that a process may take.
        objects: The object store, where a case reads from one.
        ballast: What fills memory before each measurement; None leaves it as it is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        timeout_seconds: float,
        objects: Objects | None = None,
        ballast: Ballast | None = None,
    ) -> None:
        self._folder = folder
        self._timeout_seconds = timeout_seconds
        self._objects = objects
        self._ballast = ballast
        self._sources: dict[str, tuple[Path, int]] = {}
        self._done: dict[Case, Record] = {}
        self._remotes: dict[tuple[str, str], str] = {}

    def run(self, cases: Sequence[Case], *, repetitions: int) -> Iterator[Record]:
        """Measure cases in turn: all sides of one condition, another side first each time, then the next.

        A case that was not done in time is not tried again.
        """
        late: dict[Case, Record] = {}
        groups: dict[tuple[Any, ...], list[Case]] = {}
        for case in cases:
            groups.setdefault(_condition(case), []).append(case)
        for repetition in range(repetitions):
            for sides in groups.values():
                turn = repetition % len(sides)
                for case in sides[turn:] + sides[:turn]:
                    found = late.get(case) or self.measure(case)
                    if found.get("timed_out"):
                        late[case] = found
                    yield {**_facts(case), "repetition": repetition, **found}

    def measure(self, case: Case) -> Record:
        """Return what one measurement came to: figures, or `error`."""
        prepared = self._prepare(case)
        if "error" in prepared:
            return prepared
        figures: Record = {}
        with self._placed(case) as place:
            there = place if case.latency_ms is None else self._place_remote(case, place, prepared)
            for step in self._list_steps(case):
                found = self._run(step, there)
                if "error" in found:
                    return found
                figures = found | figures
        self._done[case] = figures
        return figures

    def _prepare(self, case: Case) -> Record:
        """Pack what a case streams, and check all of it, at the first call; return what came of it."""
        name = _packed_by(case)
        side, result = SIDES[name], {}
        if case.action == "pack" or side.stored is None:
            return result
        packing = Case(
            task="prepare",
            side=name,
            kind=case.kind,
            count=case.count,
            action="prepare",
            way=side.stored,
            workers=2,
        )
        checking = _check_of(packing, case.form)
        for step in (packing, checking) if side.packs else (checking,):
            if step not in self._done:
                with self._placed(step) as place:
                    self._done[step] = self._run(step, place)
                os.sync()  # what was written is not to be written back while something is measured
            if "error" in self._done[step]:
                return self._done[step]
            result |= self._done[step]
        return result

    def _list_steps(self, case: Case) -> list[Case]:
        """Return what is run for a case, one process after another in one scratch folder."""
        actions: dict[Action, tuple[Action, ...]] = {"resume": ("stop", "resume", "start")}
        steps = [replace(case, action=action) for action in actions.get(case.action, (case.action,))]
        if case.action == "pack" and SIDES[case.side].stored and case not in self._done:
            steps.append(_check_of(case, "raw"))
        return steps

    @contextmanager
    def _placed(self, case: Case) -> Iterator[Place]:
        """Give a place, whose scratch folder is empty, and gone afterwards."""
        files, total_bytes = self._source(case)
        scratch = Path(tempfile.mkdtemp(prefix="s", dir=self._folder))
        kept = self._folder / "packed" / case.side.replace(" ", "-") / case.dataset
        if case.action == "prepare":
            shutil.rmtree(kept, ignore_errors=True)
        try:
            yield Place(
                files=files,
                total_bytes=total_bytes,
                chunk_bytes=min(_CHUNK_BYTES, total_bytes // _LEAST_CHUNKS),
                packed=scratch / "packed" if case.action == "pack" else kept,
                scratch=scratch,
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _place_remote(self, case: Case, place: Place, prepared: Record) -> Place:
        """Return the place of a case that reads from the object store, uploaded at the first call."""
        if self._objects is None or case.latency_ms is None:
            raise ValueError(f"{case} reads from an object store, and there is none")
        key = (_packed_by(case), case.dataset)
        if key not in self._remotes:
            self._remotes[key] = self._objects.upload(Path(prepared["published"]), "/".join(key))
        return replace(place, remote=self._remotes[key], endpoint=self._objects.endpoints[case.latency_ms])

    def _source(self, case: Case) -> tuple[Path, int]:
        """Return the list of the source files, made at the first call, and their size."""
        if case.dataset not in self._sources:
            folder = self._folder / "data"
            paths = make_dataset(case.kind, folder / case.kind, scale=case.count / COUNTS[case.kind])
            listed = folder / f"{case.dataset}.txt"
            listed.write_text("".join(f"{path}\n" for path in paths))
            # They are read, so that the page cache is warm for the first side, too.
            self._sources[case.dataset] = listed, sum(len(path.read_bytes()) for path in paths)
        return self._sources[case.dataset]

    def _run(self, case: Case, place: Place) -> Record:
        temporary = place.scratch / "tmp"
        temporary.mkdir(exist_ok=True)
        offline = {"HF_HOME": str(place.scratch / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        if self._ballast:
            self._ballast.fill()
        place = replace(place, started=time.monotonic())
        figures = run_script(
            _JOB,
            write_job(case, place),
            environment={"TMPDIR": str(temporary), **offline},
            output=place.scratch / "output",
            timeout_seconds=self._timeout_seconds,
        )
        _tell(case, time.monotonic() - place.started, figures)
        return figures


def _check_of(case: Case, form: Form) -> Case:
    return replace(case, action="check", workers=0, form=form)


def _condition(case: Case) -> tuple[Any, ...]:
    """Return what all sides that are compared have in common; a limit stands with the first condition."""
    return (case.task, case.dataset, case.action, case.workers or 0, bool(case.shuffle), case.latency_ms)


def _facts(case: Case) -> Record:
    names = ("task", "side", "action", "dataset", "way", "workers", "shuffle", "form", "latency_ms")
    return {name: getattr(case, name) for name in names}


def _tell(case: Case, seconds: float, figures: Record) -> None:
    shuffled = "shuffled" if case.shuffle else "in order"
    words = [
        case.task,
        case.action,
        case.side,
        case.dataset,
        case.way,
        case.form,
        f"{case.workers}",
        shuffled,
    ]
    print(*words, f"{seconds:.1f} s", figures.get("error", ""), file=sys.stderr)


def _packed_by(case: Case) -> str:
    """Return the side whose packed data a case reads."""
    return OURS if SIDES[case.side].module == "limit_gets" else case.side
