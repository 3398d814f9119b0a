"""The schema of a program, as checks that build a fresh document: what came from torch 2.6 to 2.15 leaves as 2.13's.

A minor version of the schema adds keys, and none of the versions 8.2 to 8.20 changes what a key says. What an older one
lacks gets the value that torch gives it then.

Dropped: guards (torch executes them), stack traces and all node metadata except `nn_module_stack`, the calls of inner
modules, names of named tuples. Refused: graphs as arguments, operators as arguments, custom objects, tokens.
"""

from typing import Any

from app.intake.limits import Limits
from app.intake.parsing.names import RULE, begins, is_name
from app.intake.parsing.typed import (
    Check,
    Wrong,
    boolean,
    dict_of,
    integer,
    list_of,
    nullable,
    one_of,
    record,
    text,
    union,
)
from app.intake.program.arguments import (
    LARGEST,
    argument,
    constant,
    name,
    output,
    placeholder,
    result,
    sym_bool,
    sym_int,
    tensor,
    tensor_meta,
)
from app.intake.program.operators import is_allowed
from app.intake.program.releases import release_written
from app.intake.program.symbols import is_symbol_name, range_name
from app.intake.program.trees import input_spec, is_argument, output_spec

SCHEMA_MAJOR, SCHEMA_MINOR = 8, 20
MAX_VERSION = 1000

MAX_DEPTH = 64


def fqn(value: Any) -> str:
    """Check the name of a parameter or buffer in the user's source: words between dots. Raises Wrong."""
    if not is_name(value) or not all(value.split(".")) or value.count(".") >= MAX_DEPTH:
        raise Wrong(f"must be a name, and {begins(value)!r} is none: words between dots, {RULE}")
    return str(value)


def _target(value: Any) -> str:
    if type(value) is not str or not is_allowed(value):
        shown = value if type(value) is str and _is_word(value) else "this operator"
        raise Wrong(f"{shown} is not accepted")
    return str(value)


def _is_word(value: str) -> bool:
    return len(value) <= 128 and value.replace(".", "").replace("_", "").isalnum() and value.isascii()


def module_stack(metadata: Any) -> dict[str, str]:
    """Return a node's metadata with only its modules, `key,path,class;…`; malformed modules are dropped.

    A module whose name has what separates these parts is dropped too: torch itself can't load such a file.
    """
    if type(metadata) is not dict or not all(type(key) is str and type(v) is str for key, v in metadata.items()):
        raise Wrong("must be an object of text")
    entries = [_parts(entry) for entry in metadata.get("nn_module_stack", "").split(";")]
    known = [(path, kind) for path, kind in entries if _is_path(path) and _is_path(kind) and kind]
    stack = ";".join(f"L{depth},{path},{kind}" for depth, (path, kind) in enumerate(known))
    return {"nn_module_stack": stack} if stack else {}


def _parts(entry: str) -> tuple[str, str]:
    """Return the path and the class of `key,path,class`; a key may be a call: `getattr(L['self'], '0'),a.0,Linear`."""
    before, _, kind = entry.rpartition(",")
    key, _, path = before.rpartition(",")
    whole = key and key.count("(") == key.count(")") and ("," not in key or key.endswith(")"))
    return (path, kind) if whole else ("", "")


_PATH_BREAKING = frozenset(",;()[]")
"""What torch reads as the end or the nesting of a stack's parts."""


def _is_path(value: str) -> bool:
    return value == "" or (is_name(value) and _PATH_BREAKING.isdisjoint(value))


_node_input = record(
    {"name": text(r"[A-Za-z_][A-Za-z0-9_]{0,63}", "an identifier"), "arg": argument, "kind": nullable(one_of(0, 1, 2))},
    absent={"kind": None},
)
_node = record(
    {
        "target": _target,
        "inputs": list_of(_node_input, 256),
        "outputs": list_of(output, 4096),
        "metadata": module_stack,
        "is_hop_single_tensor_return": one_of(None),
        "name": nullable(name),
    },
    absent={"is_hop_single_tensor_return": None, "name": None},
)
_input_spec = union(
    {
        "user_input": record({"arg": placeholder}),
        "parameter": record({"arg": tensor, "parameter_name": fqn}),
        "buffer": record({"arg": tensor, "buffer_name": fqn, "persistent": boolean}),
        "tensor_constant": record({"arg": tensor, "tensor_constant_name": fqn}),
        "constant_input": record({"name": name, "value": constant}),
    }
)
_output_spec = union(
    {
        "user_output": record({"arg": result}),
        "buffer_mutation": record({"arg": tensor, "buffer_name": fqn}),
        "user_input_mutation": record({"arg": tensor, "user_input_name": name}),
    }
)


def _forward_name(value: Any) -> str:
    if not is_argument(value):
        raise Wrong("must be an identifier that is no word of Python")
    return str(value)


_version = record({"major": one_of(SCHEMA_MAJOR), "minor": integer(0, MAX_VERSION)})


def _schema_version(value: Any) -> dict[str, int]:
    """Return the version that is written, whatever minor one was read. Raises Wrong."""
    _version(value)
    return {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}


_nothing = one_of()
_outermost = record(
    {
        "inputs": list_of(_nothing, 0),
        "outputs": list_of(_nothing, 0),
        "in_spec": input_spec,
        "out_spec": output_spec,
        "forward_arg_names": nullable(list_of(_forward_name, 1024)),
    },
    absent={"forward_arg_names": None},
)


def _module_calls(value: Any) -> list[Any]:
    """Return only the outermost module's call; torch needs no other to run."""
    match value:
        case [{"fqn": "", "signature": signature}, *_]:
            return [{"fqn": "", "signature": _outermost(signature)}]
    raise Wrong("must begin with the outermost module")


def _ranges(of_symbol: Check) -> Check:
    """Return a check for the ranges of symbols; those of expressions follow from them, and are left out."""
    every = dict_of(range_name, of_symbol, 1000)
    return lambda value: {name: entry for name, entry in every(value).items() if is_symbol_name(name)}


def document(limits: Limits) -> Check:
    """Return the check of a whole model.json."""
    graph = record(
        {
            "inputs": list_of(placeholder, limits.tensors),
            "outputs": list_of(result, limits.tensors),
            "nodes": list_of(_node, limits.nodes, "node"),
            "tensor_values": dict_of(name, tensor_meta, 4 * limits.nodes),
            "sym_int_values": dict_of(name, sym_int, limits.nodes),
            "sym_bool_values": dict_of(name, sym_bool, limits.nodes),
            "is_single_tensor_return": one_of(False),
            "custom_obj_values": dict_of(name, _nothing, 0),
            "sym_float_values": dict_of(name, _nothing, 0),
        },
        absent={"is_single_tensor_return": False, "custom_obj_values": {}, "sym_float_values": {}},
    )
    signature = record(
        {
            "input_specs": list_of(_input_spec, limits.tensors),
            "output_specs": list_of(_output_spec, limits.tensors),
        }
    )
    module = record(
        {"graph": graph, "signature": signature, "module_call_graph": _module_calls},
        ignored=("metadata", "treespec_namedtuple_fields"),
    )
    bound = nullable(integer(-LARGEST, LARGEST))
    return record(
        {
            "graph_module": module,
            "opset_version": record({"aten": integer(1, MAX_VERSION)}),
            "range_constraints": _ranges(record({"min_val": bound, "max_val": bound})),
            "schema_version": _schema_version,
            "verifiers": list_of(one_of("TRAINING", "ATEN"), 4),
            "torch_version": release_written,
        },
        ignored=("guards_code",),
        absent={"verifiers": []},
    )
