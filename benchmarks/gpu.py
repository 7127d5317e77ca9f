"""A GPU fed from chunks: images per second, and how long it waits for data, beside synthetic data.

    python benchmarks/gpu.py [--images 20000] [--batch-size 256] [--workers 8] [--folder DATA]

A ResNet-50 is trained in bfloat16 on photos of 224 by 224, decoded by `decode_image` in workers and copied
while the GPU computes; then on one batch that lies on the GPU already. The GPU waits between the end of a
step and the begin of the next, by its own clock. Where there is no GPU, that is all it says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from cases import Case, Place
from data import CLASSES, COUNTS, make_dataset
from resnet import make_resnet50
from rows import PIXELS
from side_benchkit import NAME, Rows, pack, publish
from torch import nn

from benchkit import LoaderOptions, get_dataset

_WARM_UP = 10

Batch = tuple[torch.Tensor, torch.Tensor]


def prepare(folder: Path, images: int) -> None:
    """Make and pack the photos, and make their store the project's."""
    files = make_dataset("A", folder / "A", scale=images / COUNTS["A"])
    listed = folder / "files.txt"
    listed.write_text("".join(f"{path}\n" for path in files))
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    place = Place(files=listed, total_bytes=0, chunk_bytes=32 << 20, packed=project, scratch=folder)
    case = Case(
        task="gpu",
        side="benchkit",
        kind="A",
        count=images,
        action="prepare",
        way="auto",
        workers=os.cpu_count(),
    )
    pack(place.read_files(), project, case, place)
    publish(project)
    os.environ["BENCHKIT_PROJECT"] = str(project)
    os.environ["BENCHKIT_CACHE_DIR"] = str(folder / "cache")


def load(batch_size: int, workers: int) -> Iterator[Batch]:
    """Yield batches of numbers and pictures from chunks, epoch after epoch."""
    options = LoaderOptions(
        pin_memory=True,
        tail="drop",
        persistent_workers=workers > 0,
        collate_fn=torch.utils.data.default_collate,
    )
    loader = get_dataset(Rows, True, NAME, batch_size, workers, "own", shuffle=True, loader=options)
    return chain.from_iterable(repeat(loader))


def copy_ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches on the GPU, each copied while the one before is computed with."""
    stream, ahead = torch.cuda.Stream(), None
    for numbers, images in batches:
        with torch.cuda.stream(stream):
            copied = numbers.cuda(non_blocking=True), images.cuda(non_blocking=True)
        if ahead is not None:
            yield ahead
        torch.cuda.current_stream().wait_stream(stream)
        for tensor in copied:
            tensor.record_stream(torch.cuda.current_stream())
        ahead = copied
    if ahead is not None:
        yield ahead


def train(batches: Iterable[Batch], steps: int) -> dict[str, float]:
    """Train for so many steps behind a warm-up, and return what it took.

    Returns:
        Images per second, milliseconds of a step on the GPU, and the share of the time in which it waited.
    """
    net = make_resnet50(CLASSES).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    images_seen, started = 0, 0.0
    for step, (numbers, images) in enumerate(islice(batches, _WARM_UP + steps)):
        if step == _WARM_UP:
            torch.cuda.synchronize()
            started = time.perf_counter()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            pixels = images.to(memory_format=torch.channels_last).float().div_(255)
            loss = loss_of(net(pixels), numbers % CLASSES)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        end.record()
        if step >= _WARM_UP:
            events.append((begin, end))
            images_seen += len(images)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    busy = sum(begin.elapsed_time(end) for begin, end in events) / 1000
    whole = events[0][0].elapsed_time(events[-1][1]) / 1000
    return {
        "images_per_second": images_seen / seconds,
        "step_milliseconds": busy / len(events) * 1000,
        "waits_share": 1 - busy / whole,
    }


def synthesize(batch_size: int) -> Iterator[Batch]:
    """Yield one batch that is on the GPU, again and again."""
    images = torch.randint(0, 256, (batch_size, 3, PIXELS, PIXELS), dtype=torch.uint8, device="cuda")
    return repeat((torch.arange(batch_size, device="cuda"), images))


def main() -> None:
    """Measure both, and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=COUNTS["A"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="keep the data here for another run")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-")))
        prepare(folder.absolute(), arguments.images)
        report: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "batch_size": arguments.batch_size,
            "workers": arguments.workers,
        }
        report["synthetic"] = train(synthesize(arguments.batch_size), arguments.steps)
        batches = load(arguments.batch_size, arguments.workers)
        report["chunks"] = train(copy_ahead(batches), arguments.steps)
    report["share_of_synthetic"] = (
        report["chunks"]["images_per_second"] / report["synthetic"]["images_per_second"]
    )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
