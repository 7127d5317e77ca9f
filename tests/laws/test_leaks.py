"""The law of no leaks: passes, whole or broken off, leave the training and its workers as they found them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.making import make_project, publish_samples
from support.processes import environment

SCRIPT = Path(__file__).parent / "leaking.py"
SAMPLES, PER_CHUNK, FILE_BYTES = 480, 30, 20_000
"""A batch of four is large enough to be handed over as a descriptor."""
LIMIT_BYTES = 7_000_000
"""Of the cache: less than the dataset has, so that every pass fetches, evicts and looks ahead."""

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Return what was held early and late in every case; one process ran them all."""
    folder = tmp_path_factory.mktemp("leaks")
    project = make_project(folder / "project")
    publish_samples(project, "n", SAMPLES, per_chunk=PER_CHUNK, size=FILE_BYTES)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "told.json")],
        env=environment(project, BENCHKIT_CACHE_LIMIT_BYTES=str(LIMIT_BYTES)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "a thread has died"
    return json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize("kind", ["passes", "breaks"])
@pytest.mark.parametrize(("case", "workers"), [("alone", 0), ("workers", 0), ("persistent", 2)])
def test_files_threads_objects_and_memory_are_late_what_they_were_early(told, kind, case, workers):
    """From the third pass to the twentieth, and over a hundred passes that are broken off."""
    one = told[f"{kind}-{case}"]
    early, late = one["early"], one["late"]
    assert one["steps"] == SAMPLES // 4
    assert len(early["files"]) == 1 + (
        workers if kind == "passes" else 0
    )  # a break ends workers that persist
    assert late["files"] == early["files"]
    assert late["threads"] == early["threads"]
    assert late["objects"] <= early["objects"] + 10  # what was noted down early is among them
    for before, after in zip(early["memory_bytes"], late["memory_bytes"], strict=True):
        assert after <= before * 1.05, (before, after)
