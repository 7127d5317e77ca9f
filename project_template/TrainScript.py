"""Trains a small net on the scanned digits: `python manage.py train --processes 2 --epochs 8`.

Killed at any moment and started again with the same command, it goes on from its newest checkpoint. Its run
is on record: `bench-kit experiment ls`.
"""

import argparse
import time

import torch
from accelerate.utils import set_seed
from torch import nn

from benchkit import (
    BenchAccelerateTracker,
    get_accelerator,
    get_dataset,
    load_model_checkpoint,
    upload_model_checkpoint,
    wipe_temp,
)
from benchkit.errors import NotFoundError
from Datasets.ProjectDatasets import DigitsChunk
from Models.ProjectModels import DigitNet


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=32, help="samples in a batch of one process")
    parser.add_argument("--workers", type=int, default=2, help="loading processes of each training process")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the model's first weights")
    parser.add_argument("--checkpoint", default="digits", help="name of the run and its checkpoints")
    parser.add_argument("--checkpoint-steps", type=int, default=20, help="steps from one to the next")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the newest checkpoint of that name, if there is one, in the run on record",
    )
    return parser.parse_args()


class Progress:
    """What else a run takes along from one process to the next: the loss of the epoch so far."""

    def __init__(self, accelerator):
        self.total_loss = torch.zeros((), device=accelerator.device)
        self.steps = 0

    def state_dict(self):
        return {"total_loss": self.total_loss, "steps": self.steps}

    def load_state_dict(self, state):
        self.total_loss.copy_(state["total_loss"])
        self.steps = state["steps"]


def save(accelerator, progress, arguments) -> None:
    """Save a checkpoint, whose upload goes on in the background; the three newest stay in the store."""
    # One process saves the progress of all: what it holds must be the same on each.
    progress.total_loss = accelerator.reduce(progress.total_loss, reduction="mean")
    upload_model_checkpoint(accelerator, arguments.checkpoint, keep=3)


def train_one_epoch(accelerator, loader, model, loss_fn, optimizer, progress, arguments) -> float:
    """Train on what is left of the epoch, and return the samples per second, all processes together."""
    model.train()
    started = time.perf_counter()
    samples = 0
    for labels, images in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        progress.total_loss += loss.detach()
        progress.steps += 1
        samples += len(labels) * accelerator.num_processes
        if progress.steps % arguments.checkpoint_steps == 0:
            save(accelerator, progress, arguments)
    return samples / (time.perf_counter() - started)


@torch.no_grad()
def validate(accelerator, loader, model) -> float:
    """Return the share of the validation samples whose digit is recognised."""
    model.eval()
    right = total = 0
    for labels, images in loader:
        guesses = model(images).argmax(dim=1)
        # Brings the rows of all processes together, without those that only fill up the last batch.
        guesses, answers = accelerator.gather_for_metrics((guesses, labels))
        right += (guesses == answers).sum().item()
        total += len(answers)
    return right / total


def resume(accelerator, arguments) -> None:
    """Go on from the newest checkpoint, if there is one."""
    try:
        checkpoint = load_model_checkpoint(accelerator, arguments.checkpoint)
    except NotFoundError:
        return
    accelerator.print(
        f"goes on from checkpoint {checkpoint.label}, in epoch {checkpoint.epoch + 1} "
        f"after {checkpoint.position} samples; --no-resume begins anew"
    )


def main() -> None:
    arguments = parse_arguments()
    tracker = BenchAccelerateTracker(arguments.checkpoint, arguments.epochs, resume=arguments.resume)
    accelerator = get_accelerator(log_with=tracker)
    accelerator.init_trackers("digits", config=vars(arguments))
    set_seed(arguments.seed)

    # True: read from the project's remote. The last argument is the class's own: is_train.
    batch_size, workers = arguments.batch_size, arguments.workers
    train_loader = get_dataset(DigitsChunk, True, "train", batch_size, workers, True)
    val_loader = get_dataset(DigitsChunk, True, "val", batch_size, workers, False)

    model = DigitNet()
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.lr)
    model, loss_fn, optimizer, train_loader, val_loader = accelerator.prepare(
        model, loss_fn, optimizer, train_loader, val_loader
    )
    progress = Progress(accelerator)
    accelerator.register_for_checkpointing(progress)
    if arguments.resume:
        resume(accelerator, arguments)

    accelerator.print(f"processes: {accelerator.num_processes}, device: {accelerator.device}")
    epochs = range(train_loader.state_dict()["epoch"] + 1, arguments.epochs + 1)
    if not epochs:
        accelerator.print(f"all {arguments.epochs} epochs are done: ask for more with --epochs")
    for epoch in epochs:
        rate = train_one_epoch(accelerator, train_loader, model, loss_fn, optimizer, progress, arguments)
        accuracy = validate(accelerator, val_loader, model)
        loss = accelerator.reduce(progress.total_loss, reduction="mean").item() / progress.steps
        accelerator.print(f"epoch {epoch}: loss {loss:.3f}, accuracy {accuracy:.1%}, {rate:,.0f} samples/s")
        values = {"train/loss": loss, "val/accuracy": accuracy, "train/samples_per_second": rate}
        accelerator.log(values, step=epoch)
        progress.total_loss.zero_()
        progress.steps = 0
        save(accelerator, progress, arguments)
        wipe_temp(accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
