"""Find the normalizations of a Python module that can absorb factors for the layers behind them.

`graph.norm_mapping` reads this from a graph; here it is observed during one forward pass.

The pass records every torch function that reads a normalization's output. If all of these are the layers' own `linear`,
multiplying the normalization's weight and bias and dividing the layers' weights changes no result. A second pass checks
this with powers of two, which change no rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from zeropoint.model.hooks import AfterForward, BeforeForward, hooked
from zeropoint.model.source import Source, floating_outputs

TOLERANCE = 1e-3


class Readers(TorchFunctionMode):
    """Record the layers that read each normalization's output; None if anything else reads it too."""

    def __init__(self, weights: Mapping[int, str]) -> None:
        super().__init__()
        self._weights = weights
        self._outputs: dict[int, tuple[str, Tensor]] = {}
        self.found: dict[str, set[str] | None] = {}

    def give(self, name: str, output: Tensor) -> None:
        """Record a normalization's output; one that runs twice is excluded."""
        self.found[name] = None if name in self.found else set()
        self._outputs[id(output)] = name, output

    def read(self, value: object, layer: str | None) -> None:
        """Record that a layer, or anything else (None), reads this value."""
        name, output = self._outputs.get(id(value), ("", None))
        readers = self.found.get(name)
        if output is not None and readers is not None:
            self.found[name] = None if layer is None else readers | {layer}

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        values = tree_leaves((args, dict(kwargs or {})))
        if getattr(func, "__name__", "") != "__get__":  # reading a shape or dtype is not reading values
            layer = self._weights.get(id(args[1])) if func is linear and len(args) > 1 else None
            for value in values:
                self.read(value, layer)
        return func(*args, **(kwargs or {}))


def proven_norm_mappings(source: Source, batch: Sequence[Tensor]) -> dict[str, str]:
    """Return layer -> the normalization that can absorb its factors, for linears only; empty if the check fails."""
    weights = {
        id(layer.module.get_parameter("weight")): layer.name for layer in source.layers if layer.module is not None
    }
    norms = {name: module for name, module in source.module.named_modules() if _is_normalization(module)}
    watch = Readers(weights)
    hooks = [(norm, _gives(watch, name)) for name, norm in norms.items()]
    with hooked(after=hooks), watch:  # a returned output counts as read too, since it is copied off the device
        expected = floating_outputs(source, batch)
    source.reset()
    linears = {layer.name for layer in source.layers if layer.kind == "Linear"}
    carriers = {name: readers for name, readers in watch.found.items() if readers and readers <= linears}
    norm_mappings = {layer: name for name, readers in carriers.items() for layer in readers}
    with _scaled(source, norms, norm_mappings):
        scaled = floating_outputs(source, batch)
    source.reset()
    alike = all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(expected, scaled, strict=True))
    return norm_mappings if alike else {}


def _gives(watch: Readers, name: str) -> AfterForward:
    return lambda _, __, output: watch.give(name, output) if isinstance(output, Tensor) else None


def _is_normalization(module: nn.Module) -> bool:
    """Return whether the module has a weight for each channel of the last dimension, as layer and RMS norms do."""
    weight = module._parameters.get("weight")
    named = "norm" in type(module).__name__.lower() and not isinstance(module, nn.modules.batchnorm._NormBase)
    return named and not isinstance(module, nn.GroupNorm) and weight is not None and weight.dim() == 1


@contextmanager
def _scaled(source: Source, norms: Mapping[str, nn.Module], norm_mappings: Mapping[str, str]) -> Iterator[None]:
    """Scale channels of the normalizations by 2 and 1/2 alternately, and scale their layers' inputs back."""
    before = [(norm, dict(norm._parameters)) for norm in norms.values()]
    factors = {name: _factors(norms[name]) for name in set(norm_mappings.values())}
    modules = {layer.name: layer.module for layer in source.layers if layer.module is not None}
    hooks = [(modules[layer], _divides(factors[norm])) for layer, norm in norm_mappings.items()]
    for name, factor in factors.items():
        for part, value in norms[name]._parameters.items():
            if value is not None:
                norms[name]._parameters[part] = nn.Parameter(value.detach() * factor, requires_grad=False)
    try:
        with hooked(before=hooks):
            yield
    finally:
        for norm, parameters in before:
            norm._parameters.update(parameters)


def _factors(norm: nn.Module) -> Tensor:
    weight = norm.get_parameter("weight")
    return torch.where(torch.arange(len(weight), device=weight.device) % 2 == 0, 2.0, 0.5).to(weight.dtype)


def _divides(factor: Tensor) -> BeforeForward:
    return lambda _, arguments: (arguments[0] / factor, *arguments[1:])
