"""`model.pt2`: the uploaded program in the ecosystem's Q/DQ form (`quantized_decomposed` operators, as PT2E writes it).

    x ── quantize_per_tensor ── dequantize_per_tensor ──┐
    weight int8 ── dequantize_per_channel ──────────────┴── linear / conv ── …

The graph is edited, not exported again: symbolic shapes, tied weights and module paths stay what they were. It holds
neither example inputs (the user's data), nor source code locations, nor float weights that nothing reads.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.export.passes import move_to_device_pass
from torch.fx import Graph, Node

from quantization.formats.qdq import lay_on_grid, make_float
from quantization.layers import Activation, Quantized, QuantizedLayer
from quantization.sources.graph import layer_calls, stored_names
from quantization.sources.pruning import copy_graph, rebuild
from quantization.sources.source import ProgramSource

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
    replaced: set[str] = set()
    for layer in quantized.layers:
        places = calls[layer.layer.name]
        for call in places:
            if layer.activation is not None:
                call.node.update_arg(call.input_index, _quantize_input(graph, call.input, layer.activation, shared))
        if places[0].weight.name not in replaced:  # layers may share one
            replaced.add(places[0].weight.name)
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
    key = (values, float(activation.affine.scale), int(activation.affine.zero_point))
    if key not in shared:
        anchor = _first_operator(graph) if values.op == "placeholder" else values.next
        with graph.inserting_before(anchor):
            shared[key] = lay_on_grid(graph, values, activation.affine)
        _name_modules(shared[key], values, values.meta.get("nn_module_stack", {}))
    return shared[key]


def _quantize_weight(graph: Graph, weight: Node, layer: QuantizedLayer, state: dict[str, Tensor]) -> list[InputSpec]:
    """Replace the float parameter by buffers, the first of its name, made float before use. Returns their specs."""
    name, float_value = str(layer.layer.weight_name), weight.meta["val"]
    stored = {key: tensor.to(float_value.device) for key, tensor in _stored(layer, name).items()}
    nodes = [weight]
    for key in list(stored)[1:]:
        with graph.inserting_after(nodes[-1]):
            nodes.append(graph.placeholder(weight.name + key.removeprefix(name)))
    for node, tensor in zip(nodes, stored.values(), strict=True):
        node.meta["val"] = float_value.fake_mode.from_tensor(tensor, static_shapes=True)
    readers = list(weight.users)
    first = next(node for node in cast(Iterable[Node], graph.nodes) if node in weight.users)
    with graph.inserting_before(first):
        floats = make_float(graph, layer, nodes, float_value.dtype)
    _name_modules(floats, weight, first.meta.get("nn_module_stack", {}))
    for reader in readers:
        reader.replace_input_with(weight, floats)
    state |= stored
    return [
        InputSpec(InputKind.BUFFER, TensorArgument(node.name), target, persistent=True)
        for node, target in zip(nodes, stored, strict=True)
    ]


def _stored(layer: QuantizedLayer, name: str) -> dict[str, Tensor]:
    """The weight's buffers: scales and zero points of channels and groups; those of a whole tensor are literals."""
    affine = layer.affine
    tensors = {name: layer.tensors[name]}
    if affine is not None and affine.scale.dim() > 0:
        tensors[f"{name}_scale"] = affine.scale
        if not affine.grid.dtype.is_floating_point:  # int64 because Inductor's patterns look for it
            tensors[f"{name}_zero_point"] = affine.zero_point
    return tensors


def _name_modules(last: Node, first: Node, stack: object) -> None:
    """The nodes between two belong to these modules of the user's source."""
    for node in last.all_input_nodes:
        if node is not first and node.op != "placeholder" and "nn_module_stack" not in node.meta:
            _name_modules(node, first, stack)
    last.meta.setdefault("nn_module_stack", stack)


def _first_operator(graph: Graph) -> Node:
    return next(node for node in cast(Iterable[Node], graph.nodes) if node.op != "placeholder")
