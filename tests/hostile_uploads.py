"""Hostile programs and weights, each made from an honest file by one change, with what a good server says.

Every road by which torch 2.13 runs text of a file is here: a payload on it would make the file CANARY. `python -m
tests.hostile_uploads FOLDER` writes the corpus as files, for a run against a service; folders are in `hostile_folders`.
"""

import json
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.escape_canary import Touch, payload
from tests.factories import with_header
from tests.honest_archive import honest_members
from tests.hostile_folders import FOLDER_ATTACKS
from tests.hostile_folders import attacked as attacked_folder
from tests.upload_archives import CONSTANTS, INPUTS, PROGRAM, WEIGHTS, Members, write


@dataclass(frozen=True)
class Attack:
    """`change` edits the members of an honest export in place; `answer` is a part of what the refusal says.

    None: the file is taken, and what was hostile in it is gone.
    """

    change: Callable[[Members, Path], object]
    answer: str | None


def edit(name: str, change: Callable[[Any, str], object]) -> Callable[[Members, Path], None]:
    """Change one JSON document; the change gets the payload's text."""

    def apply(members: Members, canary: Path) -> None:
        document = json.loads(members[name])
        change(document, payload(canary))
        members[name] = json.dumps(document).encode()

    return apply


def graph(change: Callable[[Any, str], object]) -> Callable[[Members, Path], None]:
    """Change the graph of the program."""
    return edit(PROGRAM, lambda document, text: change(document["graph_module"]["graph"], text))


def call(change: Callable[[Any, str], object]) -> Callable[[Members, Path], None]:
    """Change the call signature of the outermost module."""
    return edit(
        PROGRAM, lambda document, text: change(document["graph_module"]["module_call_graph"][0]["signature"], text)
    )


def pickled(name: str) -> Callable[[Members, Path], None]:
    """Put a pickle in a member."""
    return lambda members, canary: members.update({name: pickle.dumps(Touch(canary))})


def without(name: str) -> Callable[[Members, Path], None]:
    """Take a member away."""
    return lambda members, _: members.__delitem__(name)


def both(*changes: Callable[[Members, Path], object]) -> Callable[[Members, Path], None]:
    """One change after another."""

    def apply(members: Members, canary: Path) -> None:
        for change in changes:
            change(members, canary)

    return apply


def weight(**fields: object) -> Callable[[Members, Path], None]:
    """Change what the config says of the first weight."""
    return edit(WEIGHTS, lambda document, _: next(iter(document["config"].values())).update(fields))


def meta(**fields: object) -> Callable[[Members, Path], None]:
    """Change the description of the first weight."""
    return edit(WEIGHTS, lambda document, _: next(iter(document["config"].values()))["tensor_meta"].update(fields))


def rename_input(name: Callable[[str], str]) -> Callable[[Members, Path], None]:
    """Give the input x another name wherever it stands."""

    def apply(members: Members, canary: Path) -> None:
        new = json.dumps(name(payload(canary)))[1:-1].encode()
        members[PROGRAM] = members[PROGRAM].replace(b'"x"', b'"' + new + b'"')

    return apply


def spec(kind: str, context: object, children: int = 0) -> Callable[[Any, str], object]:
    """Put a tree spec in place of the output's."""
    leaf: dict[str, object] = {"type": None, "context": None, "children_spec": []}
    text = context if isinstance(context, str) else json.dumps(context)
    node: dict[str, object] = {"type": kind, "context": text, "children_spec": [leaf] * children}
    return lambda signature, _: signature.update(out_spec=json.dumps([1, node]))


def node(target: str, *arguments: dict[str, Any]) -> Callable[[Any, str], object]:
    """Put a call in front of the graph."""
    inputs = [{"name": f"a{i}", "arg": argument, "kind": 1} for i, argument in enumerate(arguments)]
    entry: dict[str, object] = {
        "target": target,
        "inputs": inputs,
        "outputs": [{"as_tensor": {"name": "evil"}}],
        "metadata": {},
    }
    entry |= {"is_hop_single_tensor_return": None, "name": "evil"}

    def apply(graph_: Any, _: str) -> None:
        graph_["nodes"].insert(0, entry)
        graph_["tensor_values"]["evil"] = next(iter(graph_["tensor_values"].values()))

    return apply


def size(text: Callable[[str], str]) -> Callable[[Members, Path], None]:
    """Put an expression in the place of the batch size."""

    def apply(graph_: Any, code: str) -> None:
        graph_["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": text(code), "hint": {"as_int": 4}}}

    return graph(apply)


def argument(**value: object) -> Callable[[Members, Path], None]:
    """Put another argument in the first node."""
    return graph(lambda graph_, _: graph_["nodes"][0]["inputs"][0].update(arg=value))


SYMBOL = "Symbol('s1', positive=True, integer=True)"
THIS = json.dumps({"__enum__": True, "fqn": "this:Zen", "name": "x"})

ATTACKS: dict[str, Attack] = {
    "pickled weight": Attack(
        both(weight(use_pickle=True), pickled("data/weights/weight_0")), "use_pickle: must be one of False"
    ),
    "pickled sample inputs": Attack(pickled(INPUTS), None),
    "weights twice": Attack(pickled("data/weights/model.pt"), "data/weights/model.pt: the tensors are in"),
    "pickled weights of torch 2.8": Attack(
        both(without(WEIGHTS), pickled("data/weights/model.pt")), "data/weights/model.pt: The archive has no end record"
    ),
    "pickled constants of torch 2.8": Attack(
        both(without(CONSTANTS), pickled("data/constants/model.pt")), "data/constants/model.pt: The archive has no end"
    ),
    "opaque object": Attack(pickled("data/constants/opaque_obj_0"), "no such member"),
    "custom object": Attack(pickled("data/constants/custom_obj_0"), "no such member"),
    "second program": Attack(lambda m, _: m.update({"models/other.json": m[PROGRAM]}), "no such member"),
    "old layout": Attack(lambda m, _: m.update({"serialized_state_dict.pt": b"x"}), "no such member"),
    "compiled code": Attack(lambda m, _: m.update({"data/aotinductor/model/a.so": b"\x7fELF"}), "no such member"),
    "extra files": Attack(lambda m, _: m.update({"extra/a.txt": b"x"}), "no such member"),
    "size that is code": Attack(size(lambda code: code), "sizes/0/as_expr/expr_str"),
    "size that calls eval": Attack(size(lambda _: "eval(chr(49)+chr(43)+chr(49))"), "function that is not accepted"),
    "size with code for a symbol": Attack(size(lambda code: f"Symbol({code})"), "symbol whose name"),
    "size with attribute": Attack(size(lambda _: "Integer(1).__class__"), "something other than calls"),
    "size with a lambda": Attack(size(lambda _: "(lambda: 1)()"), "something other than calls"),
    "size that never ends": Attack(size(lambda _: "factorial(Integer(10000000))"), "not accepted"),
    "size of a large power": Attack(size(lambda _: "Pow(Integer(9), Integer(999999999))"), "power"),
    "size of a tower": Attack(size(lambda _: f"Pow({SYMBOL}, Pow(Integer(9), Integer(9)))"), "power"),
    "size of a string": Attack(size(lambda _: "Symbol('x'*10**9)"), "symbol whose name"),
    "size too long": Attack(size(lambda _: "Add(" + "Integer(1)," * 100 + ")"), "at most 512 characters"),
    "size nested": Attack(size(lambda _: "Add(" * 120 + "Integer(1)" + ")" * 120), "expr_str"),
    "input name with a default": Attack(rename_input(lambda code: f"x=({code})"), "identifier"),
    "input name with a line": Attack(rename_input(lambda code: f"x):\n  {code}\n  def f(y"), "identifier"),
    "input name of Python": Attack(rename_input(lambda _: "lambda"), "identifier"),
    "input name self": Attack(rename_input(lambda _: "self"), "identifier"),
    "input name with underscores": Attack(rename_input(lambda _: "__import__"), "identifier"),
    "input name of look-alikes": Attack(rename_input(lambda _: "\uff58"), "identifier"),
    "forward argument": Attack(
        call(lambda s, code: s.update(forward_arg_names=[f"x=({code})"])), "forward_arg_names/0"
    ),
    "node name": Attack(graph(lambda g, code: g["nodes"][0].update(name=code)), "node 0: name"),
    "parameter name": Attack(
        edit(
            PROGRAM,
            lambda d, code: d["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name=code),
        ),
        "parameter_name",
    ),
    "parameter name of a dunder path": Attack(
        edit(WEIGHTS, lambda d, _: d["config"].update({"a..b": next(iter(d["config"].values()))})), "must be a name"
    ),
    "guards": Attack(edit(PROGRAM, lambda d, code: d.update(guards_code=[code])), None),
    "stack trace": Attack(graph(lambda g, code: g["nodes"][0]["metadata"].update(stack_trace=code)), None),
    "source function": Attack(
        graph(lambda g, code: g["nodes"][0]["metadata"].update(source_fn_stack=f"a,torch.{code}")), None
    ),
    "module stack": Attack(graph(lambda g, code: g["nodes"][0]["metadata"].update(nn_module_stack=code)), None),
    "spec that imports": Attack(call(spec("builtins.dict", THIS)), "keys are not distinct names"),
    "spec of a default dict": Attack(
        call(spec("collections.defaultdict", {"default_factory_module": "os", "default_factory_name": "system"})),
        "nests in something other",
    ),
    "spec of a class": Attack(call(spec("os.system", "null")), "nests in something other"),
    "spec of a named tuple": Attack(call(spec("collections.namedtuple", "os.stat_result")), "nests in something other"),
    "spec with code for keys": Attack(call(lambda s, code: spec("builtins.dict", [code], 1)(s, code)), "keys"),
    "spec that is deep": Attack(call(lambda s, _: s.update(out_spec="[" * 100_000)), "nested deeper"),
    "spec of the input": Attack(call(lambda s, _: s.update(in_spec='[1, {"type": "os.path"}]')), "in_spec"),
    "torch.os.system": Attack(graph(node("torch.os.system", {"as_string": "id"})), "node 0: target"),
    "math": Attack(graph(node("math.factorial", {"as_int": 10**9})), "node 0: target"),
    "operator that calls": Attack(graph(node("_operator.call", {"as_string": "x"})), "node 0: target"),
    "operator getattr": Attack(graph(node("_operator.attrgetter", {"as_string": "x"})), "node 0: target"),
    "aten that maps a file": Attack(
        graph(node("torch.ops.aten.from_file.default", {"as_string": "x"}, {"as_bool": True}, {"as_int": 8})),
        "torch.ops.aten.from_file.default is not accepted",
    ),
    "aten that saves": Attack(graph(node("torch.ops.aten._save.default", {"as_string": "x"})), "is not accepted"),
    "aten with random bits": Attack(graph(node("torch.ops.aten.rand.default", {"as_ints": [2]})), "is not accepted"),
    "higher-order operator": Attack(
        graph(node("torch.ops.higher_order.wrap", {"as_operator": "subprocess.Popen"})), "node 0: "
    ),
    "while loop": Attack(graph(node("torch.ops.higher_order.while_loop")), "node 0: target"),
    "imported class": Attack(
        graph(node("torch.export.custom_ops._call_custom_autograd_function_in_pre_dispatch", {"as_string": "os.x"})),
        "node 0: target",
    ),
    "operator as argument": Attack(argument(as_operator="subprocess.Popen"), "node 0: inputs/0/arg"),
    "graph as argument": Attack(argument(as_graph={"name": "x", "graph": {}}), "node 0: inputs/0/arg"),
    "custom object as argument": Attack(
        argument(as_custom_obj={"name": "x", "class_fqn": "y"}), "node 0: inputs/0/arg"
    ),
    "text as argument": Attack(argument(as_string="__import__('os')"), "plain characters"),
    "float beyond floats": Attack(
        lambda m, _: m.update({PROGRAM: m[PROGRAM].replace(b'"as_float": 0.1', b'"as_float": 1e999')}),
        "must be a float",
    ),
    "device that is not there": Attack(argument(as_device={"type": "os.system", "index": 0}), "must be one of cpu"),
    "value that nobody makes": Attack(argument(as_tensor={"name": "ghost"}), "no earlier node computes"),
    "value made twice": Attack(graph(lambda g, _: g["nodes"].append(g["nodes"][0])), "already exists"),
    "tensor of terabytes": Attack(
        graph(node("torch.ops.aten.zeros.default", {"as_ints": [2**40, 8]})), "asks for a tensor"
    ),
    "size of terabytes": Attack(
        graph(
            lambda g, _: g["tensor_values"][g["nodes"][0]["name"]].update(
                sizes=[{"as_int": 2**50}], strides=[{"as_int": 1}]
            )
        ),
        "is a tensor of more than",
    ),
    "weight that reaches out": Attack(meta(storage_offset={"as_int": 2**30}), "needs"),
    "weight of stride 0": Attack(meta(strides=[{"as_int": 0}] * 4, sizes=[{"as_int": 2**20}] * 4), "sizes and strides"),
    "weight larger than its bytes": Attack(meta(sizes=[{"as_int": 2**10}, *[{"as_int": 1}] * 3]), "needs"),
    "weight of negative stride": Attack(meta(strides=[{"as_int": -1}] * 4), "strides/0"),
    "weight of symbols": Attack(meta(sizes=[{"as_expr": {"expr_str": SYMBOL, "hint": None}}] * 4), "sizes and strides"),
    "weight of no dtype": Attack(meta(dtype=77), "dtype"),
    "weight that is sparse": Attack(meta(layout=1), "layout"),
    "weight elsewhere": Attack(weight(path_name="../../../etc/passwd"), "path_name"),
    "weight of no bytes": Attack(lambda m, _: m.update({"data/weights/weight_0": b""}), "needs"),
    "boolean for a number": Attack(meta(storage_offset={"as_int": True}), "must be an integer"),
    "float for a number": Attack(meta(storage_offset={"as_int": 1.0}), "must be an integer"),
    "key twice": Attack(
        lambda m, _: m.update({PROGRAM: m[PROGRAM].replace(b'"guards_code"', b'"schema_version": 1, "guards_code"')}),
        "a key twice",
    ),
    "not a number": Attack(
        lambda m, _: m.update({PROGRAM: m[PROGRAM].replace(b'"opset_version"', b'"a": NaN, "opset_version"')}), "NaN"
    ),
    "huge integer": Attack(
        lambda m, _: m.update({PROGRAM: m[PROGRAM].replace(b'"aten": 10', b'"aten": 1' + b"0" * 100_000)}), "JSON"
    ),
    "deep json": Attack(lambda m, _: m.update({PROGRAM: b'{"a":' * 200_000}), "nested deeper"),
    "too many nodes": Attack(graph(lambda g, _: g.update(nodes=[{}] * 60_000)), "at most 50000"),
    "other schema": Attack(edit(PROGRAM, lambda d, _: d["schema_version"].update(major=99)), "schema_version"),
    "no verifier of ours": Attack(edit(PROGRAM, lambda d, _: d.update(verifiers=["os.system"])), "verifiers/0"),
    "custom object signature": Attack(
        edit(PROGRAM, lambda d, _: d["graph_module"]["signature"]["input_specs"].append({"custom_obj": {}})),
        "input_specs",
    ),
}


def weights(body: bytes = bytes(24), **entries: object) -> bytes:
    """A file of weights with one honest tensor `a.weight`, and what the entries put beside or in place of it."""
    header = {"a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}} | entries
    return with_header(header, body)


NAN, INFINITY = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))

WEIGHTS_ATTACKS: dict[str, tuple[bytes, str | None]] = {
    "header of gigabytes": ((2**31).to_bytes(8, "little") + b"{" + bytes(100), "is not safetensors"),
    "header beyond the file": ((4096).to_bytes(8, "little") + b'{"a":', "is not safetensors"),
    "header that is deep": (with_header(b'{"a":' * 100_000), "nested deeper"),
    "header with a key twice": (with_header(b'{"a":1,"a":1}'), "a key twice"),
    "tensors that overlap": (
        weights(b={"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}),
        "b: its bytes begin at 16, expected 24",
    ),
    "tensor outside the file": (weights(b={"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}), "take 32 bytes"),
    "tensor of exabytes": (weights(b={"dtype": "F32", "shape": [2**62], "data_offsets": [24, 24]}), "takes"),
    "bytes that no tensor has": (weights(bytes(24) + payload(Path("CANARY")).encode()), "take 24 bytes"),
    "dtype that is code": (weights(b={"dtype": "__import__", "shape": [], "data_offsets": [24, 24]}), "dtype"),
    "dtype of four bits": (weights(b={"dtype": "F4", "shape": [2], "data_offsets": [24, 25]}), "dtype"),
    "a path for a name": (with_header({"../../x\0": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}), "a name"),
    "not a number": (weights(bytes(20) + NAN), r"'a.weight' holds NaN or infinity, first at index [1, 2]"),
    "infinity": (weights(INFINITY + bytes(20)), r"'a.weight' holds NaN or infinity, first at index [0, 0]"),
    "no tensor": (with_header({}), "0 tensors"),
    "metadata that is code": (weights(__metadata__={"x": payload(Path("CANARY"))}), None),
}
"""Files of weights, and what the refusal says; None: the file is taken, and what was hostile in it is gone."""


def attacked(name: str, members: Members, path: Path, canary: Path) -> Path:
    """The hostile file."""
    changed = dict(members)
    ATTACKS[name].change(changed, canary)
    return write(changed, path)


def main(folder: Path) -> None:
    """Write every attack and its answer."""
    folder.mkdir(parents=True, exist_ok=True)
    members, answers = honest_members(), {}
    for name, attack in ATTACKS.items():
        path = attacked(name, members, folder / f"{name.replace(' ', '-')}.pt2", folder / "CANARY")
        answers[path.name] = "201" if attack.answer is None else f"422: {attack.answer}"
    for name, (data, answer) in WEIGHTS_ATTACKS.items():
        path = folder / f"weights-{name.replace(' ', '-')}.safetensors"
        path.write_bytes(data)
        answers[path.name] = "201" if answer is None else f"422: {answer}"
    for name, folder_attack in FOLDER_ATTACKS.items():
        path = folder / f"folder-{name.replace(' ', '-')}.tar"
        path.write_bytes(attacked_folder(name, folder / "CANARY"))
        answers[path.name] = "201" if folder_attack.code is None else f"422: {folder_attack.answer}"
    (folder / "answers.json").write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
