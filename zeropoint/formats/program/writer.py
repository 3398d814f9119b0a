"""`model.pt2`: the uploaded program in the ecosystem's Q/DQ form (`quantized_decomposed` operators, as PT2E writes it).

    x ── quantize_per_tensor ── dequantize_per_tensor ──┐
    weight int8 ── dequantize_per_channel ──────────────┴── linear / conv ── …

The graph is edited, not exported again: symbolic shapes, tied weights and module paths are preserved. The file holds
neither example inputs (the user's data), nor source code locations, nor float weights that nothing reads.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.fx import Graph, Node

from zeropoint.formats.program.corrections import correct
from zeropoint.formats.program.inductor import Form, buffers, weight_form
from zeropoint.formats.program.input_qdq import KERNEL_INPUT, quantize_input
from zeropoint.formats.program.qdq import insert_dequantize
from zeropoint.formats.program.qdq_sharing import QdqPairs, name_modules
from zeropoint.graph.calls import on_graph
from zeropoint.graph.program_state import ProgramEditor, add_node
from zeropoint.graph.pruning import copy_graph, rebuild
from zeropoint.graph.spelled_names import spelled
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.weights import as_stored
from zeropoint.model.layer import Part
from zeropoint.model.layer_call import LayerCall
from zeropoint.model.source import ProgramSource
from zeropoint.model.weight_holder import Layout
from zeropoint.primitives.qparams import QParams
from zeropoint.schema.layer_names import free_name

STORED_SUFFIXES: Mapping[str, Part] = {"_scale": "scale", "_zero_point": "zero_point"}
PRIVATE_META = ("stack_trace", "from_node", "torch_fn", "source_fn_stack", KERNEL_INPUT)
"""Node metadata that reveals the user's files or serves only this writer; running needs none of it."""


def write_program(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises OSError when the disk can't take it."""
    torch.export.save(spelled(quantized_program(quantized)), path)


def quantized_program(quantized: Quantized, *, outputs: bool = False) -> ExportedProgram:
    """Return a copy of the source's program with Q/DQ around its quantized layers.

    `outputs`: insert Q/DQ at fused outputs too, where layers have qparams for them, and use no form that only Inductor
    needs. Raises TypeError when the source is not an exported program.
    """
    if not isinstance(quantized.source, ProgramSource):
        raise TypeError("only an exported program can be written as one")
    program = quantized.source.program
    graph = copy_graph(program.graph)
    editor = ProgramEditor(program, graph, quantized.scaled_tensors)
    calls = correct(graph, editor, on_graph(quantized.source.calls, graph), quantized.stored_layers)
    qdq_pairs = QdqPairs(graph)
    form_of = weight_form if not outputs else _pt2e_form
    uses = _uses(quantized.stored_layers, calls, form_of)
    for layer in quantized.stored_layers:
        for call in calls[layer.layer.name]:
            if layer.activation is not None:
                quantize_input(graph, qdq_pairs, call, layer.activation, form_of(layer, call))
    for weight, readers in uses.items():
        _quantize_weight(graph, editor, weight, readers, as_uploaded=not outputs)
    if outputs:
        activations = {layer.layer.name: layer.output for layer in quantized.stored_layers if layer.output is not None}
        qdq_pairs.insert_at_outputs([(call, output) for name, output in activations.items() for call in calls[name]])
    for node in graph.nodes:
        for key in PRIVATE_META:
            node.meta.pop(key, None)
    result = rebuild(program, graph, editor.specs, editor.state)
    return result if quantized.source.device == "cpu" else move_to_device_pass(result, "cpu")


@dataclass(frozen=True)
class WeightUse:
    """A node that reads a layer's weight (an operator or a transposing view), and the form that it reads."""

    layer: QuantizedLayer
    form: Form
    reader: Node


def _quantize_weight(
    graph: Graph, editor: ProgramEditor, weight: Node, uses: list[WeightUse], *, as_uploaded: bool
) -> None:
    """Replace the float parameter by buffers, the first under the parameter's name, dequantized before each use.

    Each use by a kernel has its own zero points: Inductor merges equal operators, but recognizes only those read once.
    `as_uploaded`: store a weight with the dimensions that it was uploaded with, and put those of its integers in order.
    """
    name, value = str(uses[0].layer.layer.weight_name), weight.meta["val"]
    uses = uses[:1] if uses[0].layer.layer.is_held else uses  # dequantized once, before the first of its readers
    use_buffers = [_buffers(use, editor.state, number) for number, use in enumerate(uses)]
    transposed, layout = uses[0].layer.layer.transposed, uses[0].layer.layer.layout
    turned, ordered = transposed and as_uploaded, layout if as_uploaded else None
    readers = list(weight.users)
    tensors = {key: tensor for buffers_of_use in use_buffers for key, tensor in buffers_of_use.items()}
    tensors = {key: as_stored(tensor) if turned else tensor for key, tensor in tensors.items()}
    if ordered is not None:
        tensors = {key: ordered.stored(tensor).contiguous() for key, tensor in tensors.items()}
    nodes = {name: editor.put(weight, name, tensors.pop(name))}
    for key, tensor in tensors.items():
        label = weight.name + key.removeprefix(name).replace(".", "_")
        nodes[key] = editor.add([*nodes.values()][-1], label, key, tensor)
    for use, names in zip(uses, use_buffers, strict=True):
        with graph.inserting_before(use.reader):
            stored = [_turned(graph, nodes[key]) if turned else nodes[key] for key in names]
            if ordered is not None:
                stored = [_as_matrix(graph, ordered, node, use.layer.qparams) for node in stored]
            floats = insert_dequantize(graph, use.layer, use.form, stored, value.dtype)
            if layout is not None:
                floats = _from_matrix(graph, layout, floats)
        name_modules(floats, weight, use.reader.meta.get("nn_module_stack", {}))
        if use.layer.layer.is_held:
            for reader in readers:
                reader.replace_input_with(weight, floats)
        elif transposed:
            use.reader.replace_all_uses_with(floats)
            graph.erase_node(use.reader)
        else:
            use.reader.replace_input_with(weight, floats)


def _turned(graph: Graph, stored: Node) -> Node:
    return add_node(graph, torch.ops.aten.t.default, stored) if stored.meta["val"].dim() == 2 else stored


def _as_matrix(graph: Graph, layout: Layout, stored: Node, qparams: QParams | None) -> Node:
    """Insert what makes a stored weight, or its scales, [out, columns], and scales of whole outputs [out]."""
    shape = stored.meta["val"].shape
    if not shape:
        return stored
    if list(layout.order) != list(range(len(shape))):
        stored = add_node(graph, torch.ops.aten.permute.default, stored, list(layout.order))
    outputs = math.prod(layout.shape[dim] for dim in layout.outputs)
    of_outputs = qparams is not None and qparams.axis is not None and math.prod(shape) == outputs
    return add_node(graph, torch.ops.aten.reshape.default, stored, [outputs] if of_outputs else [outputs, -1])


def _from_matrix(graph: Graph, layout: Layout, floats: Node) -> Node:
    """Insert what gives a weight [out, in] the dimensions that its operators read."""
    sizes = layout.sizes(floats.meta["val"].shape[1])
    floats = add_node(graph, torch.ops.aten.reshape.default, floats, sizes)
    in_place = layout.inverse == list(range(len(sizes)))
    return floats if in_place else add_node(graph, torch.ops.aten.permute.default, floats, layout.inverse)


def _buffers(use: WeightUse, state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return the buffers that this use reads, by name in the state dict: integers, scales, zero points."""
    layer, tensors = use.layer.layer, dict[str, Tensor]()
    for suffix, tensor in buffers(use.layer, use.form).items():
        name = str(layer.weight_name) + suffix
        if suffix in STORED_SUFFIXES:
            name = layer.stored_name(STORED_SUFFIXES[suffix])
            own = use.form == "kernel" and suffix == "_zero_point"
            name = free_name(f"{name}_{number}", state) if own and number else name
        elif suffix:
            name = free_name(name, state)
        tensors[name] = tensor
    return tensors


def _pt2e_form(layer: QuantizedLayer, call: LayerCall) -> Form:  # noqa: ARG001 - in place of `weight_form`
    return "pt2e"


def _uses(
    layers: Iterable[QuantizedLayer],
    calls: Mapping[str, list[LayerCall]],
    form_of: Callable[[QuantizedLayer, LayerCall], Form],
) -> dict[Node, list[WeightUse]]:
    """Return each weight's uses: layers may share a weight, and may be called more than once."""
    uses: dict[Node, dict[Node, WeightUse]] = {}
    for layer in layers:
        for call in calls[layer.layer.name]:
            use = WeightUse(layer, form_of(layer, call), _reader(call))
            uses.setdefault(call.weight, {}).setdefault(use.reader, use)
    return {weight: list(readers.values()) for weight, readers in uses.items()}


def _reader(call: LayerCall) -> Node:
    users = call.weight.users
    return call.node if call.node in users else next(view for view in users if call.node in view.users)
