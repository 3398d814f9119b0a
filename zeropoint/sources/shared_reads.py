"""Find weights of a module's layers that other code reads, such as a parent that calls `F.linear(x, self.fc.weight)`.

Such a weight has to stay as it is: a quantized layer holds integers in its place, which only that layer dequantizes. No
structure shows who reads a weight, so the module runs once, and every operator that gets the weight's memory outside of
its layer counts.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zeropoint.model.hooks import hooked
from zeropoint.model.layer import Layer
from zeropoint.sources.module import ModuleSource

logger = logging.getLogger(__name__)


def without_shared_weights(source: ModuleSource, batch: Sequence[Tensor]) -> ModuleSource:
    """Return the source with layers whose weight other code reads in a pass over `batch` left in float.

    A module that can't run is returned as it is: whatever runs it next says so.
    """
    owners = _owners(source)
    try:
        found = _read_elsewhere(source, owners, batch)
    except Exception:
        logger.info("The module does not run on the first samples.", exc_info=True)
        return source
    finally:
        source.reset()
    if not found:
        return source
    shared = {layer.name for layer in source.layers if _address_of(source, layer) in found}
    return replace(source, layers=tuple(_in_float(layer) if layer.name in shared else layer for layer in source.layers))


def _in_float(layer: Layer) -> Layer:
    return replace(layer, module=None, weight_name=None, bias_name=None, reason="shared_weight_conflict")


def _owners(source: ModuleSource) -> dict[int, list[nn.Module]]:
    """Return the address of each layer's weight -> the modules of the layers that hold it."""
    owners: dict[int, list[nn.Module]] = {}
    for layer in source.layers:
        if layer.weight_name is not None:
            owner = source.module.get_submodule(layer.weight_name.rpartition(".")[0])
            place = layer.module if layer.module is not None and not layer.is_held else owner
            owners.setdefault(_address_of(source, layer), []).append(place)
    return owners


def _address_of(source: ModuleSource, layer: Layer) -> int:
    return 0 if layer.weight_name is None else _address(source.module.get_parameter(layer.weight_name))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _read_elsewhere(
    source: ModuleSource, owners: Mapping[int, Sequence[nn.Module]], batch: Sequence[Tensor]
) -> set[int]:
    """Return the addresses of weights that an operator gets while none of their layers runs."""
    source.reset()
    reads = _Reads({address: {id(owner) for owner in modules} for address, modules in owners.items() if address})
    modules = {id(owner): owner for alike in owners.values() for owner in alike}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _followed(modules.values(), reads.running), reads:
        source.run(batch)
    return reads.found


@contextmanager
def _followed(modules: Any, running: list[int]) -> Iterator[None]:
    """Keep in `running` which of the modules run, the innermost last."""

    def enter(module: nn.Module, _: object) -> None:
        running.append(id(module))

    def leave(_: nn.Module, __: object, ___: object) -> None:
        running.pop()

    listed = list(modules)
    with hooked(before=((m, partial(enter)) for m in listed), after=((m, partial(leave)) for m in listed)):
        yield


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which weights operators get from elsewhere than their layers."""

    def __init__(self, owners: Mapping[int, set[int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[int] = []
        self.found: set[int] = set()
        self._owners = owners

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        for value in tree_leaves((args, kwargs or {})):
            if isinstance(value, Tensor):
                owners = self._owners.get(_address(value))
                if owners is not None and not owners.intersection(self.running):
                    self.found.add(_address(value))
        return func(*args, **(kwargs or {}))
