"""resnet18: ResNet-18 (He et al. 2015) with random weights, its normalizations made for crops of photographs.

It was never trained, so it has no quality of its own: its numbers say how far quantization moves its outputs.
"""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models.model import Call, Model, Tensors
from benchmarks.models.pictures import crop, photograph

WIDTHS = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
SIDE = 224
SAMPLES = 32
SEEN = ("astronaut.png", "coffee.png", "motorcycle_left.png", "ihc.png")
UNSEEN = ("chelsea.png", "rocket.jpg", "retina.jpg")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(inputs, filters, 3, stride), _convolution(filters, filters, 3, 1)
        self.around = _convolution(inputs, filters, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.around(x))


def _convolution(inputs: int, filters: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, filters, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters, momentum=None))


def network() -> nn.Sequential:
    """Random weights; normalizations that have seen nothing. [N, 3, H, W] -> [N, 1000]"""
    blocks = (Block(*width) for width in (*WIDTHS, (512, 512, 1)))
    stem = (_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def load() -> nn.Module:
    """Weights of seed 0; normalizations that have seen the calibration crops."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = network()
        made.train()(calibration(SAMPLES)["input"])
    return made.eval()


def calibration(count: int) -> Tensors:
    """Crops of some photographs."""
    return {"input": _crops(SEEN, count)}


def evaluation(count: int) -> Tensors:
    """Crops of other photographs."""
    return {"input": _crops(UNSEEN, count)}


def quality(_: Call) -> dict[str, float]:
    """It was trained for nothing."""
    return {}


def _crops(names: tuple[str, ...], count: int) -> Tensor:
    photographs, random = [photograph(name) for name in names], np.random.default_rng(0)
    crops = torch.stack([crop(photographs[at % len(names)], SIDE, random) for at in range(count)])
    return (crops / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


RESNET18 = Model("resnet18", load, calibration, evaluation, quality, SAMPLES, SAMPLES)
