"""Tensors that a checkpoint stores in other pieces than its network: experts one by one, queries and keys in one.

transformers says how to convert them. Converted tensors are computed once, and lie in memory; those stored as the
network has them stay in their files.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conversion:
    """Stored names with the pattern that each matched, in order, and what makes the network's tensors of them."""

    name: str
    """The network's name of the first tensor that is made."""
    sources: tuple[tuple[str, str], ...]
    converter: Any
    network: Any
    stored_shapes: Mapping[str, tuple[int, ...]]
    """The shapes of the stored tensors by name."""

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's tensors by name, made of stored ones by name. Raises ValueError if they don't fit."""
        converter = deepcopy(self.converter)
        for stored, pattern in self.sources:
            converter.add_tensor(self.name, stored, pattern, tensors[stored])
        try:
            made = converter.convert(self.name, model=self.network, config=self.network.config)
        except Exception as error:  # whatever the library raises about tensors that don't fit together
            raise ValueError(f"the tensors for {self.name!r} don't fit together") from error
        return {name: _whole(value[0] if isinstance(value, list) else value) for name, value in made.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that `run` makes, without any memory."""
        empty = {name: torch.empty(self.stored_shapes[name], device="meta") for name, _ in self.sources}
        return {name: tuple(tensor.shape) for name, tensor in self.run(empty).items()}


def _whole(tensor: Tensor) -> Tensor:
    """Return the tensor with a storage of its own, which a piece of another lacks."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def find_conversions(network: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[Conversion]:
    """Return the conversions of a network that stored tensors of these names need."""
    library: Any = import_module("transformers.core_model_loading")
    mapping = import_module("transformers.conversion_mapping").get_model_conversion_mapping(network)
    converters = [entry for entry in mapping if isinstance(entry, library.WeightConverter)]
    renamings = [entry for entry in mapping if not isinstance(entry, library.WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    expected = network.state_dict()
    found: dict[str, list[tuple[str, str]]] = {}
    for stored in sorted(shapes, key=library.dot_natural_key):
        name, pattern = library.rename_source_key(stored, renamings, converters, network.base_model_prefix, expected)
        if pattern is not None and stored not in expected and name in expected:
            found.setdefault(name, []).append((stored, pattern))
    return [
        Conversion(name, tuple(sources), by_pattern[sources[0][1]], network, shapes) for name, sources in found.items()
    ]


def split_conversions(network: Any) -> list[str]:
    """Return the classes, or model types, of which transformers can't open a quantized folder as it is.

    It extends each conversion of a weight by the tensors of a quantized one, and takes no conversion of several tensors
    into several (5.24). Their names must be the network's own then, and the conversions be left out.
    """
    library: Any = import_module("transformers.conversion_mapping")
    converter: Any = import_module("transformers.core_model_loading").WeightConverter
    kinds = {(type(module).__name__, module.config.model_type) for module in network.modules() if _is_network(module)}
    keys = {
        next((key for key in pair if library.get_checkpoint_conversion_mapping(key) is not None), "") for pair in kinds
    }
    return sorted(
        key
        for key in keys - {""}
        if any(
            isinstance(entry, converter)
            and len(entry.target_patterns) > 1
            and all(source.endswith("weight") for source in entry.source_patterns)
            for entry in library.get_checkpoint_conversion_mapping(key)
        )
    )


def _is_network(module: Any) -> bool:
    return hasattr(module, "base_model_prefix") and hasattr(module, "config")
