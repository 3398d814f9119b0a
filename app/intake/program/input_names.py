"""Give a program's inputs the names that their user wrote.

torch calls a value `gr__e` for an argument `größe`, and `__` for `名前`: it keeps only the letters of ASCII. The names
of arguments and the keys of dicts are in the file, and values are named by them here, before anything is checked. What
isn't shaped like a program is returned as it is, and so is one whose names are of ASCII.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from app.intake.parsing.names import is_identifier
from app.intake.program.inlining import renamed
from app.intake.program.trees import MAX_CHARACTERS

_KINDS = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values")


def name_inputs(parsed: Any) -> Any:
    """Return a parsed program in which such inputs have their own names."""
    try:
        module = parsed["graph_module"]
        names = _names(module)
        if not names:
            return parsed
        graph, signature = module["graph"], module["signature"]
        values = {
            kind: {names.get(name, name): meta for name, meta in graph[kind].items()}
            for kind in _KINDS
            if kind in graph
        }
        graph = {**graph, **{part: renamed(graph[part], names) for part in ("inputs", "outputs", "nodes")}, **values}
        inputs, outputs = (renamed(signature[part], names) for part in ("input_specs", "output_specs"))
        outputs = [_written(spec, names) for spec in outputs]
        changed = {**module, "graph": graph, "signature": {**signature, "input_specs": inputs, "output_specs": outputs}}
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError):
        return parsed
    return {**parsed, "graph_module": changed}


def _names(module: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of values that stand for inputs, each with the one to have."""
    call = module["module_call_graph"][0]["signature"]
    if len(call["in_spec"]) > MAX_CHARACTERS:
        return {}
    if call["in_spec"].isascii() and "\\u" not in call["in_spec"] and _is_ascii(call.get("forward_arg_names")):
        return {}
    paths = list(_paths(json.loads(call["in_spec"])[1], call.get("forward_arg_names") or []))
    arguments = [spec["user_input"]["arg"] for spec in module["signature"]["input_specs"] if "user_input" in spec]
    wishes = {
        argument["as_tensor"]["name"]: wish
        for path, argument in zip(paths, arguments, strict=True)
        if not (wish := "_".join(map(_word, path))).isascii() and is_identifier(wish) and "as_tensor" in argument
    }
    graph = module["graph"]
    taken = {name for kind in _KINDS for name in graph.get(kind, {})} - wishes.keys()
    names: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for name, wish in wishes.items():
        free = wish
        while free in taken:
            numbers[wish] = numbers.get(wish, 0) + 1
            free = f"{wish}_{numbers[wish]}"
        names[name] = free
        taken.add(free)
    return {name: other for name, other in names.items() if name != other}


def _is_ascii(names: Any) -> bool:
    return all(name.isascii() for name in names or [])


def _word(step: str) -> str:
    """Return a step of a path as a part of an identifier: `my-größe` -> `my_größe`."""
    return "".join(character if f"a{character}".isidentifier() else "_" for character in step)


def _paths(root: Any, names: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the path of each flat input: the name of its argument, then keys and positions."""
    positional, keywords = root["children_spec"]
    for position, child in enumerate(positional["children_spec"]):
        yield from _below(child, (names[position],))
    for name, child in zip(json.loads(keywords["context"]), keywords["children_spec"], strict=True):
        yield from _below(child, (name,))


def _below(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    children = node["children_spec"]
    if node["type"] is None:
        yield path
        return
    context = json.loads(node["context"])
    keys = context if isinstance(context, list) else range(len(children))
    for key, child in zip(keys, children, strict=True):
        yield from _below(child, (*path, str(key)))


def _written(spec: Any, names: Mapping[str, str]) -> Any:
    """Return an output's spec; that of an input which the program writes to names it."""
    content = spec.get("user_input_mutation")
    if content is None:
        return spec
    name = content["user_input_name"]
    return {"user_input_mutation": {**content, "user_input_name": names.get(name, name)}}
