"""Small networks, their exports and their samples: what the tests quantize."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

BATCH = Dim("batch", min=1, max=1024)


class Convolutional(nn.Module):
    """conv - bn - relu - linear, plus a layer that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, groups=2)
        )
        self.head = nn.Linear(8 * 9, 10)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(torch.ones(2, 3))
        head: Tensor = self.head(self.features(x).flatten(1))
        return head


class Audio(nn.Module):
    """1-d convolutions with dilation, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 4, 5, padding=2)
        self.second = nn.Conv1d(4, 4, 3, dilation=2)

    def forward(self, signal: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.first(signal))
        return {"features": features, "peaks": self.second(features).argmax(-1)}


class Attention(nn.Module):
    """Tied embedding and head, one linear used twice, multi-head attention: names that an export blurs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.mix = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.mix(self.mix(self.embed(ids))) * mask.unsqueeze(-1)
        logits: Tensor = self.head(self.attention(hidden, hidden, hidden, need_weights=False)[0])
        return logits


class Projections(nn.Module):
    """Two layers that read the same values; the input is named by a word of Python's own."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.key = nn.Linear(4, 4)

    def forward(self, input: Tensor) -> Tensor:
        scores: Tensor = self.query(input) @ self.key(input).T
        return scores


class Counting(nn.Module):
    """A buffer that every call changes."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        output: Tensor = self.linear(x) + self.calls
        return output


class Recurrent(nn.Module):
    """Cells whose projections are linear layers once the export is decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm = nn.GRUCell(4, 6), nn.LSTMCell(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.lstm(self.gru(x))[0]
        return hidden


class Residual(nn.Module):
    """conv - bn - relu beside the identity, down to a linear: what image networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4 * 16, 10)
        for name in ("stem.1", "block.1"):
            nn.init.uniform_(self.get_parameter(f"{name}.weight"), -2, 2)
            nn.init.normal_(self.get_parameter(f"{name}.bias"))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        features = self.pool(features + self.block(features))
        logits: Tensor = self.head(torch.relu(self.last(features)).flatten(1))
        return logits


class PreNorm(nn.Module):
    """A transformer block whose normalizations stand before its layers, so that they alone read them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last_norm = nn.LayerNorm(8), nn.LayerNorm(8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        for norm in (self.norm, self.last_norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        x = x + torch.softmax(self.query(normal) @ self.key(normal).mT, -1) @ self.value(normal)
        block: Tensor = x + self.down(torch.relu(self.up(self.last_norm(x))))
        return block


class PostNorm(nn.Module):
    """One whose normalizations stand behind the sum, as BERT's: the next sum reads them too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last_norm = nn.LayerNorm(8), nn.LayerNorm(8)
        self.mix, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.mix(x))
        block: Tensor = self.last_norm(x + self.down(torch.relu(self.up(x))))
        return block


class Dictionary(nn.Module):
    """Inputs in a dict, one fixed by the export; outputs in a dict, one of them an input as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, batch: dict[str, Tensor], scale: float) -> dict[str, Tensor | None]:
        hidden = torch.relu(self.left(batch["x"])) * scale
        return {"y": self.right(hidden), "hidden": hidden, "none": None, "given": batch["mask"]}


@dataclass(frozen=True)
class Example:
    """A network, inputs to export it with, its dynamic dimensions, and tensors for a dataset."""

    module: nn.Module
    inputs: tuple[Any, ...]
    dynamic: Any
    dataset: dict[str, Tensor]
    keywords: dict[str, Tensor] = field(default_factory=dict)

    def export(self, path: Path, *, decompose: bool = False) -> Path:
        program = torch.export.export(self.module.eval(), self.inputs, self.keywords, dynamic_shapes=self.dynamic)
        torch.export.save(program.run_decompositions() if decompose else program, path)
        return path

    def save_dataset(self, path: Path) -> Path:
        save_file(self.dataset, path)
        return path


def convolutional(samples: int = 40) -> Example:
    torch.manual_seed(0)
    return Example(Convolutional(), (torch.randn(4, 1, 8, 8),), {"x": {0: BATCH}}, {"x": torch.randn(samples, 1, 8, 8)})


def audio(samples: int = 40) -> Example:
    torch.manual_seed(0)
    return Example(Audio(), (torch.randn(4, 2, 64),), {"signal": {0: BATCH}}, {"signal": torch.randn(samples, 2, 64)})


def attention(samples: int = 8) -> Example:
    torch.manual_seed(0)
    ids, mask = torch.randint(0, 20, (samples, 5)), torch.ones(samples, 5)
    return Example(Attention(), (ids[:2], mask[:2]), None, {"ids": ids, "mask": mask})


def projections(samples: int = 8) -> Example:
    torch.manual_seed(0)
    return Example(Projections(), (torch.randn(2, 4),), {"input": {0: BATCH}}, {"input": torch.randn(samples, 4)})


def counting(samples: int = 8) -> Example:
    torch.manual_seed(0)
    return Example(Counting(), (torch.randn(2, 4),), {"x": {0: BATCH}}, {"x": torch.randn(samples, 4)})


def recurrent(samples: int = 32) -> Example:
    torch.manual_seed(0)
    return Example(Recurrent(), (torch.randn(2, 4),), {"x": {0: BATCH}}, {"x": torch.randn(samples, 4)})


def residual(samples: int = 40) -> Example:
    torch.manual_seed(0)
    images = torch.randn(samples, 1, 8, 8)
    return Example(Residual(), (images[:2],), {"images": {0: BATCH}}, {"images": images})


def prenorm(samples: int = 32) -> Example:
    torch.manual_seed(0)
    x = torch.randn(samples, 5, 8)
    return Example(PreNorm(), (x[:2],), {"x": {0: BATCH}}, {"x": x})


def postnorm(samples: int = 32) -> Example:
    torch.manual_seed(0)
    x = torch.randn(samples, 5, 8)
    return Example(PostNorm(), (x[:2],), {"x": {0: BATCH}}, {"x": x})


def dictionary(samples: int = 32) -> Example:
    torch.manual_seed(0)
    x, mask = torch.randn(samples, 4), torch.ones(samples, 3)
    dynamic = {"batch": {"x": {0: BATCH}, "mask": {0: BATCH}}, "scale": None}
    return Example(Dictionary(), ({"x": x[:2], "mask": mask[:2]}, 0.5), dynamic, {"batch_x": x, "batch_mask": mask})
