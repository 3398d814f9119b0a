"""Networks as somebody exports them who forgot `.eval()`: one for each way in which that shows."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from tests.networks import BATCH

WIDTH = 6


class Wrapped(nn.Module):
    """A module between two linears, under the name `inner.suspect`."""

    def __init__(self, suspect: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.inner = nn.ModuleDict({"suspect": suspect})

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.inner["suspect"](self.first(x)))
        return output


class Functional(nn.Module):
    """Dropout as a function: no module of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.2, training=self.training)


class Attends(nn.Module):
    """Attention with dropout on its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, None].expand(-1, 3, -1)
        return self.attention(rows, rows, rows, need_weights=False)[0].mean(1)  # type: ignore[no-any-return]


class Recurs(nn.Module):
    """Two recurrent layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, 2, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x[:, None])[0][:, 0]  # type: ignore[no-any-return]


class Image(nn.Module):
    """A module for images [N, 2, 3, 1] inside one for rows."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.reshape(-1, 2, 3, 1)).reshape(-1, WIDTH)  # type: ignore[no-any-return]


def suspects() -> Mapping[str, tuple[nn.Module, str]]:
    """Return by name a module that behaves otherwise in training, and the path that is to be named."""
    torch.manual_seed(0)
    here = "inner.suspect"
    return {
        "batch norm 1d": (nn.BatchNorm1d(WIDTH), here),
        "batch norm 2d": (Image(nn.BatchNorm2d(2)), f"{here}.module"),
        "instance norm": (Image(nn.InstanceNorm2d(2, track_running_stats=True)), f"{here}.module"),
        "dropout": (nn.Dropout(0.5), here),
        "alpha dropout": (nn.AlphaDropout(0.2), here),
        "dropout of channels": (Image(nn.Dropout2d(0.4)), f"{here}.module"),
        "functional dropout": (Functional(), here),
        "attention": (Attends(), f"{here}.attention"),
        "recurrent": (Recurs(), f"{here}.gru"),
        "random leaks": (nn.RReLU(), here),
    }


def innocents() -> Mapping[str, nn.Module]:
    """Return modules that are the same in training, or use a batch's statistics in evaluation too."""
    torch.manual_seed(0)
    return {
        "batch norm without statistics": nn.BatchNorm1d(WIDTH, track_running_stats=False),
        "instance norm without statistics": Image(nn.InstanceNorm2d(2)),
        "layer norm": nn.LayerNorm(WIDTH),
        "dropout of nothing": nn.Dropout(0.0),
    }


def export(module: nn.Module, path: Path, *, train: bool, decompose: bool = False) -> torch.export.ExportedProgram:
    """Export a suspect between two linears, and save the program."""
    whole = Wrapped(module).train(train)
    program = torch.export.export(whole, (torch.randn(4, WIDTH),), dynamic_shapes={"x": {0: BATCH}})
    if decompose:
        program = program.run_decompositions()
    torch.export.save(program, path)
    return program
