"""Replace operators by `nn` leaves: `aten.linear(x, w, b)` becomes a call of an `nn.Linear` that holds w and b.

A leaf computes what its operators compute, bit for bit. It sees values [..., in] and returns [..., out] also where the
operator has other dimensions. A layer whose calls differ (in their dilation, in how they are spelled) is one leaf: its
second argument says which call it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from zeropoint.graph.constants import Constants
from zeropoint.graph.views import REPEATED
from zeropoint.model.layer import TRANSPOSED, LayerKind
from zeropoint.model.layer_call import LayerCall, Spelling
from zeropoint.model.weight_holder import Layout, WeightHolder
from zeropoint.schema.layer_names import free_name

aten = torch.ops.aten

LEAVES = "zeropoint_leaves"
"""The module that holds the leaves inside the graph module, unless the user has a module of this name."""

Insert = Callable[[Any, tuple[Any, ...]], Node]
"""Inserts a call of an operator, given its arguments, into a graph."""
Compute = Callable[[nn.Module, Tensor], Tensor]


def insert_leaves(
    module: GraphModule, constants: Constants, calls: Mapping[str, Sequence[LayerCall]]
) -> dict[str, nn.Module]:
    """Replace each call of a layer in the runnable `module` by a call of one leaf; return the leaves by layer name.

    `calls` refer to the exported graph; the runnable graph has the same operator nodes under the same names.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    holder = free_name(LEAVES, dir(module))
    leaves: dict[str, nn.Module] = {}
    for number, (name, places) in enumerate(calls.items()):
        leaves[name] = _leaf(constants, places)
        target = f"{holder}.{number}"
        module.add_submodule(target, leaves[name])
        for index, call in enumerate(places):
            node = nodes[call.node.name]
            if call.is_held:
                _hold(module, target, node, node.all_input_nodes[call.node.all_input_nodes.index(call.weight)])
                continue
            with module.graph.inserting_before(node):
                # not by its name: the runnable graph renames inputs that Python reserves
                operand = node.all_input_nodes[call.node.all_input_nodes.index(call.operand)]
                values = values_last(module.graph.call_function, operand, call.spelling)
                place = _place(leaves[name], index)
                output = module.graph.call_module(target, (values, *place))
                replacement = result_of(module.graph.call_function, output, call.spelling)
            node.replace_all_uses_with(replacement)
            module.graph.erase_node(node)
            if call.addition is not None:
                drop_addition(nodes[call.addition.name], call.summand_index)
    module.graph.eliminate_dead_code()
    module.recompile()
    return leaves


def _hold(module: GraphModule, target: str, reader: Node, weight: Node) -> None:
    """Let everything that reads a weight read the result of a holder, which is called before the first `reader`."""
    with module.graph.inserting_before(reader):
        held = module.graph.call_module(target, ())
    weight.replace_all_uses_with(held)


def values_last(insert: Insert, values: Node, spelling: Spelling | None) -> Node:
    """Insert what turns a product's values into [..., in]."""
    if spelling is None or spelling.is_plain:
        return values
    order = [spelling.values.index(term) for term in spelling.others + spelling.inputs]
    values = _permuted(insert, values, order)
    if len(spelling.inputs) == 1:
        return values
    return insert(aten.flatten.using_ints, (values, len(spelling.others), -1))


def result_of(insert: Insert, output: Node, spelling: Spelling | None) -> Node:
    """Insert what turns [..., out] into a product's result."""
    if spelling is None or spelling.is_plain:
        return output
    if len(spelling.outputs) != 1:
        sizes = [spelling.sizes[term] for term in spelling.outputs]
        output = insert(aten.unflatten.int, (output, -1, sizes))
    terms = spelling.others + spelling.outputs
    return _permuted(insert, output, [terms.index(term) for term in spelling.result])


def drop_addition(addition: Node, summand_index: int) -> Node:
    """Let whatever reads a sum read one of its summands, which nothing else reads, under the sum's name; return it."""
    summand, name = cast(Node, addition.args[summand_index]), addition.name
    addition.replace_all_uses_with(summand)
    addition.graph.erase_node(addition)
    summand.name = name  # outputs refer to values by name
    return summand


def canonical_weight(value: Tensor, call: LayerCall) -> Tensor:
    """Return a weight [out, in, ...] from what the call's `weight` node holds; a view if that is possible."""
    spelling = call.spelling
    if spelling is None:
        return value
    outputs, inputs = (
        math.prod(spelling.sizes[term] for term in terms) for terms in (spelling.outputs, spelling.inputs)
    )
    return value.permute(call.order).reshape(outputs, inputs)


def _permuted(insert: Insert, values: Node, order: Sequence[int]) -> Node:
    if list(order) == list(range(len(order))):
        return values
    return insert(aten.permute.default, (values, list(order)))


def _place(leaf: nn.Module, index: int) -> tuple[int, ...]:
    return (index,) if index and isinstance(leaf, _Several) else ()


class _Several(nn.Module):
    """A leaf whose calls compute in different ways, each from the leaf's tensors."""

    computes: tuple[Compute, ...]

    def forward(self, input: Tensor, place: int = 0) -> Tensor:
        """Return the output of the call number `place`."""
        return self.computes[place](self, input)


def _leaf(constants: Constants, calls: Sequence[LayerCall]) -> nn.Module:
    call = calls[0]
    if call.is_held:
        value, trains = constants.value(call.weight), not call.folded and constants.is_trainable(call.weight)
        layout = Layout(tuple(value.shape), call.order, call.held_inputs)
        return WeightHolder(nn.Parameter(value, requires_grad=trains), layout).eval()
    weight = canonical_weight(constants.value(call.weight), call)
    bias = None if call.bias is None else constants.value(call.bias).reshape(-1)
    several = any(other.spelling is not None or other.options != call.options for other in calls)
    with torch.device("meta"):
        leaf = _empty(call, weight, several=several)
    if isinstance(leaf, _Several):
        leaf.computes = tuple(_compute(call, constants) for call in calls)
    # torch computes some products in another way for weights that may be trained
    leaf.weight = nn.Parameter(weight, requires_grad=not call.folded and constants.is_trainable(call.weight))
    if call.kind != "Embedding":
        leaf.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
    return leaf.eval()


def _empty(call: LayerCall, weight: Tensor, *, several: bool) -> nn.Module:
    """Return a module of the call's kind and options.

    Weights are [out, in / groups, ...], those of transposed convolutions [in, out / groups, ...].
    """
    rows, columns = weight.shape[:2]
    kind: Callable[..., nn.Module] = _kind(call.kind, several=several)
    if call.kind == "Linear":
        return kind(columns, rows, bias=False)
    if call.kind == "Embedding":
        return kind(rows, columns)
    options = {key: _in_full(value, weight.dim() - 2) for key, value in call.options.items()}
    groups = call.options.get("groups", 1)
    inputs, outputs = (rows, columns * groups) if call.kind in TRANSPOSED else (columns * groups, rows)
    return kind(inputs, outputs, tuple(weight.shape[2:]), bias=False, **options)


def _in_full(option: Any, dimensions: int) -> Any:
    """Return an option with a number for each dimension, where an operator has one for all in a list."""
    if isinstance(option, int | str):
        return option
    return tuple(option) * (dimensions // len(option))


def _kind(kind: LayerKind, *, several: bool) -> Any:
    plain = getattr(nn, kind)
    return type(kind, (_Several, plain), {}) if several else plain


def _compute(call: LayerCall, constants: Constants) -> Compute:
    """Return a function of a leaf and its input that computes what the call computes."""
    if call.spelling is not None:
        stored = constants.value(call.weight)
        copied = canonical_weight(stored, call).data_ptr() != stored.data_ptr()
        dense = copied and not call.views and stored.is_contiguous()
        return _Spelled(call.node.target, call.spelling, _equation(call.node), _dimensions(call.node), dense)
    if call.kind in ("Linear", "Embedding"):
        plain = getattr(nn, call.kind).forward
        return cast(Compute, plain)
    return _Convolved(call.kind, {key: _value(value) for key, value in call.options.items()})


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class _Convolved:
    """A convolution with options of its own."""

    kind: LayerKind
    options: Mapping[str, Any]

    def __call__(self, leaf: nn.Module, values: Tensor) -> Tensor:
        name = self.kind.lower().replace("transpose", "_transpose")
        output: Tensor = getattr(nn.functional, name)(values, leaf.weight, leaf.bias, **self.options)
        return output


@dataclass(frozen=True)
class _Spelled:
    """A matrix product by the operator that the user's program has."""

    target: Any
    spelling: Spelling
    equation: str | None
    dimensions: tuple[list[int], ...]
    """The dimensions that a tensordot sums over, of each factor."""
    dense: bool = False
    """Whether the operator reads a weight in the order of memory, though the leaf has it in another order."""

    def __call__(self, leaf: nn.Module, values: Tensor) -> Tensor:
        """Return [..., out] of values [..., in]."""
        spelling = self.spelling
        factors = [self._values(values), self._weight(cast(Tensor, leaf.weight), values)]
        if spelling.weight_first:
            factors.reverse()
        bias = cast(Tensor | None, leaf.bias)
        if self.target in (aten.addmm.default, aten.baddbmm.default) and bias is not None:
            return self._last(self.target(bias, *factors))
        if self.target is aten.linear.default and bias is not None and not spelling.weight_first:
            return self._last(self.target(*factors, bias))
        product = {aten.addmm.default: torch.mm, aten.baddbmm.default: torch.bmm}.get(self.target, self.target)
        result = product(*factors, *self.dimensions) if self.equation is None else product(self.equation, factors)
        output = self._last(result)
        return output if bias is None else output + bias

    def _values(self, values: Tensor) -> Tensor:
        """Return the values with the dimensions that the operator reads."""
        spelling = self.spelling
        if spelling.is_plain:
            return values
        if len(spelling.inputs) > 1:
            values = values.reshape(*values.shape[:-1], *(spelling.sizes[term] for term in spelling.inputs))
        terms = spelling.others + spelling.inputs
        return values.permute([terms.index(term) for term in spelling.values])

    def _weight(self, weight: Tensor, values: Tensor) -> Tensor:
        """Return the weight with the dimensions that the operator reads."""
        spelling = self.spelling
        terms = spelling.outputs + spelling.inputs
        kept = [terms.index(term) for term in spelling.weight if term != REPEATED]
        factor = weight.reshape([spelling.sizes[term] for term in terms]).permute(kept)
        factor = factor.contiguous() if self.dense else factor
        for dim, term in enumerate(spelling.weight):
            if term == REPEATED:
                factor = factor.unsqueeze(dim)
        if self.target in (aten.bmm.default, aten.baddbmm.default):
            batch = values.shape[spelling.others.index(spelling.values[0])]
            factor = factor.expand(batch, -1, -1)
        return factor

    def _last(self, result: Tensor) -> Tensor:
        """Return [..., out] of the operator's result."""
        spelling = self.spelling
        if spelling.is_plain:
            return result
        output = result.permute([spelling.result.index(term) for term in spelling.others + spelling.outputs])
        return output if len(spelling.outputs) == 1 else output.flatten(len(spelling.others))


def _equation(node: Node) -> str | None:
    return cast(str, node.args[0]) if node.target is aten.einsum.default else None


def _dimensions(node: Node) -> tuple[list[int], ...]:
    return cast(tuple[list[int], ...], node.args[2:4]) if node.target is aten.tensordot.default else ()
