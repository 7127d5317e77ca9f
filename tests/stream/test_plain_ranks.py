"""Plain torch.distributed in real processes: exact without Accelerate, which is not even loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.making import make_project, publish_samples
from support.processes import environment, torchrun


@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 3])
def test_every_sample_arrives_once_under_plain_torchrun(world, tmp_path):
    project = make_project(tmp_path / "project")
    publish_samples(project, "n101", 101, per_chunk=10)
    publish_samples(project, "grown", 10, per_chunk=10)
    torchrun(Path(__file__).parent / "plain_ranks.py", world, str(tmp_path), project=project)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(world)]
    assert all(rank["world"] == world for rank in told)
    assert not any(rank["accelerate"] for rank in told)
    for rank in told:
        assert sorted(rank["gathered"]) == list(range(101))
    outside = [label for rank in told for label in rank["outside"]]
    assert sorted(outside) == list(range(101))
    assert [rank["versions"] for rank in told] == [[1, 1 + world]] * world


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_plain_dataloader_s_workers_share_as_their_process_does(method, tmp_path):
    project = make_project(tmp_path / "project")
    publish_samples(project, "n101", 101, per_chunk=10)
    script = Path(__file__).parent / "spawned_ranks.py"
    done = subprocess.run(
        [sys.executable, str(script), method, str(tmp_path)],
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert all(told)
    assert sorted(told[0] + told[1]) == list(range(101))
