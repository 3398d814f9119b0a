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

from quantization.formats.pairs import Pairs, name_modules
from quantization.formats.qdq import make_float
from quantization.layers import Quantized, QuantizedLayer
from quantization.sources.graph import layer_calls, stored_names
from quantization.sources.pruning import copy_graph, rebuild
from quantization.sources.source import ProgramSource

PRIVATE_META = ("stack_trace", "from_node", "torch_fn", "source_fn_stack")
"""Node metadata that tells of the user's files and is not needed to run."""


def write_program(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises OSError when the disk doesn't take it."""
    torch.export.save(quantized_program(quantized), path)


def quantized_program(quantized: Quantized, *, outputs: bool = False) -> ExportedProgram:
    """The source's program with Q/DQ around its quantized layers; the source stays as it is.

    `outputs`: at outlets too, where layers have a grid for it. Raises TypeError when the source is no exported program.
    """
    if not isinstance(quantized.source, ProgramSource):
        raise TypeError("only an exported program can be written as one")
    program = quantized.source.program
    graph = copy_graph(program.graph)
    calls = layer_calls(graph, stored_names(program))
    specs = {spec.arg.name: [spec] for spec in program.graph_signature.input_specs}
    state: dict[str, Tensor] = dict(program.state_dict)
    pairs = Pairs(graph)
    replaced: set[str] = set()
    for layer in quantized.layers:
        places = calls[layer.layer.name]
        for call in places:
            if layer.activation is not None:
                call.node.update_arg(call.input_index, pairs.behind(call.input, layer.activation))
        if places[0].weight.name not in replaced:  # layers may share one
            replaced.add(places[0].weight.name)
            specs[places[0].weight.name] = _quantize_weight(graph, places[0].weight, layer, state)
    if outputs:
        grids = {layer.layer.name: layer.output for layer in quantized.layers if layer.output is not None}
        pairs.keep_integers([(place, grid) for name, grid in grids.items() for place in calls[name]])
    for node in graph.nodes:
        for key in PRIVATE_META:
            node.meta.pop(key, None)
    result = rebuild(program, graph, [spec for group in specs.values() for spec in group], state)
    return result if quantized.source.device == "cpu" else move_to_device_pass(result, "cpu")


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
    name_modules(floats, weight, first.meta.get("nn_module_stack", {}))
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
