"""Runs apart: an undisturbed run in one process, and one more process for every state that it passed."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from support.reading import Numbers, digest, make

SAMPLES, BATCH, EPOCHS = 61, 8, 3
STEPS = -(-SAMPLES // BATCH)

Told = list[tuple[int, str]]
"""Epoch and digest of batches."""


def run_to_end(loader, state: dict, told: Callable[[dict], None] | None = None) -> Told:
    """Return what the loader yields up to the last epoch, beginning in the state's."""
    batches: Told = []
    for epoch in range(state["epoch"], EPOCHS):
        for batch in loader:
            batches.append((epoch, digest(batch)))
            if told:
                told(loader.state_dict())
        if told:
            told(loader.state_dict())
    return batches


def undisturbed(options: dict) -> dict:
    """Return all batches and all states of a run, each state with how many batches came before."""
    loader = make("numbers", BATCH, chunk=Numbers, **options)
    states = [(0, loader.state_dict())]
    received = [0]

    def note(state: dict) -> None:
        received[0] += state["position"] != 0
        states.append((received[0], state))

    return {"batches": run_to_end(loader, states[0][1], note), "states": states}


def resumed(options: dict, whole: dict, number: int) -> None:
    """Load one of the states, twice, and check all that follows."""
    before, state = whole["states"][number]
    expected = [tuple(batch) for batch in whole["batches"][before:]]
    loader = make("numbers", BATCH, chunk=Numbers, **options)
    loader.load_state_dict(state)
    assert loader.state_dict() == state
    left = -(-(SAMPLES - state["position"]) // BATCH)
    assert len(loader) == left, (len(loader), left)
    loader.load_state_dict(json.loads(json.dumps(state)))
    got = run_to_end(loader, state)
    assert got == expected, (number, len(got), len(expected))
    assert loader.state_dict() == whole["states"][-1][1]


def in_child(function: Callable[[], object]) -> object:
    """Return what the function returns in a new process."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with os.fdopen(sender, "w") as out:
                json.dump(function(), out)
            status = 0
        except BaseException:  # noqa: BLE001  the parent is told by the status
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(sender)
    with os.fdopen(receiver) as answer:
        text = answer.read()
    assert os.waitpid(child, 0)[1] == 0, "the process failed"
    return json.loads(text)


def main(options: dict, out: Path) -> None:
    whole = in_child(lambda: undisturbed(options))
    first_epoch = STEPS + 1  # states of epoch 0: before the first batch, after each
    numbers = [0, *range(first_epoch, len(whole["states"]) - 1)]
    for number in numbers:
        in_child(lambda number=number: resumed(options, whole, number))
    out.write_text(json.dumps({"resumed": len(numbers), "batches": len(whole["batches"])}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
