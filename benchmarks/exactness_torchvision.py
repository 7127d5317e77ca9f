"""torchvision beside a PyTorch that it was not built for: enough of it for the loaders that import it."""

from __future__ import annotations

import importlib
import sys

import torch


def make_importable() -> None:
    """Declare the operators that torchvision looks for at its import, if it cannot be imported without."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        importlib.import_module("torchvision")
    except ImportError:
        return  # the loader will say so


make_importable()
