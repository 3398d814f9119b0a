"""Networks made of one pattern after another: how real models put layers together, so that a program of one file and
one compilation covers many."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.networks import BATCH, Example


class Vision(nn.Module):
    """Normalizations on both sides of a ReLU, a residual, two readers of one value, and convolutions of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.pitch, self.pitch_bn = nn.Conv2d(16, 16, (4, 1), padding="same"), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4)
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, (2, 3), padding="same", bias=False)
        self.reflecting = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.channels_last = nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(x)))  # conv, bn, relu: as most
        x = self.pitch_bn(torch.relu(self.pitch(x)))  # conv, relu, bn: as CREPE
        x = torch.relu(x + self.grouped(nn.functional.relu6(self.depthwise(x))))
        x = self.left(x) * torch.sigmoid(self.right(x))
        x = self.twice(nn.functional.gelu(self.twice(self.reflecting(x))))
        x = self.channels_last(x.permute(0, 2, 3, 1))  # [N, H, W, C] as a view of [N, C, H, W]
        head: Tensor = self.head(x.mean((1, 2)))
        return head


class Sequence(nn.Module):
    """Layers on [N, C, T] and [N, T, C]: query, key and value of one input, a tied layer, no bias, transposed views."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 32, 4, padding="same", dilation=3)
        self.depthwise = nn.Conv1d(32, 32, 3, stride=2, groups=32)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        self.shared = nn.Linear(32, 32)
        self.over_time = nn.Linear(15, 24)

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        x = self.depthwise(torch.tanh(self.first(signal))).transpose(1, 2)
        x = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        x = self.shared(torch.relu(self.shared(x))) + x
        return x, self.over_time(x.transpose(1, 2))


class Structured(nn.Module):
    """A tensor, a dict, a nested pair and a keyword in; a dict with a pair in it out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Conv2d(3, 8, 3), nn.Linear(24, 8)
        self.left, self.right = nn.Linear(20, 8), nn.Linear(20, 8)
        self.out = nn.Linear(8, 6)

    def forward(
        self, image: Tensor, batch: dict[str, Tensor], pair: tuple[Tensor, Tensor], *, weight: Tensor | None = None
    ) -> dict[str, Any]:
        x = self.image(image).mean((2, 3)) + self.text(batch["text"]) * batch["mask"]
        x = x + self.left(pair[0]) - self.right(pair[1])
        x = x if weight is None else x * weight
        return {"scores": self.out(x), "parts": (x, x.argmax(-1))}


class Unbatched(nn.Module):
    """One sample a call: a picture [C, H, W] and a vector, and the last layer's output is the program's."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.row = nn.Conv2d(3, 8, 3, padding="same"), nn.Conv1d(8, 8, (3,))
        self.vector = nn.Linear(8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        vector: Tensor = self.vector(self.row(torch.relu(self.picture(x)).mean(2)).mean(1).repeat(8))
        return vector


class Options(nn.Module):
    """Convolutions whose options are words, or one number for both dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.valid, self.row = nn.Conv2d(4, 8, 3, padding="valid"), nn.Conv1d(8, 8, 3, padding="valid")
        self.strided, self.spaced = nn.Conv2d(4, 8, 3, 2, "valid"), nn.Conv2d(4, 8, 3, padding="valid", dilation=2)
        self.single = nn.Conv2d(4, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        single = torch.conv2d(x, self.single.weight, self.single.bias, [2], [1], [1])
        return self.valid(x), self.row(self.valid(x).mean(2)), self.strided(x), self.spaced(x), single


class Unusual(nn.Module):
    """Layers that have no int8 kernel, and look much like those that have."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.up2 = nn.ConvTranspose1d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 3, padding=1)
        self.volume = nn.Conv3d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.up1(x[:, :, 0]), self.up2(x), self.volume(x.unsqueeze(1))


class Plain(nn.Module):
    """A convolution and a linear: to see what each recipe makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 16, 3, padding=1), nn.Linear(16 * 25, 32)

    def forward(self, x: Tensor) -> Tensor:
        linear: Tensor = self.linear(torch.relu(self.conv(x)).flatten(1))
        return linear


def options(samples: int = 32) -> Example:
    torch.manual_seed(0)
    return Example(Options(), (torch.randn(2, 4, 9, 9),), {"x": {0: BATCH}}, {"x": torch.randn(samples, 4, 9, 9)})


def vision(samples: int = 32) -> Example:
    torch.manual_seed(0)
    network = Vision()
    for norm in (network.stem_bn, network.pitch_bn):  # nothing that is 0 or 1, and a scale below zero
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.weight.data[0] *= -1
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return Example(network, (torch.randn(2, 3, 16, 16),), {"x": {0: BATCH}}, {"x": torch.randn(samples, 3, 16, 16)})


def sequence(samples: int = 32) -> Example:
    torch.manual_seed(0)
    return Example(
        Sequence(), (torch.randn(2, 4, 32),), {"signal": {0: BATCH}}, {"signal": torch.randn(samples, 4, 32)}
    )


def structured(samples: int = 32) -> Example:
    torch.manual_seed(0)
    tensors = {
        "image": torch.randn(samples, 3, 6, 6),
        "batch_text": torch.randn(samples, 24),
        "batch_mask": torch.ones(samples, 1),
        "pair_0": torch.randn(samples, 20),
        "pair_1": torch.randn(samples, 20),
        "weight": torch.rand(samples, 8),
    }
    image, text, mask, left, right, weight = (tensor[:2] for tensor in tensors.values())
    rows = {0: Dim("batch", min=1, max=64)}
    dynamic = {"image": rows, "batch": {"text": rows, "mask": rows}, "pair": (rows, rows), "weight": rows}
    inputs = (image, {"text": text, "mask": mask}, (left, right))
    return Example(Structured(), inputs, dynamic, tensors, {"weight": weight})


def unbatched(samples: int = 32) -> Example:
    torch.manual_seed(0)
    return Example(Unbatched(), (torch.randn(3, 8, 8),), None, {"x": torch.randn(samples, 3, 8, 8)})


def unusual(samples: int = 32) -> Example:
    torch.manual_seed(0)
    return Example(Unusual(), (torch.randn(2, 4, 5, 5),), None, {"x": torch.randn(samples, 4, 5, 5)})


def plain(samples: int = 32, dtype: torch.dtype = torch.float32) -> Example:
    torch.manual_seed(0)
    dataset = torch.randn(samples, 4, 5, 5).to(dtype)
    return Example(Plain().to(dtype), (dataset[:2],), None, {"x": dataset})
