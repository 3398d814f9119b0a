"""Write the casts of an autocast into its graph: what `torch.autocast("cpu")` does as it runs, the graph then says.

`autocast.txt` says for each operator what an autocast does to its tensors; `python -m scripts.list_autocast` writes it
from runs of the operators with and without one. A graph with any other operator stays as it is, and is refused.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from app.intake.program.dataflow import names_in
from app.intake.tensors.dtypes import BY_EXPORT_NUMBER, BY_NAME
from zeropoint.schema.layer_names import free_name

LIST = Path(__file__).with_name("autocast.txt")
"""A target (of a pad with its mode) and its policy a line.

"lower" and "float32" cast all tensors to that type, "widest" to the widest type among them.
"""

AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
PAD = "torch.ops.aten.pad.default"
"""The one operator whose policy depends on an argument: its mode."""
DEFAULT = "bfloat16"
"""The type of an autocast on the cpu that names none."""
LOWER = ("bfloat16", "float16")
_ON_SIZES = ("_operator.", "torch.sym_")
_FLOATS = ("float32", *LOWER)
"""What is cast: not float64."""

Graph = dict[str, Any]


@cache
def policies() -> Mapping[str, str]:
    """Return the policy of each operator that was run under an autocast."""
    return dict(line.split() for line in LIST.read_text("ascii").splitlines())


def policy_of(node: Mapping[str, Any]) -> str | None:
    """Return what an autocast does to the tensors of a node's operator; arithmetic on sizes has none."""
    target = node["target"]
    if target == PAD:
        modes = [entry["arg"]["as_string"] for entry in node["inputs"] if "as_string" in entry["arg"]]
        target = f"{PAD}:{modes[0] if modes else 'constant'}"
    return policies().get(target, "none" if target.startswith(_ON_SIZES) else None)


def dtype_of(argument: Mapping[str, Any]) -> str | None:
    """Return the type that an autocast casts to; None for another one than its two."""
    if argument == {"as_none": True}:
        return DEFAULT
    dtype = BY_EXPORT_NUMBER.get(argument.get("as_scalar_type", -1))
    return dtype.name if dtype is not None and dtype.name in LOWER else None


def with_casts(graph: Graph, lower: str, no_grad: str) -> Graph | None:
    """Return a graph with the casts of an autocast to `lower`, None when it has an operator without a policy.

    `no_grad`: the operator in whose graph the autocast goes on; an autocast within has casts of its own.
    """
    values, nodes = dict(graph["tensor_values"]), list[Any]()
    taken = {name for kind in graph if kind.endswith("_values") for name in graph[kind]}
    casts: dict[tuple[str, str], str] = {}
    for node in graph["nodes"]:
        if node["target"] == no_grad:
            node = _with_casts_inside(node, lower, no_grad)
            if node is None:
                return None
        elif node["target"] != AUTOCAST:
            policy = policy_of(node)
            if policy is None:
                return None
            target = _target_type(policy, lower, node, values)
            if target is not None:
                nodes += _casts(node, target, values, casts, taken)
                names = {name: casts.get((name, target), name) for name in _names(node)}
                node = {**node, "inputs": [{**entry, "arg": _renamed(entry["arg"], names)} for entry in node["inputs"]]}
        if _writes(node):  # perhaps through a view of what was cast before
            casts.clear()
        nodes.append(node)
    return {**graph, "tensor_values": values, "nodes": nodes}


def _with_casts_inside(node: Any, lower: str, no_grad: str) -> Any:
    """Return a node with a graph that has the casts too, None when it has an operator without a policy."""
    place = next(at for at, entry in enumerate(node["inputs"]) if "as_graph" in entry["arg"])
    held = node["inputs"][place]["arg"]["as_graph"]
    graph = with_casts(held["graph"], lower, no_grad)
    if graph is None:
        return None
    inputs = [*node["inputs"]]
    inputs[place] = {**inputs[place], "arg": {"as_graph": {**held, "graph": graph}}}
    return {**node, "inputs": inputs}


def _writes(node: Any) -> bool:
    """Return whether a node may write into a tensor: `add_`, `fill_`, or a region with operators of its own."""
    return str(node["target"]).split(".")[-2].endswith("_") or node["target"].startswith("torch.ops.higher_order.")


def _target_type(policy: str, lower: str, node: Any, values: Mapping[str, Any]) -> str | None:
    """Return the type that a node's tensors are cast to."""
    if policy == "widest":
        types = {_type(values, name) for name in _names(node)}
        return next((name for name in _FLOATS if name in types), None) if len(types) > 1 else None
    return {"lower": lower, "float32": "float32"}.get(policy)


def _names(node: Any) -> Iterator[str]:
    for entry in node["inputs"]:
        if any(
            kind in entry["arg"] for kind in ("as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors")
        ):
            yield from names_in(entry["arg"])


def _type(values: Mapping[str, Any], name: str) -> str:
    dtype = BY_EXPORT_NUMBER.get(values[name]["dtype"])
    return "" if dtype is None else dtype.name


def _casts(
    node: Any, target: str, values: dict[str, Any], casts: dict[tuple[str, str], str], taken: set[str]
) -> Iterator[Any]:
    """Yield the casts that a node needs and no earlier node needed, and describe their results."""
    number = BY_NAME[target].export_number
    for name in _names(node):
        if (name, target) in casts or _type(values, name) not in {*_FLOATS} - {target}:
            continue
        cast = free_name(f"{name}_{target}", taken)
        taken.add(cast)
        casts[name, target] = cast
        values[cast] = {**values[name], "dtype": number, "storage_offset": {"as_int": 0}, "requires_grad": False}
        yield {
            "target": "torch.ops.aten.to.dtype",
            "inputs": [
                {"name": "self", "arg": {"as_tensor": {"name": name}}, "kind": 1},
                {"name": "dtype", "arg": {"as_scalar_type": number}, "kind": 1},
            ],
            "outputs": [{"as_tensor": {"name": cast}}],
            "metadata": node["metadata"],
            "name": cast,
            "is_hop_single_tensor_return": None,
        }


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return an argument with its tensors renamed."""
    if isinstance(value, list):
        return [_renamed(entry, names) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"name"}:
        return {"name": names.get(value["name"], value["name"])}
    return {key: _renamed(entry, names) for key, entry in value.items()}
