"""Inline what a program runs without gradients, or under an autocast: operators with a graph inside.

`with torch.no_grad():` in a forward pass becomes one node with a graph for its argument. Its nodes take that node's
place here, before anything is checked: the checks then see one flat graph. An autocast that casts leaves its casts in
it. What can't be inlined stays, and is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.intake.program.autocast import AUTOCAST, Graph, dtype_of, with_casts
from app.intake.program.dataflow import names_in

_NO_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"
_VALUES = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values")

Names = dict[str, str]


def inline_regions(parsed: Any) -> Any:
    """Return a parsed program with such graphs inlined; what isn't shaped like a program is returned as it is."""
    try:
        module = parsed["graph_module"]
        if not any(node["target"] in (_NO_GRAD, AUTOCAST) for node in module["graph"]["nodes"]):
            return parsed
        graph, aliases = _flat(module["graph"])
        specs = renamed(module["signature"]["output_specs"], aliases)
        flat = {**module, "graph": graph, "signature": {**module["signature"], "output_specs": specs}}
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, StopIteration, RecursionError):
        return parsed
    return {**parsed, "graph_module": flat}


def renamed(value: Any, names: Names) -> Any:
    """Return arguments with the values that they refer to renamed."""
    if isinstance(value, list):
        return [renamed(entry, names) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"name"} or value.keys() == {"as_name"}:
        return {key: names.get(name, name) for key, name in value.items()}
    return {key: entry if key == "as_graph" else renamed(entry, names) for key, entry in value.items()}


def _region(node: Mapping[str, Any]) -> Graph | None:
    """Return a node's graph if it computes the same without the node around it, with the casts of an autocast in it."""
    arguments = [entry["arg"] for entry in node["inputs"]] if node["target"] in (_NO_GRAD, AUTOCAST) else []
    match arguments:
        case [{"as_bool": bool()}, {"as_graph": {"graph": dict(graph)}}, *_] if node["target"] == _NO_GRAD:
            return graph
        case [{"as_string": device}, dtype, {"as_bool": enabled}, _, {"as_graph": {"graph": dict(graph)}}, *_]:
            if not enabled or (device != "cpu" and _runs_on_cpu(graph)):
                return graph
            lower = dtype_of(dtype)
            return with_casts(graph, lower, _NO_GRAD) if device == "cpu" and lower is not None else None
    return None


def _runs_on_cpu(graph: Mapping[str, Any]) -> bool:
    return all(meta["device"]["type"] == "cpu" for meta in graph["tensor_values"].values())


def _flat(graph: Mapping[str, Any]) -> tuple[dict[str, Any], Names]:
    """Return the graph without regions, and which of its values now have the name of another one."""
    values = {kind: dict(graph.get(kind, {})) for kind in _VALUES}
    aliases: Names = {}
    nodes: list[Any] = []
    for node in graph["nodes"]:
        node = {**node, "inputs": renamed(node["inputs"], aliases)}
        region = _region(node)
        if region is None:
            nodes.append(node)
            continue
        place = next(at for at, entry in enumerate(node["inputs"]) if "as_graph" in entry["arg"])
        inner, inner_aliases = _flat(region)
        operands = [name for entry in node["inputs"][place + 1 :] for name in names_in(entry["arg"])]
        results = [name for output in node["outputs"] for name in names_in(output)]
        inner_results = [inner_aliases.get(name, name) for output in inner["outputs"] for name in names_in(output)]
        names = _names(inner, operands, results, inner_results, values)
        aliases |= {
            result: names[own] for result, own in zip(results, inner_results, strict=True) if names[own] != result
        }
        nodes += [_moved(inner_node, names) for inner_node in inner["nodes"]]
        for kind in _VALUES:
            for name, meta in inner[kind].items():
                values[kind].setdefault(names.get(name, name), meta)
    for name in aliases:
        for kind in _VALUES:
            values[kind].pop(name, None)
    return {**graph, **values, "nodes": nodes, "outputs": renamed(graph["outputs"], aliases)}, aliases


def _names(
    inner: Mapping[str, Any], operands: list[str], results: list[str], own_results: list[str], values: Mapping[str, Any]
) -> Names:
    """Return the name of each value of an inner graph in the outer one. Raises ValueError when their counts differ."""
    given = [name for entry in inner["inputs"] for name in names_in(entry)]
    names = dict(zip(given, operands, strict=True))
    for own, result in zip(own_results, results, strict=True):
        names.setdefault(own, result)
    taken = {name for kind in _VALUES for name in values[kind]}
    for name in _made(inner):
        if name not in names:
            names[name] = _free(name, taken)
            taken.add(names[name])
    return names


def _made(graph: Mapping[str, Any]) -> Iterator[str]:
    for node in graph["nodes"]:
        for output in node["outputs"]:
            yield from names_in(output)


def _free(name: str, taken: set[str]) -> str:
    number = 0
    free = name
    while free in taken:
        number += 1
        free = f"{name}_i{number}"
    return free


def _moved(node: Mapping[str, Any], names: Names) -> dict[str, Any]:
    moved = {**node, "inputs": renamed(node["inputs"], names), "outputs": renamed(node["outputs"], names)}
    return {**moved, "name": names.get(node["name"], node["name"])} if node.get("name") else moved
