"""Find layers in an exported graph: the operators that read a weight, and their names in the user's source.

An export flattens modules into operators, but each node remembers its modules (`nn_module_stack`: path and class), and
the signature remembers the name of every parameter. A layer is the module that owns a parameter; it can be quantized if
the parameter is the weight of a linear, convolution or embedding operator, also in a decomposed graph (addmm).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from zeropoint.model.layer import TRANSPOSED, LayerKind
from zeropoint.schema.layer_names import layer_name

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
_CONVOLUTION_OPTIONS = ("stride", "padding", "output_padding", "dilation", "groups")


@dataclass(frozen=True)
class LayerCall:
    """One operator that multiplies an input with a layer's weight. All nodes belong to the program's graph."""

    node: Node
    kind: LayerKind
    input_index: int
    """The position of the input among the arguments of `node`."""
    weight: Node
    bias: Node | None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> Node:
        return cast(Node, self.node.args[self.input_index])


def layer_calls(graph: Graph, names: dict[str, str]) -> dict[str, list[LayerCall]]:
    """Return every linear, convolution and embedding whose weight (and bias) is stored with the program, by layer name.

    `names`: the result of `stored_names` for the program.
    """
    calls: dict[str, list[LayerCall]] = {}
    for node in graph.nodes:
        call = _match(node)
        if call is None or call.weight.name not in names or (call.bias is not None and call.bias.name not in names):
            continue
        calls.setdefault(_name(call, names[call.weight.name]), []).append(call)
    return calls


def is_read_elsewhere(weight: Node, calls: Iterable[LayerCall]) -> bool:
    """Return whether anything but these calls reads the weight."""
    call_nodes = {call.node for call in calls}
    readers = {user for user in weight.users if user not in call_nodes}
    return not all(reader.target in _TRANSPOSES and set(reader.users) <= call_nodes for reader in readers)


def _name(call: LayerCall, parameter: str) -> str:
    """Return the name of the calling layer, which may read another layer's weight; else the parameter's owner."""
    innermost = [*module_types(call.node)][-1:]
    return next((path for path, kind in innermost if kind == call.kind), layer_name(parameter))


def stored_names(program: ExportedProgram) -> dict[str, str]:
    """Return placeholder name -> name in the state dict, for parameters and buffers."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def module_types(node: Node) -> Iterator[tuple[str, str]]:
    """Yield (path, class name) of the modules that a node ran in, outermost first: ("encoder.0", "Linear")."""
    for path, kind in (node.meta.get("nn_module_stack") or {}).values():
        name = kind if isinstance(kind, str) else kind.__qualname__
        yield path.partition("@")[0], name.rpartition(".")[2]


def _match(node: Node) -> LayerCall | None:
    if node.op != "call_function":
        return None
    arguments = named_arguments(node)
    if node.target is aten.linear.default:
        return _call(node, "Linear", 0, weight=arguments["weight"], bias=arguments.get("bias"))
    if node.target is aten.addmm.default and arguments.get("alpha", 1) == arguments.get("beta", 1) == 1:
        return _call(node, "Linear", 1, weight=_transposed(arguments["mat2"]), bias=arguments["self"])
    if node.target is aten.mm.default:
        return _call(node, "Linear", 0, weight=_transposed(arguments["mat2"]), bias=None)
    if node.target is aten.embedding.default:
        return _call(node, "Embedding", 1, weight=arguments["weight"], bias=None)
    if node.target in _CONVOLUTIONS:
        kind = _CONVOLUTIONS[node.target] or _kind_by_rank(arguments["weight"], arguments["transposed"])
        known = _CONVOLUTION_OPTIONS if kind in TRANSPOSED else set(_CONVOLUTION_OPTIONS) - {"output_padding"}
        options = {key: arguments[key] for key in known if key in arguments}
        return kind and _call(node, kind, 0, weight=arguments["weight"], bias=arguments.get("bias"), options=options)
    return None


def _call(
    node: Node, kind: LayerKind, input_index: int, *, weight: Any, bias: Any, options: dict[str, Any] | None = None
) -> LayerCall | None:
    if not isinstance(weight, Node) or weight.op != "placeholder" or not weight.meta["val"].is_floating_point():
        return None
    if bias is not None and (not isinstance(bias, Node) or bias.op != "placeholder" or bias.meta["val"].dim() != 1):
        return None
    return LayerCall(node, kind, input_index, weight, bias, options or {})


def named_arguments(node: Node) -> dict[str, Any]:
    """Return the arguments by the schema's names; those left at their default are absent."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return dict(node.kwargs)
    names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _transposed(node: Any) -> Any:
    """Return the weight [out, in] of a transposing view [in, out]; None for anything else."""
    if not isinstance(node, Node) or node.target not in _TRANSPOSES:
        return None
    weight = cast(Node, node.args[0])
    return weight if weight.meta["val"].dim() == 2 else None


def _kind_by_rank(weight: Any, transposed: bool) -> LayerKind | None:
    return _BY_RANK.get((weight.meta["val"].dim(), transposed)) if isinstance(weight, Node) else None
