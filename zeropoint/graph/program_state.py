"""Edit the tensors that a program holds: the graph's inputs for them, their specs and their values."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node


class ProgramEditor:
    """Adds tensors to a program whose graph is being edited, and replaces others."""

    def __init__(self, program: ExportedProgram, graph: Graph, changed: Mapping[str, Tensor] | None = None) -> None:
        """Start editing `graph`. `changed`: new values of parameters by name, in the same shape and dtype."""
        self._graph = graph
        self._specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self._device = next(iter(program.state_dict.values()), torch.empty(0)).device
        self.state: dict[str, Tensor] = dict(program.state_dict)
        for name, tensor in (changed or {}).items():
            self.change(name, tensor)

    @property
    def specs(self) -> list[InputSpec]:
        """Return one spec per input of the graph, in order."""
        return [self._specs[node.name] for node in self._graph.nodes if node.op == "placeholder"]

    def change(self, name: str, tensor: Tensor) -> None:
        """Replace the values of a parameter or buffer."""
        values = tensor.to(self._device)
        is_parameter = isinstance(self.state[name], nn.Parameter)
        self.state[name] = nn.Parameter(values, requires_grad=False) if is_parameter else values

    def put(self, node: Node, name: str, tensor: Tensor) -> Node:
        """Make a graph input read a tensor of this name from now on: a parameter if it is one, else a buffer."""
        self.state[name] = tensor if tensor.device == self._device else tensor.to(self._device)
        node.meta["val"] = self._fake_mode().from_tensor(self.state[name], static_shapes=True)
        argument = TensorArgument(node.name)
        self._specs[node.name] = (
            InputSpec(InputKind.PARAMETER, argument, name)
            if isinstance(tensor, nn.Parameter)
            else InputSpec(InputKind.BUFFER, argument, name, persistent=True)
        )
        return node

    def add(self, after: Node, label: str, name: str, tensor: Tensor) -> Node:
        """Insert a graph input, after another one, that reads a tensor of this name."""
        with self._graph.inserting_after(after):
            node = self._graph.placeholder(label)
        node.target = node.name  # names of tensors need not be identifiers, and the graph becomes Python source
        return self.put(node, name, tensor)

    def _fake_mode(self) -> Any:
        values = (node.meta.get("val") for node in self._graph.nodes)
        return next(value.fake_mode for value in values if hasattr(value, "fake_mode"))


def add_node(graph: Graph, target: Any, *arguments: object, **options: object) -> Node:
    """Insert a call of `target` with its fake value in `meta["val"]`, which export requires."""
    node = graph.call_function(target, cast(Any, arguments), cast(Any, options))
    fakes = torch.fx.node.map_arg(cast(Any, arguments), lambda argument: argument.meta["val"])
    values = [argument.meta["val"] for argument in node.all_input_nodes]
    fake_mode = next(value.fake_mode for value in values if isinstance(value, FakeTensor))
    with fake_mode, enable_python_dispatcher():  # without it, some operators fix a size that is dynamic
        node.meta["val"] = target(*cast(Any, fakes), **options)
    return node
