"""`model.pt2`: the uploaded program in the ecosystem's Q/DQ form (`quantized_decomposed` operators, as PT2E writes it).

    x ── quantize_per_tensor ── dequantize_per_tensor ──┐
    weight int8 ── dequantize_per_channel ──────────────┴── linear / conv ── …

The graph is edited, not exported again: symbolic shapes, tied weights and module paths stay what they were. It holds
neither example inputs (the user's data), nor source code locations, nor float weights that nothing reads.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.export.passes import move_to_device_pass
from torch.fx import Graph, Node

from quantization.layers import Activation, Quantized, QuantizedLayer
from quantization.sources.graph import layer_calls, stored_names
from quantization.sources.pruning import copy_graph, rebuild
from quantization.sources.source import ProgramSource

ops = torch.ops.quantized_decomposed
PRIVATE_META = ("stack_trace", "from_node", "torch_fn", "source_fn_stack")
"""Node metadata that tells of the user's files and is not needed to run."""


def write_program(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises OSError when the disk doesn't take it."""
    torch.export.save(quantized_program(quantized), path)


def quantized_program(quantized: Quantized) -> ExportedProgram:
    """The source's program with Q/DQ around its quantized layers; the source stays as it is.

    Raises TypeError when the source is not an exported program.
    """
    if not isinstance(quantized.source, ProgramSource):
        raise TypeError("only an exported program can be written as one")
    program = quantized.source.program
    graph = copy_graph(program.graph)
    calls = layer_calls(graph, stored_names(program))
    specs = {spec.arg.name: [spec] for spec in program.graph_signature.input_specs}
    state: dict[str, Tensor] = dict(program.state_dict)
    shared: dict[tuple[Node, float, int], Node] = {}
    for layer in quantized.layers:
        places = calls[layer.layer.name]
        for call in places:
            if layer.activation is not None:
                call.node.update_arg(call.input_index, _quantize_input(graph, call.input, layer.activation, shared))
        specs[places[0].weight.name] = _quantize_weight(graph, places[0].weight, layer, state)
    for node in graph.nodes:
        for key in PRIVATE_META:
            node.meta.pop(key, None)
    result = rebuild(program, graph, [spec for group in specs.values() for spec in group], state)
    return result if quantized.source.device == "cpu" else move_to_device_pass(result, "cpu")


def _quantize_input(
    graph: Graph, values: Node, activation: Activation, shared: dict[tuple[Node, float, int], Node]
) -> Node:
    """Q/DQ behind `values`; layers that read the same values on the same grid (query, key, value) share one pair."""
    scale, zero_point = float(activation.affine.scale), int(activation.affine.zero_point)
    grid = activation.affine.grid
    key = (values, scale, zero_point)
    if key not in shared:
        arguments = (scale, zero_point, grid.quant_min, grid.quant_max, grid.dtype)
        anchor = _first_operator(graph) if values.op == "placeholder" else values.next
        with graph.inserting_before(anchor):
            integers = _operator(graph, ops.quantize_per_tensor.default, values, *arguments)
            floats = _operator(graph, ops.dequantize_per_tensor.default, integers, *arguments, like=values)
        for node in (integers, floats):
            node.meta["nn_module_stack"] = values.meta.get("nn_module_stack", {})
        shared[key] = floats
    return shared[key]


def _quantize_weight(graph: Graph, weight: Node, layer: QuantizedLayer, state: dict[str, Tensor]) -> list[InputSpec]:
    """Replace the float parameter by an int8 buffer of its name, dequantized before use. Returns the buffers' specs."""
    name = str(layer.layer.weight_name)
    grid, affine = layer.affine.grid, layer.affine
    float_value = weight.meta["val"]
    stored = {name: layer.weight}
    if affine.axis is not None:
        stored |= {f"{name}_scale": affine.scale, f"{name}_zero_point": affine.zero_point}
    nodes = [weight]
    for suffix in list(stored)[1:]:
        with graph.inserting_after(nodes[-1]):
            nodes.append(graph.placeholder(f"{weight.name}{suffix.removeprefix(name)}"))
    for node, tensor in zip(nodes, stored.values(), strict=True):
        node.meta["val"] = float_value.fake_mode.from_tensor(tensor.to(float_value.device), static_shapes=True)
    readers = list(weight.users)
    limits = (grid.quant_min, grid.quant_max, grid.dtype)
    with graph.inserting_before(next(node for node in graph.nodes if node in weight.users)):
        if affine.axis is None:
            single = (float(affine.scale), int(affine.zero_point), *limits)
            floats = _operator(graph, ops.dequantize_per_tensor.default, weight, *single, like=float_value)
        else:
            target = ops.dequantize_per_channel.default
            floats = _operator(graph, target, *nodes, affine.axis, *limits, like=float_value)
    floats.meta["nn_module_stack"] = readers[0].meta.get("nn_module_stack", {})
    for reader in readers:
        reader.replace_input_with(weight, floats)
    state |= {key: tensor.to(float_value.device) for key, tensor in stored.items()}
    return [
        InputSpec(InputKind.BUFFER, TensorArgument(node.name), target, persistent=True)
        for node, target in zip(nodes, stored, strict=True)
    ]


def _operator(graph: Graph, target: Any, *arguments: object, like: Node | Tensor | None = None) -> Node:
    """A call whose value is known, as export wants it; with `like`, it gives back that tensor's float dtype."""
    value = like.meta["val"] if isinstance(like, Node) else like
    options = {} if value is None or value.dtype == torch.float32 else {"out_dtype": value.dtype}
    node = graph.call_function(target, cast(Any, arguments), cast(Any, options))
    fakes = [argument.meta["val"] if isinstance(argument, Node) else argument for argument in arguments]
    with _fake_mode(fakes):
        node.meta["val"] = target(*fakes, **options)
    return node


def _fake_mode(values: list[object]) -> FakeTensorMode:
    return next(value.fake_mode for value in values if isinstance(value, FakeTensor))


def _first_operator(graph: Graph) -> Node:
    return next(node for node in cast(Iterable[Node], graph.nodes) if node.op != "placeholder")
