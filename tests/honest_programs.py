"""Honest programs of many kinds: what the gate must let through, and what its operators are generated from."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from tests.networks import Recurrent

BATCH = Dim("batch", min=2, max=256)


class Cnn(nn.Module):
    """Convolutions, norms, pools, residual adds, depthwise and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.silu(self.depthwise(F.max_pool2d(x, 2)))
        y = self.norm(y * self.gate(y))
        y = torch.cat([F.leaky_relu(self.up(y)), F.interpolate(y, scale_factor=2.0)[:, :4]], 1)
        y = y + F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2)[:, :, ::1][:, :, : y.shape[2], : y.shape[3]]
        pooled: Tensor = self.head(self.drop(y.mean((2, 3)).flatten(1)))
        return F.log_softmax(pooled, -1)


class Tied(nn.Module):
    """A causal transformer: tied embedding and head, dynamic batch and length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(50, 16), nn.Embedding(32, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.query, self.norm = nn.Linear(16, 16), nn.RMSNorm(16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        steps = torch.arange(ids.shape[1], device=ids.device)
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        x = self.blocks(self.embed(ids) + self.place(steps), mask=mask, is_causal=False)
        q = self.query(self.norm(x)).view(x.shape[0], x.shape[1], 2, 8).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).reshape(x.shape)
        logits: Tensor = self.head(x + y)
        return logits


class Lstm(nn.Module):
    """Whole recurrent layers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.gru(self.lstm(x)[0])[0][:, -1])
        return output


class Named(nn.Module):
    """Dict inputs, keyword arguments, a constant, nested outputs."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("scale", torch.tensor([0.5, 1.0, 1.5, 2.0]), persistent=False)

    def forward(self, parts: dict[str, Tensor], *, mask: Tensor, power: float = 2.0) -> dict[str, Any]:
        x = self.left(parts["a"]) + self.right(parts["b"][..., 0, :])
        y = torch.where(mask > 0, x, torch.zeros_like(x)) * self.scale + torch.tensor(power)
        return {"sum": y.sum(-1), "pair": (y.abs().sqrt(), [torch.sigmoid(y), y.argmax(-1)])}


class Mutating(nn.Module):
    """A buffer that every call changes."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x.mean(0))
        output: Tensor = self.linear(x) + self.seen
        return output


class Detector(nn.Module):
    """Several outputs, anchors, topk, gathers: what detectors do behind their convolutions."""

    anchors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.PReLU(8))
        self.boxes, self.scores = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1)
        self.register_buffer("anchors", torch.rand(128, 4))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.body(image)
        boxes = self.boxes(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)
        near, far = boxes[..., :2] - boxes[..., 2:].exp() / 2, boxes[..., :2] + boxes[..., 2:]
        boxes = torch.stack([near, far], -1).flatten(-2)
        scores = self.scores(x).flatten(2).transpose(1, 2).reshape(x.shape[0], -1, 3).softmax(-1)
        best, label = scores.max(-1)
        top, index = best.topk(5, dim=1)
        picked = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4)).clamp(0, 1)
        return picked + self.anchors[:1], top, label.gather(1, index)


class Audio(nn.Module):
    """1-d and 3-d convolutions, cumulative and spectral-free signal work, splits and rolls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 4, 5, padding="same")
        self.volume = nn.Conv3d(1, 2, 3, padding=1)
        self.norm = nn.LayerNorm(4)
        self.up = nn.ConvTranspose1d(4, 2, 4, stride=2, padding=1)

    def forward(self, signal: Tensor) -> dict[str, Tensor]:
        x = self.norm(torch.tanh(self.first(signal)).transpose(1, 2)).transpose(1, 2)
        left, right = x.chunk(2, 1)
        y = torch.einsum("bct,bdt->bcd", left, right) @ torch.ones(2, 2)
        z = self.volume(x.reshape(x.shape[0], 1, 2, 2, -1)).pow(2).mean(1)
        return {"up": F.elu(self.up(x)), "gram": torch.baddbmm(y, y, y), "norm": F.normalize(z.flatten(1))}


class Bag(nn.Module):
    """Sums of embeddings of a batch of any size, and complex numbers in a buffer."""

    turns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(50, 16, mode="sum"), nn.Linear(16, 4)
        self.register_buffer("turns", torch.polar(torch.ones(8), torch.arange(8.0)))

    def forward(self, ids: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.bag(ids).reshape(-1, 8, 2)) * self.turns
        result: Tensor = self.head(torch.view_as_real(pairs).flatten(1))
        return result


@dataclass(frozen=True)
class Honest:
    """A module, its arguments, and the dynamic shapes of its export."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic: Any = None
    train: bool = False

    def programs(self) -> tuple[ExportedProgram, ExportedProgram]:
        """The export as it is, and decomposed."""
        self.module.train(self.train)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of LSTM's flat weights
            exported = torch.export.export(self.module, self.args, self.kwargs, dynamic_shapes=self.dynamic)
            return exported, exported.run_decompositions()


def _cnn(dtype: torch.dtype = torch.float32, *, train: bool = False) -> Honest:
    return Honest(Cnn().to(dtype), (torch.rand(4, 3, 16, 16).to(dtype),), dynamic={"x": {0: BATCH}}, train=train)


def _named() -> Honest:
    parts = {"a": torch.rand(4, 4), "b": torch.rand(4, 2, 4)}
    dynamic = {"parts": {"a": {0: BATCH}, "b": {0: BATCH}}, "mask": {0: BATCH}, "power": None}
    return Honest(Named(), (parts,), {"mask": torch.rand(4, 1) - 0.5, "power": 3.0}, dynamic)


HONEST: dict[str, Callable[[], Honest]] = {
    "cnn": _cnn,
    "cnn in train mode": lambda: _cnn(train=True),
    "cnn in bfloat16": lambda: _cnn(torch.bfloat16),
    "transformer with tied weights": lambda: Honest(
        Tied(), (torch.randint(0, 50, (3, 7)),), dynamic={"ids": {0: BATCH, 1: Dim("length", min=2, max=32)}}
    ),
    "lstm": lambda: Honest(Lstm(), (torch.rand(3, 5, 6),), dynamic={"x": {0: BATCH}}),
    "dict inputs and kwargs": _named,
    "buffer mutation": lambda: Honest(Mutating(), (torch.rand(4, 4),), dynamic={"x": {0: BATCH}}),
    "detector": lambda: Honest(Detector(), (torch.rand(2, 3, 16, 16),), dynamic={"image": {0: BATCH}}),
    "recurrent cells": lambda: Honest(Recurrent(), (torch.rand(2, 4),), dynamic={"x": {0: BATCH}}),
    "bag": lambda: Honest(Bag(), (torch.randint(0, 50, (4, 4)),), dynamic={"ids": {0: BATCH}}),
    "audio": lambda: Honest(Audio(), (torch.rand(2, 2, 32),), dynamic={"signal": {0: BATCH}}),
}
