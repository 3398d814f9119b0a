"""Fold a batch normalization directly after a convolution into the convolution's weight and bias.

    γ · (W·x + b − mean) / √(variance + ε) + β = (f · W)·x + (b − mean) · f + β,  f = γ / √(variance + ε) of each output

Source: Jacob et al., CVPR 2018, section 3.2. Names and shapes of the convolution's tensors stay; a convolution without
a bias gets one. Nothing is folded if another node reads the convolution's result, its weight or its bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from zeropoint.graph.calls import layer_calls, on_graph, stored_names
from zeropoint.graph.fused_outputs import CONVOLUTIONS, normalized
from zeropoint.graph.program_state import ProgramEditor
from zeropoint.graph.pruning import copy_graph, prune, rebuild
from zeropoint.model.layer import TRANSPOSED
from zeropoint.model.layer_call import LayerCall
from zeropoint.schema.layer_names import free_name, layer_name

aten = torch.ops.aten


def fold_normalizations(program: ExportedProgram) -> tuple[ExportedProgram, frozenset[str]]:
    """Return the program with its normalizations folded where possible, and the names of the folded ones."""
    graph, names = copy_graph(program.graph), stored_names(program)
    editor, folded, results = ProgramEditor(program, graph), set[str](), list[Node]()
    for layer, calls in on_graph(layer_calls(program), graph).items():
        normalization = _normalization(calls, names)
        if normalization is not None:
            _fold(editor, names, layer, calls[0], normalization)
            folded |= {layer_name(names[node.name]) for node in normalization.tensors[:2] if node is not None}
            results.append(normalization.result)
    if not results:
        return program, frozenset()
    for result in results:
        graph.erase_node(result)
    return prune(rebuild(program, graph, editor.specs, editor.state)), frozenset(folded)


@dataclass(frozen=True)
class _Normalization:
    result: Node
    """The node of the normalized values."""
    tensors: Sequence[Node | None]
    """γ, β, mean and variance [out]; γ and β may be absent."""
    epsilon: float

    def scale_and_shift(
        self, state: Mapping[str, Tensor], names: Mapping[str, str], outputs: int
    ) -> tuple[Tensor, Tensor]:
        """Return f and β − mean · f, float64 [out]."""
        stored = [None if node is None else state[names[node.name]].detach().double() for node in self.tensors]
        gamma, beta, mean, variance = stored
        assert mean is not None
        assert variance is not None
        ones = torch.ones(outputs, dtype=torch.float64, device=mean.device)
        factor = (ones if gamma is None else gamma) / torch.sqrt(variance + self.epsilon)
        return factor, (0 * ones if beta is None else beta) - mean * factor


def _normalization(calls: Sequence[LayerCall], names: Mapping[str, str]) -> _Normalization | None:
    """Return the normalization after a convolution that is called once and can take it over; else None."""
    call = calls[0]
    result = normalized(call) if len(calls) == 1 and _is_open(call) else None
    if result is None:
        return None
    node = result if result.target is aten.batch_norm.default else cast(Node, result.args[0])
    tensors = cast(Sequence[Node | None], node.args[1:5])
    known = all(tensor is None or tensor.name in names for tensor in tensors) and None not in tensors[2:]
    without_training = node.target is aten._native_batch_norm_legit_no_training.default
    if not known or not (without_training or node.args[5] is False):
        return None
    return _Normalization(result, tensors, cast(float, node.args[6 if without_training else 7]))


def _is_open(call: LayerCall) -> bool:
    """Return whether the call can take over a normalization.

    It must be a convolution over a batch (without one, the normalization counts other channels), and alone read its
    weight and bias.
    """
    if not call.is_ready or call.is_held:
        return False
    in_groups = call.kind in TRANSPOSED and call.options.get("groups", 1) != 1
    private = all(len(node.users) == 1 for node in (call.weight, call.bias) if node is not None)
    batched = call.node.meta["val"].dim() == call.weight.meta["val"].dim()
    return call.kind in (*CONVOLUTIONS, *TRANSPOSED) and private and batched and not in_groups


def _fold(
    editor: ProgramEditor, names: Mapping[str, str], layer: str, call: LayerCall, normalization: _Normalization
) -> None:
    """Change weight and bias, and make readers of the normalized values read the convolution."""
    name, transposed = names[call.weight.name], call.kind in TRANSPOSED
    weight = editor.state[name].detach()
    factor, shift = normalization.scale_and_shift(editor.state, names, weight.shape[int(transposed)])
    along = [-1 if axis == int(transposed) else 1 for axis in range(weight.dim())]
    editor.change(name, (weight.double() * factor.view(along)).to(weight.dtype))
    if call.bias is None:
        bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
        bias_name = free_name(f"{layer}.bias", editor.state)
        added = editor.add(call.weight, f"{call.weight.name}_folded_bias", bias_name, bias)
        call.node.args = (*call.node.args[:2], added, *call.node.args[3:])
    else:
        old_bias = editor.state[names[call.bias.name]].detach()
        editor.change(names[call.bias.name], (old_bias.double() * factor + shift).to(old_bias.dtype))
    result, name = normalization.result, normalization.result.name
    result.replace_all_uses_with(call.node)
    if any(reader.op == "output" for reader in call.node.users):  # which refers to values by name
        result.name, call.node.name = f"{name}_folded", name
