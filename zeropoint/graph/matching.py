"""Match operators that multiply an input with a constant weight: products, convolutions and embeddings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from zeropoint.graph.constants import Constants
from zeropoint.graph.products import Product, product_of
from zeropoint.graph.views import REPEATED, View, view_of
from zeropoint.model.layer import TRANSPOSED, LayerKind
from zeropoint.model.layer_call import LayerCall

aten = torch.ops.aten

_CONVOLUTIONS: dict[object, LayerKind | None] = {
    aten.conv1d.default: "Conv1d",
    aten.conv1d.padding: "Conv1d",
    aten.conv2d.default: "Conv2d",
    aten.conv2d.padding: "Conv2d",
    aten.conv3d.default: "Conv3d",
    aten.conv3d.padding: "Conv3d",
    aten.conv_transpose1d.default: "ConvTranspose1d",
    aten.conv_transpose2d.input: "ConvTranspose2d",
    aten.conv_transpose3d.input: "ConvTranspose3d",
    aten.convolution.default: None,  # decided by the weight's rank and an argument
}
_BY_RANK: dict[tuple[int, bool], LayerKind] = {
    (3, False): "Conv1d",
    (4, False): "Conv2d",
    (5, False): "Conv3d",
    (3, True): "ConvTranspose1d",
    (4, True): "ConvTranspose2d",
    (5, True): "ConvTranspose3d",
}
_TRANSPOSES = (aten.permute.default, aten.t.default, aten.transpose.int)
_RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_CONVOLUTION_OPTIONS = ("stride", "padding", "output_padding", "dilation", "groups")


def match(node: Node, constants: Constants) -> LayerCall | None:
    """Return the call of a layer that a node is, without the names of its tensors; None for any other node."""
    if node.op != "call_function" or node in constants:
        return None
    arguments = named_arguments(node)
    if node.target is aten.embedding.default:
        call = _direct(node, "Embedding", 1, arguments, constants)
    elif node.target in _CONVOLUTIONS:
        call = _convolution(node, arguments, constants)
    else:
        product = product_of(node, arguments, constants)
        call = None if product is None else _product(node, product, constants)
    return call if call is not None and _is_usable(call) else None


def _is_usable(call: LayerCall) -> bool:
    """Return whether the weight holds numbers to quantize."""
    weight = call.weight.meta["val"]
    return bool(weight.is_floating_point() and weight.numel() and weight.layout == torch.strided)


def _convolution(node: Node, arguments: Mapping[str, Any], constants: Constants) -> LayerCall | None:
    rank = arguments["weight"].meta["val"].dim()
    kind = _CONVOLUTIONS[node.target] or _BY_RANK.get((rank, arguments["transposed"]))
    if kind is None or _BY_RANK.get((rank, kind in TRANSPOSED)) != kind:
        return None
    known = _CONVOLUTION_OPTIONS if kind in TRANSPOSED else set(_CONVOLUTION_OPTIONS) - {"output_padding"}
    options = {key: arguments[key] for key in known if key in arguments}
    if any(isinstance(size, Node) for value in options.values() if isinstance(value, list | tuple) for size in value):
        return None
    call = _direct(node, kind, 0, arguments, constants)
    return call and replace(call, options=options)


def _direct(
    node: Node, kind: LayerKind, input_index: int, arguments: Mapping[str, Any], constants: Constants
) -> LayerCall | None:
    """Return the call of an operator that reads the weight as it is stored or computed."""
    weight, values = arguments["weight"], node.args[input_index]
    if weight not in constants or not isinstance(values, Node) or values in constants:
        return None
    bias = _bias(arguments.get("bias"), constants)
    if bias is None and arguments.get("bias") is not None:
        return None
    return LayerCall(node, kind, values, weight, bias, input_index)


def _product(node: Node, product: Product, constants: Constants) -> LayerCall | None:
    view, spelling = product.view, product.spelling
    bias = _bias(product.addend, constants, spelling.result[-1:] == spelling.outputs)
    if bias is None and product.addend is not None:
        return None
    outputs = spelling.outputs
    size = 1
    for term in outputs:
        size *= spelling.sizes[term]
    if bias is not None and bias.meta["val"].numel() != size:
        return None
    index = next((place for place, argument in enumerate(node.args) if argument is product.input), -1)
    call = LayerCall(node, "Linear", product.input, view.root, bias, index, views=view.path)
    is_matrix = view.root.meta["val"].dim() == 2
    if is_matrix and not spelling.weight_first and _is_linear(node, view):
        return call
    places = {term: dim for term, dim in zip(spelling.weight, view.dims, strict=True) if term != REPEATED}
    order = [places[term] for term in (*outputs, *spelling.inputs)]
    rest = [dim for dim in range(view.root.meta["val"].dim()) if dim not in order]
    call = replace(call, spelling=spelling, order=(*order, *rest))
    if bias is not None or spelling.result[-1:] != outputs:
        return call
    return _with_later_bias(call, constants)


def _with_later_bias(call: LayerCall, constants: Constants) -> LayerCall:
    """Return the call with the constant bias that is added to its result, if nothing else reads the result."""
    product = call.node
    values, size = product, product.meta["val"].shape[-1]
    while len(values.users) == 1:
        (reader,) = values.users
        if reader.target in _RESHAPES and str(reader.meta["val"].shape[-1]) == str(size):
            values = reader
            continue
        if reader.target is not aten.add.Tensor or reader.kwargs or len(reader.args) != 2:
            break
        index = reader.args.index(values)
        bias = _bias(reader.args[1 - index], constants)
        alike = bias is not None and bias.meta["val"].dtype == values.meta["val"].dtype
        if bias is not None and alike and bias.meta["val"].numel() == size and _has_shape_of(reader, values):
            return replace(call, bias=bias, addition=reader, summand_index=index)
        break
    return call


def _has_shape_of(reader: Node, values: Node) -> bool:
    return [*map(str, reader.meta["val"].shape)] == [*map(str, values.meta["val"].shape)]


def _is_linear(node: Node, view: View) -> bool:
    """Return whether the operator reads a weight [out, in] as a linear does, also in a decomposed program."""
    if node.target is aten.linear.default:
        return not view.path
    turned = len(view.path) == 1 and view.is_transpose and view.path[0].target in _TRANSPOSES
    return node.target in (aten.addmm.default, aten.mm.default) and turned


def _bias(addend: object, constants: Constants, last: bool = True) -> Node | None:
    """Return the node of a constant that is added along the last dimension, for each output; None for another."""
    if not isinstance(addend, Node) or not last:
        return None
    view = view_of(addend)
    if view.root in constants and view.root.meta["val"].dim() == 1 and view.dims[-1:] == (0,):
        return view.root if view.root.meta["val"].is_floating_point() else None
    value = addend.meta["val"]
    flat = value.dim() > 0 and value.numel() == value.shape[-1]
    return addend if addend in constants and flat and value.is_floating_point() else None


def named_arguments(node: Node) -> dict[str, Any]:
    """Return the arguments by the schema's names; those left at their default are absent."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return dict(node.kwargs)
    names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
