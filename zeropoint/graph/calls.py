"""Find layers in an exported graph: the operators that read a weight, and their names in the user's source.

An export flattens modules into operators, but each node remembers its modules (`nn_module_stack`: path and class), and
the signature remembers the name of every parameter. A layer is an operator's kind, its weight and the weight's owner:
calls of different kinds, weights or biases are different layers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from zeropoint.graph.constants import Constants
from zeropoint.graph.held_weights import RECURRENT, held_calls
from zeropoint.graph.matching import match
from zeropoint.model.layer import LayerKind
from zeropoint.model.layer_call import LayerCall
from zeropoint.schema.layer_names import free_name, is_recurrent, layer_name, owner_and_leaf, weight_layer_name

Calls = Mapping[str, list[LayerCall]]


def layer_calls(
    program: ExportedProgram, constants: Constants | None = None, original: Mapping[str, Tensor] | None = None
) -> dict[str, list[LayerCall]]:
    """Return the calls of every linear, convolution and embedding with a stored or computed weight, by layer name.

    `original`: the uploaded state dict, which has a tied weight under all its names.
    """
    constants = Constants(program, program.graph) if constants is None else constants
    finder = _Finder(program, constants, program.state_dict if original is None else original)
    groups: dict[object, _Group] = {}
    for node in program.graph.nodes:
        call = match(node, constants)
        found = None if call is None else finder.owned(call)
        if found is not None and recurrent_kind(found[2].node, found[1].main) is None:
            key, owner, place = found
            groups.setdefault(key, _Group(owner.base, owner.main)).calls.append(place)
    leaves = [call for group in groups.values() for call in group.calls]
    taken_nodes = {node for call in leaves for node in (call.node, *constants.sources(call.weight))}
    for call in held_calls(list(program.graph.nodes), constants, taken_nodes):
        found = finder.owned(call)
        if found is not None:
            key, owner, place = found
            kind = recurrent_kind(place.node, owner.main) or place.kind
            groups.setdefault(key, _Group(owner.base, owner.main)).calls.append(replace(place, kind=kind))
    taken = {**program.state_dict, **(original or {})}
    named = _named(list(groups.values()), taken)
    return {name: _with_names(name, group, taken) for name, group in named.items()}


def on_graph(calls: Calls, graph: Graph) -> dict[str, list[LayerCall]]:
    """Return the calls on a copy of their graph, whose nodes have the same names."""
    nodes = {node.name: node for node in graph.nodes}
    return {name: [_moved(call, nodes) for call in places] for name, places in calls.items()}


def stored_names(program: ExportedProgram) -> dict[str, str]:
    """Return placeholder name -> name in the state dict, for parameters and buffers."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def module_types(node: Node) -> Iterator[tuple[str, str]]:
    """Yield (path, class name) of the modules that a node ran in, outermost first: ("encoder.0", "Linear")."""
    for path, kind in (node.meta.get("nn_module_stack") or {}).values():
        name = kind if isinstance(kind, str) else kind.__qualname__
        yield path.partition("@")[0], name.rpartition(".")[2]


def size_of(tensor: Tensor) -> tuple[bool, int]:
    """Return what the owner of a computed weight has most of: parameters come before buffers."""
    return isinstance(tensor, nn.Parameter), tensor.numel()


def recurrent_kind(node: Node, parameter: str) -> LayerKind | None:
    """Return the class of the recurrent module that an operator ran in, if the parameter is a weight of that module.

    A decomposed program multiplies by such a weight once for each step.
    """
    path, name = next(reversed(list(module_types(node))), ("", ""))
    kind = next((kind for kind in RECURRENT.values() if kind == name), None)
    return kind if kind is not None and is_recurrent(parameter) and owner_and_leaf(parameter)[0] == path else None


@dataclass
class _Group:
    """The calls of one layer."""

    base: str
    """The name of the layer, unless another layer has it."""
    main: str
    """The uploaded tensor that determines most of the weight."""
    calls: list[LayerCall] = field(default_factory=list)

    @property
    def first(self) -> LayerCall:
        return self.calls[0]


class _Finder:
    """Finds the owner of each call's weight."""

    def __init__(self, program: ExportedProgram, constants: Constants, original: Mapping[str, Tensor]) -> None:
        names = stored_names(program)
        self._stored = {node: name for node, name in names.items() if name in program.state_dict}
        self._state, self._constants, self._original = program.state_dict, constants, original

    def owned(self, call: LayerCall) -> tuple[object, _Group, LayerCall] | None:
        """Return what identifies the call's layer, the layer without calls, and the call with the names of its tensors.

        None if no stored tensor determines the weight.
        """
        sources = [self._stored[node.name] for node in self._sources(call.weight)]
        if not sources:
            return None
        plain = call.weight.op == "placeholder" and (call.spelling is None or len(call.order) == 2)
        bias = call.bias
        call = replace(
            call,
            sources=tuple(sources),
            bias_sources=() if bias is None else tuple(self._stored[node.name] for node in self._sources(bias)),
            folded=not plain or call.weight.name not in self._stored,
            weight_name=self._stored.get(call.weight.name, ""),
            bias_name=None if bias is None else self._stored.get(bias.name),
            bias_folded=bias is not None and (bias.name not in self._stored or bias.meta["val"].dim() != 1),
        )
        main = max(sources, key=lambda name: size_of(self._state[name]))
        borrower = self._borrower(call, main)
        base = weight_layer_name(main) if borrower is None else borrower
        weight, order = self._constants.same(call.weight), call.order if call.folded else call.transposed
        key = (call.kind, weight, order, bias and self._constants.same(bias), base)
        return key, _Group(base, main), call

    def _sources(self, node: Node) -> list[Node]:
        return [source for source in self._constants.sources(node) if source.name in self._stored]

    def _borrower(self, call: LayerCall, main: str) -> str | None:
        """Return the path of a layer of this kind that reads the weight of another one; None for any other call."""
        path, kind = next(reversed(list(module_types(call.node))), ("", ""))
        if not path or path == owner_and_leaf(main)[0] or call.folded or call.is_held:
            return None
        alias = self._original.get(f"{path}.weight")
        tied = alias is not None and alias.untyped_storage().data_ptr() == self._storage(main)
        return path if tied or (kind == call.kind and alias is None) else None

    def _storage(self, name: str) -> int:
        tensor: Tensor = self._original.get(name, self._state[name])
        return tensor.untyped_storage().data_ptr()


def _named(groups: list[_Group], original: Mapping[str, Tensor]) -> dict[str, _Group]:
    """Return the groups by name. Slices of one weight are numbered; other layers of one name follow the first."""
    by_base: dict[str, list[_Group]] = {}
    for group in groups:
        by_base.setdefault(group.base, []).append(group)
    taken = {*by_base, *map(layer_name, original)}
    named: dict[str, _Group] = {}
    for base, alike in by_base.items():
        slices = len(alike) > 1 and all(group.first.folded for group in alike)
        first = next((group for group in alike if not group.first.folded), alike[0])
        for number, group in enumerate(alike):
            # a tensor that stays stored under this name can't hold others, as a module could
            nested = "_" if group.first.folded and first.first.weight_name == base else "."
            wanted = f"{base}.{number}" if slices else f"{base}{nested}{group.first.kind.lower()}"
            name = base if group is first and not slices else free_name(wanted, taken)
            taken.add(name)
            named[name] = group
    return named


def _with_names(name: str, group: _Group, original: Mapping[str, Tensor]) -> list[LayerCall]:
    """Return the calls with the names of weights and biases that are computed."""
    weight, bias = (free_name(f"{name}.{part}", original) for part in ("weight", "bias"))
    return [
        replace(
            call,
            weight_name=weight if call.folded else call.weight_name,
            bias_name=bias if call.bias_folded else call.bias_name,
        )
        for call in group.calls
    ]


def _moved(call: LayerCall, nodes: Mapping[str, Node]) -> LayerCall:
    return replace(
        call,
        node=nodes[call.node.name],
        operand=nodes[call.operand.name],
        weight=nodes[call.weight.name],
        bias=call.bias and nodes[call.bias.name],
        views=tuple(nodes[view.name] for view in call.views),
        addition=call.addition and nodes[call.addition.name],
    )
