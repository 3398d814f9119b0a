"""Make a program functional: without operators that write in place, and without graphs inside of the graph."""

from torch.export import ExportedProgram

from zeropoint.graph.spelled_names import renamed, spelled_names, stored_names

_NESTED = ("wrap_with_autocast", "wrap_with_set_grad_enabled")


def functional(program: ExportedProgram) -> ExportedProgram:
    """Return the program without in-place operators and without nested graphs, if it has any.

    Buffers that in-place operators change become outputs: Q/DQ is valid only if nothing changes a value between the
    node that computes it and the node that reads it. Nested graphs are what ran under autocast or without gradients.
    """
    writes = any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in program.graph.nodes)
    nested = any(getattr(node.target, "__name__", "") in _NESTED for node in program.graph.nodes)
    if not writes and not nested:
        return program
    names = spelled_names(stored_names(program))  # it writes the program as Python source
    decomposed = (renamed(program, names) if names else program).run_decompositions({})
    return renamed(decomposed, {other: name for name, other in names.items()}) if names else decomposed
