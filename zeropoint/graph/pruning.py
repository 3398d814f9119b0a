"""Remove dead code from a graph before any other step (BERT exports an unused pooler)."""

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec
from torch.fx import Graph

_STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def copy_graph(graph: Graph) -> Graph:
    """Return a copy to edit, with the original node names: copying renames Python's reserved names (`input`)."""
    copied = deepcopy(graph)
    for node, original in zip(copied.nodes, graph.nodes, strict=True):
        node.name = original.name
    return copied


def prune(program: ExportedProgram) -> ExportedProgram:
    """Return the program without operators and tensors that no output needs."""
    graph = copy_graph(program.graph)
    graph.eliminate_dead_code()
    mutated = set(program.graph_signature.buffers_to_mutate.values())
    used = {node.name for node in graph.nodes if node.op == "placeholder" and node.users}
    kept = [
        spec
        for spec in program.graph_signature.input_specs
        if spec.kind not in _STORED or spec.arg.name in used or spec.target in mutated
    ]
    names = {spec.arg.name for spec in kept}
    for node in [node for node in graph.nodes if node.op == "placeholder" and node.name not in names]:
        graph.erase_node(node)
    return rebuild(program, graph, kept, program.state_dict)


def rebuild(
    program: ExportedProgram, graph: Graph, inputs: list[InputSpec], state: Mapping[str, Tensor]
) -> ExportedProgram:
    """Return `program` with another graph, these inputs, and the tensors of `state` that they name.

    Example inputs are dropped: they are the user's calibration data.
    """
    graph.lint()
    stored = {spec.target for spec in inputs if spec.kind in _STORED}
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(inputs, program.graph_signature.output_specs),
        state_dict={name: tensor for name, tensor in state.items() if name in stored},
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=None,
        constants={name: value for name, value in program.constants.items() if name in stored or _is_opaque(value)},
        verifiers=program.verifiers,
    )


def _is_opaque(value: object) -> bool:
    return not isinstance(value, Tensor)
