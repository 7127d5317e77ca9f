"""Trains a small net on the scanned digits: `python manage.py train --processes 2 --epochs 8`."""

import argparse
import time

import torch
from accelerate.utils import set_seed
from torch import nn

from benchkit import get_accelerator, get_dataset, wipe_temp
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
    return parser.parse_args()


def train_one_epoch(accelerator, loader, model, loss_fn, optimizer) -> tuple[float, float]:
    """Return the mean loss and the samples per second, all processes together."""
    model.train()
    started = time.perf_counter()
    total_loss = torch.zeros((), device=accelerator.device)
    samples = 0
    for labels, images in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        total_loss += loss.detach()
        samples += len(labels) * accelerator.num_processes
    mean_loss = accelerator.reduce(total_loss, reduction="mean").item() / len(loader)
    return mean_loss, samples / (time.perf_counter() - started)


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


def main() -> None:
    arguments = parse_arguments()
    accelerator = get_accelerator()
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

    accelerator.print(f"processes: {accelerator.num_processes}, device: {accelerator.device}")
    for epoch in range(1, arguments.epochs + 1):
        loss, rate = train_one_epoch(accelerator, train_loader, model, loss_fn, optimizer)
        accuracy = validate(accelerator, val_loader, model)
        accelerator.print(f"epoch {epoch}: loss {loss:.3f}, accuracy {accuracy:.1%}, {rate:,.0f} samples/s")
        wipe_temp(accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
