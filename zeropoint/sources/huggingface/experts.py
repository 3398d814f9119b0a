"""Experts of mixtures: one parameter for all experts of a layer, which checkpoints store as a weight for each of them.

    network      experts.gate_up_proj [experts, 2 · out, in]
    checkpoint   experts.0.gate_proj.weight [out, in], experts.0.up_proj.weight [out, in], experts.1.gate_proj.weight …

A quantized network is stored as such a checkpoint. Llama 4's experts are stored merged, as [experts, in, 2 · out]; but
as soon as a folder is quantized, transformers builds a layer for each of them, and so do we.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from zeropoint.model.weight_holder import Layout, WeightHolder
from zeropoint.sources.huggingface.conversions import Conversion
from zeropoint.sources.recurrent import Holders, hold

Pieces = tuple[tuple[str, slice], ...]
"""The stored names of weights [out, in], with their rows in a merged weight that is seen as [experts · out, in]."""
_MERGED = ("gate_up_proj", "down_proj")


def find_experts(conversions: Iterable[Conversion]) -> dict[str, Pieces]:
    """Return the network's merged experts by name, with the stored weights that each consists of."""
    found: dict[str, Pieces] = {}
    for conversion in conversions:
        converter = conversion.converter
        merges = any(type(operation).__name__ == "MergeModulelist" for operation in converter.operations)
        # transformers dequantizes what it merges if the patterns of all its sources end so
        if merges and all(pattern.endswith(".weight") for pattern in converter._original_source_patterns):
            found |= _pieces(conversion)
    return found


def _pieces(conversion: Conversion) -> dict[str, Pieces]:
    """Return the rows of a merged weight in which each stored weight lies, found by merging the numbers of rows."""
    names = [stored for stored, _ in conversion.sources]
    shapes = [conversion.stored_shapes[name] for name in names]
    if not all(len(shape) == 2 for shape in shapes):
        return {}
    firsts = list(accumulate((rows for rows, _ in shapes), initial=0))
    numbers = {n: torch.arange(a, b).unsqueeze(1) for n, a, b in zip(names, firsts[:-1], firsts[1:], strict=True)}
    pieces: dict[str, Pieces] = {}
    for name, merged in conversion.run(numbers).items():
        place = merged.flatten().argsort()  # of row number n of the checkpoint, in the merged weight
        starts = [int(place[first]) for first in firsts[:-1]]
        slices = [slice(start, start + rows) for start, (rows, _) in zip(starts, shapes, strict=True)]
        in_order = all(
            torch.equal(merged.flatten()[rows], numbers[stored].flatten())
            for stored, rows in zip(names, slices, strict=True)
        )
        if merged.dim() == 3 and merged.shape[-1] == 1 and len(place) == firsts[-1] and in_order:
            pieces[name] = tuple(zip(names, slices, strict=True))
    return pieces


def hold_experts(network: nn.Module, names: Iterable[str]) -> Holders:
    """Let the modules with these merged weights read them from holders, and return these."""
    held: dict[int, dict[str, WeightHolder]] = {}
    owners: dict[int, nn.Module] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        weight = owner.get_parameter(leaf)
        owners[id(owner)] = owner
        held.setdefault(id(owner), {})[leaf] = WeightHolder(weight, Layout(tuple(weight.shape), (0, 1, 2)))
    for key, holders in held.items():
        hold(owners[key], holders)
    return held


@dataclass(frozen=True)
class SingleExperts:
    """Merged experts that were replaced by a layer for each: the new tensors by name, and the merged ones' names."""

    tensors: Mapping[str, Tensor]
    merged: frozenset[str]
    names: Mapping[str, tuple[str, str]]
    """New name -> the merged name, and what follows the path of the experts in the new one."""


def put_single_experts(network: Any) -> SingleExperts:
    """Replace Llama 4's merged experts by what transformers builds in a quantized network: a layer for each expert."""
    replaced = {
        path: module for path, module in network.named_modules() if type(module).__name__ == "Llama4TextExperts"
    }
    tensors: dict[str, Tensor] = {}
    names: dict[str, tuple[str, str]] = {}
    for path, module in replaced.items():
        build = import_module("transformers.quantizers.base").SequentialLlama4TextExperts
        with torch.device("meta"):
            single = build(network.config.get_text_config())
        for leaf, (merged, weight) in _single_weights(module).items():
            single.get_submodule(leaf.rpartition(".")[0]).weight = nn.Parameter(weight, requires_grad=False)
            tensors[f"{path}.{leaf}"], names[f"{path}.{leaf}"] = weight, (f"{path}.{merged}", leaf)
        network.set_submodule(path, single.train(module.training))
    return SingleExperts(tensors, frozenset(f"{path}.{leaf}" for path in replaced for leaf in _MERGED), names)


def _single_weights(module: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Return the name of the merged weight and the weight [out, in] of each expert's layers, by their names."""
    gates, down = (module.get_parameter(leaf).detach() for leaf in _MERGED)
    weights: dict[str, tuple[str, Tensor]] = {}
    for number in range(len(gates)):
        gate, up = gates[number].t().chunk(2)
        for leaf, weight in (("gate_proj", gate), ("up_proj", up)):
            weights[f"{number}.{leaf}.weight"] = ("gate_up_proj", weight.contiguous())
        weights[f"{number}.down_proj.weight"] = ("down_proj", down[number].t().contiguous())
    return weights
