"""Laws of checkpoints of several processes: sharded over them, spread over machines, failing together."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from support.checkpoints import Touch
from support.making import make_project, publish_samples
from support.processes import environment, torchrun

from benchkit.train.checkpoint_folder import LocalCopies

SHARDED = Path(__file__).with_name("sharded.py")
PLACES = Path(__file__).with_name("places.py")

pytestmark = pytest.mark.processes

needs_shards = pytest.mark.skipif(
    "fsdp_version" not in inspect.signature(FullyShardedDataParallelPlugin).parameters,
    reason="this Accelerate does not shard without a GPU",
)


def told(folder: Path, action: str, world: int) -> list[dict]:
    return [json.loads((folder / f"{action}-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a checkpoint of two ranks, each of which wrote its own parts."""
    project = make_project(tmp_path_factory.mktemp("shards") / "project")
    publish_samples(project, "n20", 20, per_chunk=6)
    torchrun(SHARDED, 2, str(project), "save", project=project)
    assert [rank["label"] for rank in told(project, "save", 2)] == ["shards@1"] * 2
    parts = {path.name for path in (project / "store/checkpoints").rglob("*.distcp")}
    assert parts == {"__0_0.distcp", "__1_0.distcp"}
    return project


@needs_shards
@pytest.mark.parametrize("world", [2, 3, 1])
def test_a_sharded_checkpoint_is_loaded_by_any_number_of_processes(
    shards: Path, tmp_path: Path, world: int
) -> None:
    project = tmp_path / "project"
    shutil.copytree(shards, project)
    shutil.rmtree(project / "checkpoint")
    torchrun(SHARDED, world, str(tmp_path), "load", project=project)
    (saved, _) = told(shards, "save", 2)
    for rank in told(tmp_path, "load", world):
        assert rank["position"] == rank["left"] == 8
        for part in ("weights", "moments", "rate"):
            assert rank[part] == saved[part]


def poison_plan(folder: Path, touched: Path) -> None:
    (folder / "pytorch_model_fsdp_0/.metadata").write_bytes(pickle.dumps(Touch(touched)))


def poison_value(folder: Path, touched: Path) -> None:
    """Put a pickle that makes a file in place of the first plain value of the optimizer's parts."""
    plan = folder / "optimizer_0/.metadata"
    metadata = pickle.loads(plan.read_bytes())  # noqa: S301
    for index, where in metadata.storage_data.items():
        if type(metadata.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
            part = folder / "optimizer_0" / where.relative_path
            where.offset = part.stat().st_size
            torch.save(Touch(touched), touched.with_suffix(".pt"))
            data = touched.with_suffix(".pt").read_bytes()
            where.length = len(data)
            with part.open("ab") as file:
                file.write(data)
    plan.write_bytes(pickle.dumps(metadata))


def lead_outside(folder: Path, touched: Path) -> None:
    plan = folder / "optimizer_0/.metadata"
    metadata = pickle.loads(plan.read_bytes())  # noqa: S301
    for where in metadata.storage_data.values():
        where.relative_path = "../optimizer.bin"
    plan.write_bytes(pickle.dumps(metadata))


@needs_shards
@pytest.mark.parametrize("poison", [poison_plan, poison_value, lead_outside])
def test_a_sharded_checkpoint_that_would_run_something_is_refused(
    shards: Path, tmp_path: Path, poison: Callable[[Path, Path], None]
) -> None:
    project = tmp_path / "project"
    shutil.copytree(shards, project)
    local = LocalCopies(project / "checkpoint/shards", "shards")
    (checkpoint,) = local.find_all()
    poison(local.folder(checkpoint.id), tmp_path / "touched")
    local.complete(checkpoint)
    torchrun(SHARDED, 2, str(tmp_path), "load", project=project)
    for rank in told(tmp_path, "load", 2):
        assert rank["error"].startswith("CorruptError: ")
    assert not (tmp_path / "touched").exists()


class Machines:
    """Two machines, which are folders here, and the store that they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        publish_samples(make_project(folder / "m0"), "n20", 20, per_chunk=6)
        make_project(folder / "m1")
        self.store = folder / "m0/store"

    def run(self, action: str, machines: Sequence[int] = (0, 1)) -> list[dict]:
        """Run the script in two processes on each machine and return what the ranks told."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launched = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(machines)}"),
                    *(f"--node-rank={rank}", "--master-addr=127.0.0.1", f"--master-port={port}"),
                    *("--nproc-per-node=2", str(PLACES), str(self.folder), action),
                ],
                env=environment(self.folder / f"m{machine}", BENCHKIT_REMOTE=str(self.store)),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, machine in enumerate(machines)
        ]
        for process in launched:
            out, _ = process.communicate(timeout=240)
            assert process.returncode == 0, out
        return told(self.folder, action, 2 * len(machines))

    def files(self) -> list[str]:
        """Return the names of the files of the newest version."""
        (folder,) = (self.store / "checkpoints/places/files").iterdir()
        return sorted(path.name for path in folder.iterdir())


def test_a_rank_that_is_new_gets_the_same_random_numbers_at_every_load_and_those_of_no_other(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path / "project")
    publish_samples(project, "n20", 20, per_chunk=6)
    torchrun(PLACES, 1, str(tmp_path), "save", project=project)
    (saved,) = told(tmp_path, "save", 1)
    torchrun(PLACES, 3, str(tmp_path), "load", project=project)
    loaded = [rank["random"] for rank in told(tmp_path, "load", 3)]
    assert loaded[0] == saved["random"]
    assert loaded[0] != loaded[1] != loaded[2] != loaded[0]
    torchrun(PLACES, 2, str(tmp_path), "load", project=project)
    assert [rank["random"] for rank in told(tmp_path, "load", 2)] == loaded[:2]


@pytest.mark.slow
def test_machines_that_share_no_disk_make_one_version_and_each_can_go_on_alone(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    saved = machines.run("save")
    assert [rank["local"] for rank in saved] == [0, 1, 0, 1]
    assert [rank["label"] for rank in saved] == ["places@1"] * 4
    states = [f"random_states_{rank}.pkl" for rank in range(4)]
    assert machines.files() == ["dl_state_dict.bin", "model.safetensors", "optimizer.bin", *states]

    loaded = machines.run("load", [1])  # whose own disk holds a part of it
    assert [rank["label"] for rank in loaded] == ["places@1"] * 2
    assert [rank["random"] for rank in loaded] == [rank["random"] for rank in saved[:2]]
    assert [rank["position"] for rank in loaded] == [4] * 2
    loaded = machines.run("load", [1, 0])
    assert [rank["random"] for rank in loaded] == [rank["random"] for rank in saved]


@pytest.mark.slow
def test_a_machine_that_cannot_save_is_an_error_on_every_rank_and_leaves_nothing(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    (tmp_path / "m1/checkpoint").write_text("in the way")
    for rank in machines.run("save"):
        assert rank["error"].startswith("StoreError: ")
        assert "m1/checkpoint" in rank["error"]
    assert not (machines.store / "checkpoints").exists()
    (tmp_path / "m1/checkpoint").unlink()
    assert [rank["label"] for rank in machines.run("save")] == ["places@1"] * 4
