"""Small networks that multiply by one weight in every way that users write it: what all of them must have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import conv1d, linear
from torch.nn.utils import parametrizations, prune

BATCH = Dim("batch", min=2, max=1024)
IN, OUT, STEPS = 12, 8, 5

Forward = Callable[[Any, Tensor], Tensor]


class Written(nn.Module):
    """A module that owns parameters and computes with a function."""

    def __init__(self, forward: Forward, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._forward = forward
        for name, tensor in tensors.items():
            setattr(self, name, tensor if isinstance(tensor, nn.Parameter) else nn.Buffer(tensor))

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


class Linear(Written):
    """A class of the user's that has the name of torch's own."""


class Inner(nn.Module):
    """The module in the middle of a network, under a path of its own."""

    def __init__(self, module: nn.Module, name: str = "mix") -> None:
        super().__init__()
        self.first = nn.Linear(IN, IN)
        self.add_module(name, module)
        self._name = name

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.first(x)
        mixed: Tensor = getattr(self, self._name)(first.relu())
        return mixed


def weight(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5)


@dataclass(frozen=True)
class Spelling:
    """A way to write a product: the function, its tensors, and the layers that it must give, by the weight's name."""

    forward: Forward
    tensors: Callable[[], Mapping[str, Tensor]]
    layers: tuple[str, ...] = ("w",)
    transposed: bool = False


def _outs_first() -> Mapping[str, Tensor]:
    return {"w": weight(OUT, IN), "b": weight(OUT)}


def _ins_first() -> Mapping[str, Tensor]:
    return {"w": weight(IN, OUT), "b": weight(OUT)}


def _qkv() -> Mapping[str, Tensor]:
    return {"w": weight(3 * OUT, IN), "b": weight(3 * OUT)}


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, IN)


def _heads(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], 3, 4)


def _standardized(w: Tensor) -> Tensor:
    return (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5)


PRODUCTS: Mapping[str, Spelling] = {
    "linear": Spelling(lambda m, x: linear(x, m.w, m.b), _outs_first),
    "linear without a bias": Spelling(lambda m, x: linear(x, m.w) + m.b, _outs_first),
    "linear of a transposed input": Spelling(
        lambda m, x: linear(x.transpose(0, 1), m.w, m.b).transpose(0, 1), _outs_first
    ),
    "matmul": Spelling(lambda m, x: x @ m.w + m.b, _ins_first, transposed=True),
    "matmul of a transpose": Spelling(lambda m, x: x @ m.w.T + m.b, _outs_first),
    "addmm": Spelling(
        lambda m, x: torch.addmm(m.b, _flat(x), m.w).reshape(-1, STEPS, OUT), _ins_first, transposed=True
    ),
    "addmm of a transpose": Spelling(
        lambda m, x: torch.addmm(m.b, _flat(x), m.w.t()).reshape(-1, STEPS, OUT), _outs_first
    ),
    "mm": Spelling(lambda m, x: torch.mm(_flat(x), m.w).reshape(-1, STEPS, OUT) + m.b, _ins_first, transposed=True),
    "bmm": Spelling(
        lambda m, x: torch.bmm(x, m.w.unsqueeze(0).expand(x.shape[0], IN, OUT)) + m.b, _ins_first, transposed=True
    ),
    "bmm of a transpose": Spelling(
        lambda m, x: torch.bmm(x, m.w.transpose(0, 1)[None].expand(x.shape[0], -1, -1)) + m.b, _outs_first
    ),
    "baddbmm": Spelling(
        lambda m, x: torch.baddbmm(m.b, x, m.w.expand(x.shape[0], IN, OUT)), _ins_first, transposed=True
    ),
    "einsum": Spelling(lambda m, x: torch.einsum("bti,io->bto", x, m.w), _ins_first, transposed=True),
    "einsum with dots": Spelling(lambda m, x: torch.einsum("...i,oi->...o", x, m.w), _outs_first),
    "einsum to the front": Spelling(lambda m, x: torch.einsum("oi,bti->obt", m.w, x).permute(1, 2, 0), _outs_first),
    "einsum with heads": Spelling(
        lambda m, x: torch.einsum("bti,ihd->bthd", x, m.w), lambda: {"w": weight(IN, 2, OUT // 2)}
    ),
    "einsum of heads": Spelling(
        lambda m, x: torch.einsum("bthd,hdo->bto", x.reshape(*x.shape[:-1], 3, 4), m.w),
        lambda: {"w": weight(3, 4, OUT)},
    ),
    "weight first": Spelling(lambda m, x: (m.w @ x.transpose(1, 2)).transpose(1, 2), _outs_first),
    "four dimensions": Spelling(lambda m, x: (x[:, None] @ m.w)[:, 0], _ins_first, transposed=True),
    "rank three": Spelling(lambda m, x: x @ m.w, lambda: {"w": weight(1, IN, OUT)}),
    "chunked": Spelling(
        lambda m, x: torch.stack([linear(x, w, b) for w, b in zip(m.w.chunk(3), m.b.chunk(3), strict=True)]).sum(0),
        _qkv,
        layers=("w.0", "w.1", "w.2"),
    ),
    "split": Spelling(
        lambda m, x: linear(x, m.w[:OUT]) + linear(x, m.w[OUT : 2 * OUT]) * linear(x, m.w.narrow(0, 2 * OUT, OUT)),
        _qkv,
        layers=("w.0", "w.1", "w.2"),
    ),
    "masked": Spelling(
        lambda m, x: linear(x, m.w * m.mask, m.b), lambda: {**_outs_first(), "mask": (weight(OUT, IN) > 0).float()}
    ),
    "scaled": Spelling(lambda m, x: linear(x, m.w * m.b[:, None]), _outs_first),
    "standardized": Spelling(lambda m, x: linear(x, _standardized(m.w), m.b), _outs_first),
    "reshaped": Spelling(
        lambda m, x: linear(x, m.w.reshape(OUT, IN), m.b), lambda: {"w": weight(IN * OUT), "b": weight(OUT)}
    ),
    "cast": Spelling(lambda m, x: linear(x.bfloat16(), m.w.bfloat16(), m.b.bfloat16()).float(), _outs_first),
    "tensordot": Spelling(lambda m, x: torch.tensordot(x, m.w, dims=1) + m.b, _ins_first, transposed=True),
    "tensordot of the last dimensions": Spelling(
        lambda m, x: torch.tensordot(x, m.w, dims=([-1], [1])) + m.b,
        _outs_first,
    ),
    "tensordot of heads": Spelling(
        lambda m, x: torch.tensordot(_heads(x), m.w, dims=2), lambda: {"w": weight(3, 4, OUT)}
    ),
    "tensordot with the weight first": Spelling(
        lambda m, x: torch.tensordot(m.w, x, dims=([1], [2])).permute(1, 2, 0),
        _outs_first,
    ),
    "tensordot over steps": Spelling(
        lambda m, x: torch.tensordot(x, m.w, dims=([1], [0])).transpose(1, 2),
        lambda: {"w": weight(STEPS, OUT * IN // STEPS + 1)},
        transposed=True,
    ),
    "inner": Spelling(lambda m, x: torch.inner(x, m.w) + m.b, _outs_first),
    "einsum with an ellipsis": Spelling(
        lambda m, x: torch.einsum("...i,io->...o", x, m.w) + m.b, _ins_first, transposed=True
    ),
    "einsum with the weight first": Spelling(lambda m, x: torch.einsum("oi,...i->...o", m.w, x), _outs_first),
    "einsum with two ellipses": Spelling(
        lambda m, x: torch.einsum("...ti,...io->...to", x, m.w), lambda: {"w": weight(1, IN, OUT)}
    ),
    "einsum without an arrow": Spelling(lambda m, x: torch.einsum("btd,dz", x, m.w), _ins_first, transposed=True),
    "einsum with an ellipsis and without an arrow": Spelling(
        lambda m, x: torch.einsum("...d,dz", x, m.w), _ins_first, transposed=True
    ),
    "linear of transposed heads": Spelling(
        lambda m, x: linear(_heads(x).transpose(1, 2), m.w, m.b).sum(1), lambda: {"w": weight(24, 4), "b": weight(24)}
    ),
    "linear of heads without a bias": Spelling(
        lambda m, x: linear(_heads(x).permute(0, 3, 1, 2), m.w).sum(1), lambda: {"w": weight(32, 3)}
    ),
    "matmul of transposed heads": Spelling(
        lambda m, x: (_heads(x).transpose(1, 2) @ m.w + m.b).sum(1),
        lambda: {"w": weight(4, 24), "b": weight(24)},
        transposed=True,
    ),
    "beside a weight computed from it": Spelling(
        lambda m, x: linear(x, m.w * m.g) + linear(x, m.w),
        lambda: {"w": weight(OUT, IN), "g": weight(OUT, 1, seed=1)},
        layers=("w", "w_linear"),
    ),
    "convolution": Spelling(
        lambda m, x: conv1d(x.transpose(1, 2), m.w, m.b).transpose(1, 2),
        lambda: {"w": weight(OUT, IN, 1), "b": weight(OUT)},
    ),
    "convolution at two dilations": Spelling(
        lambda m, x: conv1d(x, m.w, padding=1) + conv1d(x, m.w, padding=2, dilation=2),
        lambda: {"w": weight(STEPS, STEPS, 3)},
    ),
    "convolution by a matrix": Spelling(
        lambda m, x: conv1d(x.transpose(1, 2), m.w[..., None]).transpose(1, 2), _outs_first
    ),
}

MODULES: Mapping[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: nn.utils.weight_norm(nn.Linear(IN, OUT)),
    "parametrized weight norm": lambda: parametrizations.weight_norm(nn.Linear(IN, OUT)),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(IN, OUT)),
    "parametrized spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(IN, OUT)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(IN, OUT), "weight", 0.5),  # type: ignore[no-untyped-call]
}
"""Modules whose weight is computed from other tensors; the layer has the module's name."""


def exported(network: nn.Module, *, decompose: bool = False) -> ExportedProgram:
    """Return the program of a network that takes x [batch, 5, 12]."""
    program = torch.export.export(network.eval(), (inputs(3),), dynamic_shapes=({0: BATCH},))
    return program.run_decompositions() if decompose else program


def inputs(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, STEPS, IN, generator=torch.Generator().manual_seed(seed))
