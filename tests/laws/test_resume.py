"""The law of resuming: from any state, in a new process, the rest is the rest of the undisturbed run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from support.making import publish_samples
from support.processes import environment
from support.reading import Labels, labels_of, make
from torch import nn

from benchkit.errors import StateError

SCRIPT = Path(__file__).parent / "resuming.py"
SAMPLES, BATCH, EPOCHS = 61, 8, 3
STEPS = -(-SAMPLES // BATCH)
RUNS = [
    {"workers": 0, "shuffle": True},
    {"workers": 0, "shuffle": False},
    {"workers": 1, "shuffle": True},
    {"workers": 2, "shuffle": True},
    {"workers": 3, "shuffle": True, "prefetch_factor": 3},
    {"workers": 1, "shuffle": True, "persistent_workers": True},
    {"workers": 2, "shuffle": False, "persistent_workers": True},
    {"workers": 3, "shuffle": True, "persistent_workers": True, "open_chunks": 5},
]


@pytest.fixture
def numbers(project: Path) -> Path:
    publish_samples(project, "numbers", SAMPLES, per_chunk=7)
    return project


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("run", RUNS, ids=lambda run: "-".join(f"{value}" for value in run.values()))
def test_a_new_process_goes_on_from_every_state_with_the_rest_byte_for_byte(numbers, tmp_path, run):
    out = tmp_path / "told.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(run), str(out)],
        env=environment(numbers),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    # The very start; then, of epochs 1 and 2, the start and, inside the loop, after every batch.
    assert told == {"resumed": 1 + 2 * (1 + STEPS), "batches": EPOCHS * STEPS}


def test_workers_that_are_spawned_resume_as_forked_ones(numbers):
    whole = make("numbers", BATCH, shuffle=True)
    expected = labels_of(list(whole))
    resumed = make("numbers", BATCH, 1, shuffle=True)
    resumed.multiprocessing_context = "spawn"
    resumed.skip_batches(STEPS - 2)
    assert labels_of(list(resumed)) == expected[(STEPS - 2) * BATCH :]


def test_a_state_inside_a_prepared_loop_is_followed_by_the_next_batch_at_every_step(numbers, tmp_path):
    accelerator = Accelerator(cpu=True)
    loader, _ = accelerator.prepare(make("numbers", BATCH, 2, shuffle=True), nn.Linear(1, 1))
    expected, states = [], []
    for step, batch in enumerate(loader):
        expected.append(batch.tolist())
        states.append(loader.state_dict())
        if step % 3 == 0:
            accelerator.save_state(str(tmp_path / f"{step}"))
    for step, state in enumerate(states):
        other = make("numbers", BATCH, shuffle=True)
        other.load_state_dict(state)
        assert [batch.tolist() for batch in other] == expected[step + 1 :]
    for step in range(0, STEPS, 3):
        accelerator.load_state(str(tmp_path / f"{step}"))
        assert [batch.tolist() for batch in loader] == expected[step + 1 :]


def test_persistent_workers_go_over_to_the_version_of_a_loaded_state(numbers):
    state = make("numbers", BATCH, shuffle=True).state_dict()
    expected = labels_of(list(make("numbers", BATCH, shuffle=True)))
    publish_samples(numbers, "numbers", 20, per_chunk=4)
    loader = make("numbers", BATCH, 2, shuffle=True, persistent_workers=True)
    assert len(labels_of(list(loader))) == 24
    loader.load_state_dict(state)
    assert labels_of(list(loader)) == expected


def test_a_second_pass_begun_within_the_first_ends_the_first(numbers):
    for workers, persistent in [(0, False), (2, False), (2, True)]:
        loader = make("numbers", BATCH, workers, persistent_workers=persistent)
        first = iter(loader)
        next(first)
        second = iter(loader)
        got = [next(second)]
        with pytest.raises(ValueError, match="another pass of this loader has begun"):
            next(first)
        got += list(second)
        assert sorted(labels_of(got)[:SAMPLES]) == list(range(SAMPLES))


def test_a_state_behind_the_end_or_of_something_else_is_refused_and_changes_nothing(numbers):
    loader = make("numbers", BATCH)
    state = loader.state_dict()
    for change in ({"position": SAMPLES + 1}, {"dataset": "other"}, {"manifest": "0" * 64}, {"seed": 5}):
        with pytest.raises((StateError, LookupError)):
            loader.load_state_dict(state | change)
        assert loader.state_dict() == state


def test_labels_of_a_resumed_unshuffled_run_are_the_written_order(numbers):
    loader = make("numbers", BATCH, chunk=Labels).skip_batches(3)
    assert labels_of(list(loader))[: SAMPLES - 24] == list(range(24, SAMPLES))
