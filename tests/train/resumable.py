"""Runs trainings for the laws of resuming: each in ranks forked from one process, killed where it is told to.

Told line by line on stdin what to run, it answers on stdout how that ended. Every training begins with the
newest checkpoint there is, and writes down which samples each rank had in which step.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from accelerate.utils import set_seed
from support.reading import make
from torch import nn

from benchkit import get_accelerator, load_model_checkpoint, upload_model_checkpoint
from benchkit.errors import NotFoundError

EPOCHS = 4
SAMPLES = 138
GLOBAL_BATCH = 12
STEPS = 12  # of an epoch: eleven full ones and one of six samples
EVERY = 2


class History:
    """The metrics, step by step and epoch by epoch; a checkpoint carries them."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    def state_dict(self) -> dict:
        return {"losses": self.losses, "accuracies": self.accuracies}

    def load_state_dict(self, state: dict) -> None:
        self.losses, self.accuracies = state["losses"], state["accuracies"]


def train(order: dict, tell) -> None:
    """Train to the end in this rank, telling of every step."""
    folder = Path(order["project"])
    torch.use_deterministic_algorithms(True)
    accelerator = get_accelerator(cpu=True)
    assert accelerator.num_processes == order["world"]
    set_seed(7, device_specific=True)  # every rank drops out other weights
    batch = GLOBAL_BATCH // order["world"]
    train_loader = make("n138", batch, 0, shuffle=True, seed=3)
    test_loader = make("n50", batch)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, gamma=0.7)
    model, optimizer, scheduler, train_loader, test_loader = accelerator.prepare(
        model, optimizer, scheduler, train_loader, test_loader
    )
    history = History()
    accelerator.register_for_checkpointing(history)
    begun = None
    with suppress(NotFoundError):
        begun = load_model_checkpoint(accelerator, "run")
    with (folder / f"{order['attempt']}-{accelerator.process_index}.jsonl").open("w", buffering=1) as log:
        log.write(json.dumps([begun.epoch, begun.position, begun.number] if begun else None) + "\n")
        for epoch in range(train_loader.state_dict()["epoch"], EPOCHS):
            assert len(history.accuracies) == epoch
            one_epoch(accelerator, model, optimizer, scheduler, train_loader, history, log, tell)
            history.accuracies.append(validate(accelerator, model, test_loader))
    accelerator.end_training()
    if accelerator.is_main_process:
        weights = {
            name: value.tolist() for name, value in accelerator.unwrap_model(model).state_dict().items()
        }
        told = {"weights": weights, "losses": history.losses, "accuracies": history.accuracies}
        (folder / f"{order['attempt']}.json").write_text(json.dumps(told))


def one_epoch(accelerator, model, optimizer, scheduler, loader, history, log, tell) -> None:
    model.train()
    for labels in loader:
        state = loader.state_dict()
        real = min(state["position"], SAMPLES) - (step_of(state) - 1) * GLOBAL_BATCH
        log.write(json.dumps([state["epoch"], step_of(state), labels.tolist(), real]) + "\n")
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(features(labels)), labels % 2)
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        history.losses.append(accelerator.reduce(loss.detach(), "mean").item())
        if step_of(state) % EVERY == 0:
            upload_model_checkpoint(accelerator, "run", keep=3)
        tell()


def step_of(state: dict) -> int:
    """Return how many steps of the epoch have been made."""
    return -(-state["position"] // GLOBAL_BATCH)


def features(labels: torch.Tensor) -> torch.Tensor:
    return torch.stack([(labels * scale).sin() for scale in (1, 2, 3, 5)], dim=1)


@torch.no_grad()
def validate(accelerator, model, loader) -> float:
    model.eval()
    right = total = 0
    for labels in loader:
        hits = accelerator.gather_for_metrics((model(features(labels)).argmax(1) == labels % 2).long())
        right, total = right + int(hits.sum()), total + len(hits)
    assert total == 50
    return right / total


def fork_rank(rank: int, order: dict, port: int, pipe: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        world = str(order["world"])
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
        }
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "BENCHKIT_PROJECT": order["project"],
        }
        if world == "1":
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
                del os.environ[name]
        train(order, lambda: os.write(pipe, b"." if rank == 0 else b""))
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(code)


def run(order: dict) -> list[int]:
    """Run one training, and kill it after so many steps and seconds, if it is told to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reading, writing = os.pipe()
    pids = [fork_rank(rank, order, port, writing) for rank in range(order["world"])]
    os.close(writing)
    steps = 0
    while order["kill_after"] is None or steps < order["kill_after"]:
        if not select.select([reading], [], [], 60)[0]:
            break
        told = os.read(reading, 1)
        if not told:
            break
        steps += 1
    if order["kill_after"] is not None:
        time.sleep(order["seconds"])
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    os.close(reading)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
