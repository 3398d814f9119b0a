"""An architecture of the table: a network with weights as wide as trained ones, samples, and how it is exported."""

import io
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

BATCH = Dim("batch", min=1, max=1024)
SAMPLES = 96
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.InstanceNorm2d,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class Architecture:
    """A network and samples for each of its arguments: a tensor, or a dict or list of them, [samples, …].

    `batch`: whether the export takes batches of any size; else it has the size of the example. `dynamic` has further
    dynamic dimensions of arguments that are tensors. `keywords`: arguments go by name.
    """

    module: nn.Module
    samples: dict[str, Any]
    batch: bool = True
    dynamic: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    keywords: bool = False
    layout: Literal["exported", "decomposed"] = "exported"
    rows: int = 2

    def arguments(self, rows: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call with the first samples."""
        first = pytree.tree_map(lambda tensor: tensor[:rows].clone(), self.samples)
        return ((), first) if self.keywords else (tuple(first.values()), {})

    def export(self) -> ExportedProgram:
        """Return the program as a user exports it."""
        args, kwargs = self.arguments(self.rows)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(self.module.eval(), args, kwargs, dynamic_shapes=self._dynamic())
            return program.run_decompositions() if self.layout == "decomposed" else program

    def saved(self) -> bytes:
        """Return the program as `torch.export.save` writes it."""
        file = io.BytesIO()
        torch.export.save(self.export(), file)
        return file.getvalue()

    def dataset(self) -> dict[str, Tensor]:
        """Return the samples by the names of the program's inputs: `batch_mask` for `batch["mask"]`."""
        paths, _ = pytree.tree_flatten_with_path(self.samples)
        return {
            "_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): tensor.contiguous()
            for path, tensor in paths
        }

    def _dynamic(self) -> Any:
        if not self.batch:
            return {name: dict(sizes) for name, sizes in self.dynamic.items()} or None
        return {
            name: {0: BATCH, **self.dynamic.get(name, {})}
            if isinstance(value, Tensor)
            else pytree.tree_map(lambda _: {0: BATCH}, value)
            for name, value in self.samples.items()
        }


def made(name: str, make: Callable[[], Architecture]) -> Architecture:
    """Return an architecture, always the same by its name, with layers whose outputs have about unit variance."""
    torch.manual_seed(zlib.crc32(name.encode()))
    architecture = make()
    _widen(architecture)
    return architecture


def _widen(architecture: Architecture) -> None:
    """Scale each layer's weight in the first call so that its output has unit variance (LSUV, arXiv:1511.06422).

    Initial weights let signals fade, and what an int8 layer costs would be measured on next to nothing. Normalizations
    get weights like trained ones, and batch normalizations the statistics of the samples.
    """
    module = architecture.module.eval()
    handles = [layer.register_forward_hook(_scaled) for layer in module.modules() if _is_layer(layer)]
    for norm in (layer for layer in module.modules() if isinstance(layer, NORMS)):
        if norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.6, 1.4)
            if getattr(norm, "bias", None) is not None:
                nn.init.normal_(norm.bias, std=0.2)  # type: ignore[arg-type]
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.train()
            norm.momentum = None
    args, kwargs = architecture.arguments(64 if architecture.batch else architecture.rows)
    with torch.no_grad():
        module(*args, **kwargs)
    for handle in handles:
        handle.remove()
    module.eval()


def _is_layer(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() > 1 and not isinstance(module, nn.Embedding | nn.EmbeddingBag)


def _scaled(module: nn.Module, _: Any, output: Any) -> Any:
    """Divide weight, bias and output of a layer by the output's deviation, the first time that it is called."""
    if not isinstance(output, Tensor) or getattr(module, "_widened", False) or output.numel() < 2:
        return None
    module._widened = True  # type: ignore[assignment]
    deviation = output.std().clamp(min=1e-6)
    for parameter in module.parameters(recurse=False):
        parameter.div_(deviation)
    return output / deviation


def images(size: int = 32, channels: int = 3, samples: int = SAMPLES) -> Tensor:
    """Return smooth pictures with a little noise, [samples, channels, size, size], about unit variance."""
    coarse = torch.randn(samples, channels, 6, 6)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return smooth + 0.1 * torch.randn(samples, channels, size, size)


def sounds(length: int, samples: int = SAMPLES) -> Tensor:
    """Return sums of four tones with a little noise, [samples, length]."""
    time = torch.arange(length) / 1000.0
    tones = [
        torch.rand(samples, 1) * torch.sin(6.283 * (20 + 400 * torch.rand(samples, 1)) * time + torch.rand(samples, 1))
        for _ in range(4)
    ]
    return torch.stack(tones).sum(0) + 0.02 * torch.randn(samples, length)


def words(length: int, vocabulary: int, samples: int = SAMPLES) -> Tensor:
    """Return ids, [samples, length], of which small ones are frequent as in a text."""
    return (vocabulary * torch.rand(samples, length) ** 3).long()


def rows(*features: int, samples: int = SAMPLES) -> Tensor:
    """Return normal numbers, [samples, *features]."""
    return torch.randn(samples, *features)


def each(table: Mapping[str, Mapping[str, Callable[[], Architecture]]]) -> Iterator[tuple[str, str]]:
    """Yield domain and name of every architecture."""
    yield from ((domain, name) for domain, members in table.items() for name in members)
