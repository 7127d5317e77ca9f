"""ResNet-50, the standard one: a net to feed, in torch alone."""

from __future__ import annotations

import torch
from torch import nn

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
_EXPANSION = 4


class Bottleneck(nn.Module):
    """A residual block of three convolutions; its stride is in the second."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.body = nn.Sequential(
            _convolve(inputs, width, 1),
            nn.ReLU(inplace=True),
            _convolve(width, width, 3, stride),
            nn.ReLU(inplace=True),
            _convolve(width, outputs, 1),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolve(inputs, outputs, 1, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(images) + self.shortcut(images))


def make_resnet50(classes: int) -> nn.Sequential:
    """Return the net: float images of shape (N, 3, H, W) to logits of shape (N, classes).

    The architecture is that of He et al., "Deep Residual Learning for Image Recognition" (2015), with the
    stride in the 3x3 convolution.
    """
    layers: list[nn.Module] = [_convolve(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in _STAGES:
        for number in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if number == 0 else 1))
            inputs = width * _EXPANSION
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def _convolve(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
