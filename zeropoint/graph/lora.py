"""Merge low-rank adapters into the linears beside them, so that one weight remains to be quantized.

    x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ = x·(W + s·B·A)ᵀ + b

Source: Hu et al., "LoRA" (ICLR 2022), section 4.1. The sum is exact up to the rounding of the merged weight. An adapter
is merged only if its linears have no bias, and nothing else reads what it computes or the weight W.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from zeropoint.graph.calls import layer_calls, on_graph
from zeropoint.graph.constants import Constants
from zeropoint.graph.leaves import canonical_weight, drop_addition
from zeropoint.graph.obstacles import obstacles
from zeropoint.graph.program_state import ProgramEditor
from zeropoint.graph.pruning import copy_graph, prune, rebuild
from zeropoint.model.layer_call import LayerCall

aten = torch.ops.aten

_SAME_VALUES = (
    *(aten.view.default, aten.reshape.default, aten._unsafe_view.default),
    *(aten.clone.default, aten.alias.default, aten.detach.default, aten.contiguous.default),
)
_FACTORS = (aten.mul.Tensor, aten.mul.Scalar)


def merge_adapters(program: ExportedProgram) -> tuple[ExportedProgram, frozenset[str]]:
    """Return the program with its adapters merged, and the names of the layers that are now part of another one."""
    constants = Constants(program, program.graph)
    found = layer_calls(program, constants)
    blocked = obstacles(found, constants)
    graph = copy_graph(program.graph)
    calls = on_graph({name: places for name, places in found.items() if len(places) == 1}, graph)
    finder = _Finder({places[0].node: (name, places[0]) for name, places in calls.items()})
    editor, merged = ProgramEditor(program, graph), set[str]()
    for node in list(graph.nodes):
        adapter = finder.adapter(node)
        if adapter is None or adapter.layer in blocked or not adapter.base.sources or adapter.base.folded:
            continue
        first, second = (_weight(found[name][0], constants) for name in adapter.names)
        change = adapter.scale * (second @ first)
        name = adapter.base.weight_name
        weight = editor.state[name].detach()
        change = change.t() if adapter.base.transposed else change
        editor.change(name, (weight.double() + change).to(weight.dtype))
        drop_addition(node, adapter.summand_index)
        merged |= set(adapter.names)
    if not merged:
        return program, frozenset()
    return prune(rebuild(program, graph, editor.specs, editor.state)), frozenset(merged)


def _weight(call: LayerCall, constants: Constants) -> Tensor:
    """Return the weight [out, in] of a call on the program's own graph, in float64."""
    return canonical_weight(constants.value(call.weight), call).double()


@dataclass(frozen=True)
class _Adapter:
    """An adapter: its layers A and B, its scale s, and the call that it adds to."""

    layer: str
    base: LayerCall
    names: tuple[str, str]
    scale: float
    summand_index: int
    """The position of the base's result among the arguments of the sum."""


class _Finder:
    """Finds adapters by their sum with a linear."""

    def __init__(self, calls: Mapping[Node, tuple[str, LayerCall]]) -> None:
        self._calls = {
            call.node if call.addition is None else call.addition: (name, call) for name, call in calls.values()
        }

    def adapter(self, node: Node) -> _Adapter | None:
        """Return the adapter that a sum adds to a linear; None if it is no such sum."""
        if node.target is not aten.add.Tensor or not all(isinstance(argument, Node) for argument in node.args):
            return None
        for index in (0, 1):
            layer, base, factor = self._linear(node.args[index], node)
            outer, second, scale = self._linear(node.args[1 - index], node)
            inner, first, inner_scale = self._linear(second.operand, second.node) if second else (None, None, 1.0)
            if not (layer and base and outer and second and inner and first) or factor != 1 or _is_scaled(node, index):
                continue
            plain = all(call.spelling is None or call.spelling.is_plain for call in (base, first, second))
            unbiased = first.bias is None and second.bias is None
            if plain and unbiased and _origin(first.operand) is _origin(base.operand):
                scale *= inner_scale * (_number(node.kwargs.get("alpha", 1)) if index == 0 else 1.0)
                return _Adapter(layer, base, (inner, outer), scale, index)
        return None

    def _linear(self, values: object, reader: Node) -> tuple[str | None, LayerCall | None, float]:
        """Return the linear that computes these values for this reader alone, and the factor that it is scaled by."""
        scale = 1.0
        while isinstance(values, Node) and list(values.users) == [reader]:
            if values in self._calls:
                name, call = self._calls[values]
                return (name, call, scale) if call.kind == "Linear" else (None, None, scale)
            factor = _factor(values)
            if factor is None:
                break
            scale, reader, values = scale * factor, values, values.args[0]
        return None, None, scale


def _factor(node: Node) -> float | None:
    """Return the number that an operator multiplies its first argument by; None if it does anything else."""
    if node.target in _SAME_VALUES or (node.target is aten.dropout.default and node.args[2] is False):
        return 1.0
    if node.target in _FACTORS and isinstance(node.args[1], int | float):
        return float(node.args[1])
    if node.target is aten.div.Tensor and isinstance(node.args[1], int | float) and not node.kwargs:
        return 1.0 / float(node.args[1])
    return None


def _is_scaled(addition: Node, index: int) -> bool:
    """Return whether the sum multiplies the base's result, by a number or by one that varies."""
    alpha = addition.kwargs.get("alpha", 1)
    return not isinstance(alpha, int | float) or (index == 1 and alpha != 1)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 1.0


def _origin(values: Node) -> Node:
    """Return the values before copies, reshapes and dropout that evaluation skips."""
    while values.op == "call_function" and (values.target not in _FACTORS) and _factor(values) == 1.0:
        values = values.args[0]  # type: ignore[assignment]
    return values
