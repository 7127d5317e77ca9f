"""The law of resuming: a run that is killed again and again ends as one that nobody disturbed."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.making import make_project, publish_samples
from support.processes import environment
from train.resumable import EPOCHS, EVERY, GLOBAL_BATCH, SAMPLES, STEPS

SCRIPT = Path(__file__).with_name("resumable.py")
KILLS = 12

Step = tuple[int, int]


class Trainings:
    """Trainings in one project, begun one after the other with the same command."""

    def __init__(self, project: Path, forker: subprocess.Popen[str]) -> None:
        self.project, self.forker = project, forker
        self.worlds: list[int] = []

    def run(self, world: int, *, kill_after: int | None = None, seconds: float = 0.0) -> list[int]:
        """Train in so many processes, until so many steps and seconds are over; return their exit codes."""
        order = {
            "attempt": len(self.worlds),
            "project": str(self.project),
            "world": world,
            "kill_after": kill_after,
            "seconds": seconds,
        }
        self.worlds.append(world)
        assert self.forker.stdin
        assert self.forker.stdout
        self.forker.stdin.write(json.dumps(order) + "\n")
        self.forker.stdin.flush()
        return json.loads(self.forker.stdout.readline())

    def run_killed(self, worlds: Iterator[int], seed: int) -> None:
        """Train to the end, killed on the way at random moments, and each time begun again."""
        chance = random.Random(seed)
        for _ in range(KILLS):
            world = next(worlds)
            codes = self.run(world, kill_after=chance.randint(0, 4), seconds=chance.uniform(0, 0.03))
            assert codes == [-9] * world
        world = next(worlds)
        assert self.run(world) == [0] * world

    @property
    def result(self) -> dict:
        """What the last training ended with: weights, losses, accuracies."""
        return json.loads((self.project / f"{len(self.worlds) - 1}.json").read_text())

    def steps(self, attempt: int) -> dict[Step, list[int]]:
        """Return the labels that each step of a training had, over all its ranks, without padding.

        A step that was not made on all ranks is left out.
        """
        found: dict[Step, list[int]] = {}
        ranks = [self._log(attempt, rank)[1:] for rank in range(self.worlds[attempt])]
        for lines in zip(*ranks, strict=False):
            epoch, step, _, real = lines[0]
            assert all(line[:2] == [epoch, step] for line in lines)
            found[epoch, step] = [label for line in lines for label in line[2]][:real]
        return found

    def begun(self, attempt: int) -> Step | None:
        """Return after which step a training began; None where it was killed before that."""
        for checkpoint in self._log(attempt, 0)[:1]:
            epoch, position, _ = checkpoint or (0, 0, None)
            return epoch, -(-position // GLOBAL_BATCH)
        return None

    def _log(self, attempt: int, rank: int) -> list:
        path = self.project / f"{attempt}-{rank}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Trainings]]:
    forkers = []

    def make() -> Trainings:
        project = make_project(tmp_path_factory.mktemp("resume") / "project")
        publish_samples(project, "n138", SAMPLES, per_chunk=9, size=20)
        publish_samples(project, "n50", 50, per_chunk=25, size=20)
        forkers.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(project),
            )
        )
        return Trainings(project, forkers[-1])

    yield make
    for forker in forkers:
        forker.communicate(timeout=60)


@pytest.fixture(scope="module")
def undisturbed(trainings: Callable[[], Trainings]) -> Trainings:
    """Return a training of two processes that nobody disturbed."""
    training = trainings()
    assert training.run(2) == [0, 0]
    steps = training.steps(0)
    assert list(steps) == list(itertools.product(range(EPOCHS), range(1, STEPS + 1)))
    for epoch in range(EPOCHS):
        seen = [label for step in range(1, STEPS + 1) for label in steps[epoch, step]]
        assert sorted(seen) == list(range(SAMPLES))
    assert len(set(training.result["losses"])) == EPOCHS * STEPS
    return training


def whole_before(step: Step) -> Step:
    """Return the step whose checkpoint was whole when a step began."""
    epoch, number = step
    saved = (number - 1) // EVERY * EVERY
    return (epoch, saved) if saved or not epoch else (epoch - 1, STEPS)


def assert_same_samples(training: Trainings, undisturbed: Trainings) -> None:
    """Check that every step, made once or again, had the samples it should have, and that none is missing."""
    expected = {step: sorted(labels) for step, labels in undisturbed.steps(0).items()}
    found: dict[Step, list[int]] = {}
    latest = (0, 0)
    for attempt in range(len(training.worlds)):
        begun, steps = training.begun(attempt), training.steps(attempt)
        if begun is None:
            continue
        assert begun >= latest, f"training {attempt} did not begin with the newest whole checkpoint"
        for step, labels in steps.items():
            assert sorted(labels) == expected[step]
            assert step > begun, f"training {attempt} had samples again that its checkpoint had"
        found |= steps
        latest = max(latest, begun, *map(whole_before, steps))
    assert found.keys() == expected.keys()


@pytest.mark.slow
@pytest.mark.processes
def test_a_run_killed_at_random_steps_ends_as_an_undisturbed_one(trainings, undisturbed):
    training = trainings()
    training.run_killed(itertools.repeat(2), seed=1)
    assert training.result == undisturbed.result
    assert_same_samples(training, undisturbed)


@pytest.mark.slow
@pytest.mark.processes
def test_a_run_killed_and_begun_with_other_processes_has_the_same_samples_in_every_global_batch(
    trainings, undisturbed
):
    training = trainings()
    training.run_killed(itertools.cycle([2, 3, 1]), seed=2)
    assert_same_samples(training, undisturbed)
    assert len(training.result["losses"]) == EPOCHS * STEPS
