"""A run of two real processes: begun by the main one, known to both, written once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.making import make_project, publish_samples
from support.processes import torchrun

from benchkit.store.local import LocalStore
from benchkit.train.run_curves import read_curves
from benchkit.train.run_folder import metrics_files, read_lines, read_record
from benchkit.train.run_sync import read_stored

SCRIPT = Path(__file__).parent / "tracked.py"


@pytest.mark.processes
def test_ranks_share_one_run_which_only_the_main_process_writes(tmp_path):
    project = make_project(tmp_path / "project")
    version = publish_samples(project, "n96", 96, per_chunk=10)
    torchrun(SCRIPT, 2, str(tmp_path), project=project)
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [rank["world"] for rank in told] == [2, 2]
    assert told[0]["run"] == told[1]["run"] != told[0]["beside"] == told[1]["beside"]

    runs = project / ".benchkit/experiments"
    assert sorted(path.name for path in runs.iterdir()) == sorted({told[0]["run"], told[0]["beside"]})
    run = runs / told[0]["run"]
    record = read_record(run)
    assert (record.name, record.epochs, record.state) == ("two ranks", 2, "finished")
    assert record.environment["processes"] == 2
    assert [(d.label, d.manifest) for d in record.datasets] == [("n96@1", version.digest)]
    (file,) = metrics_files(run)
    curves = read_curves(read_lines(file))
    assert curves.calls == told[0]["steps"] == 12
    assert curves.curves["mean"].steps == tuple(range(1, 13))
    (beside,) = metrics_files(runs / told[0]["beside"])
    assert read_curves(read_lines(beside)).curves["only/main"].values == (0,)

    store = LocalStore(project / "store")
    stored = read_stored(store, told[0]["run"])
    assert stored.state == "finished"
    assert [entry.path for entry in stored.files] == [
        "checkpoints/rank0.txt",
        "checkpoints/rank1.txt",
        "metrics/000001.jsonl",
        "model/model.txt",
    ]
    assert read_stored(store, told[0]["beside"]) is None  # sync_seconds=0
