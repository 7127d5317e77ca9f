"""Plain torch.distributed in real processes: exact without Accelerate, which is not even loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.making import make_project, publish_samples
from support.processes import torchrun


@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 3])
def test_every_sample_arrives_once_under_plain_torchrun(world, tmp_path):
    project = make_project(tmp_path / "project")
    publish_samples(project, "n101", 101, per_chunk=10)
    torchrun(Path(__file__).parent / "plain_ranks.py", world, str(tmp_path), project=project)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(world)]
    assert all(rank["world"] == world for rank in told)
    assert not any(rank["accelerate"] for rank in told)
    for rank in told:
        assert sorted(rank["gathered"]) == list(range(101))
    outside = [label for rank in told for label in rank["outside"]]
    assert sorted(outside) == list(range(101))
