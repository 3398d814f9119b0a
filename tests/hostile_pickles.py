"""Hostile pickles where torch.save keeps its values, with what the refusal says of each; all are refused.

Every road by which unpickling runs code is here, and those by which it takes memory or time without an end. A payload
that ran would make the file CANARY.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.escape_canary import Touch


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """A call of a function of a module."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", elements: int = 6, kind: str = "torch\nFloatStorage") -> bytes:
    return b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(elements) + b"tQ"


def tensor(
    stored: bytes | None = None,
    offset: bytes | None = None,
    sizes: bytes | None = None,
    strides: bytes | None = None,
    rest: bytes = b"\x89}",
) -> bytes:
    """A tensor [2, 3] of floats, but for what is given."""
    parts = (stored or storage(), offset or number(0), sizes or numbers(2, 3), strides or numbers(3, 1))
    return call("torch._utils", "_rebuild_tensor_v2", *parts, rest)


def state(value: bytes, key: bytes | None = None) -> bytes:
    """A state dict with an honest tensor, and another value beside it."""
    return b"\x80\x02}(" + text("a.weight") + tensor() + (text("b") if key is None else key) + value + b"u."


def honest() -> bytes:
    return b"\x80\x02}" + text("a.weight") + tensor() + b"s."


def laughs(depth: int) -> bytes:
    """Lists of two lists of two lists …, each of them one and the same."""
    return b"(]q\0" + b"](h\0h\0eq\0" * depth + b"t"


def again(function: str, arguments: bytes) -> bytes:
    """Two thousand calls of a function with the same arguments: MANY entries, which five bytes refer to."""
    start = b"\x80\x02" + MANY + f"c{function}\nq\1".encode() + arguments + b"q\2("
    return start + b"h\1h\2R" * 2_000 + b"t."


MANY = b"}q\0(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(5_000)) + b"u"
PAIRS = b"]q\0(" + (b"](" + text("a") + b"Neq\3") + b"h\3" * 5_000 + b"e"

Pickle = Callable[[Path], bytes]


def payload_of(protocol: int) -> Pickle:
    """Make the canary, as pickle itself writes it."""
    return lambda canary: pickle.dumps(Touch(canary), protocol)


PICKLES: dict[str, tuple[Pickle, str]] = {
    **{
        f"payload of protocol {number}": (payload_of(number), "pcode 0x" if number < 1 else "is an object of")
        for number in range(6)
    },
    "os.system": (lambda _: state(call("os", "system", text("id"))), "b is an object of os.system"),
    "posix.system": (lambda _: state(call("posix", "system", text("id"))), "posix.system"),
    "eval": (lambda _: state(call("builtins", "eval", text("1"))), "builtins.eval"),
    "getattr": (lambda _: state(call("__builtin__", "getattr", text("os"), text("system"))), "__builtin__.getattr"),
    "a dotted name": (lambda _: state(text("os") + text("path.system") + b"\x93)R"), "os.path.system"),
    "torch.hub.load": (lambda _: state(call("torch.hub", "load", text("a/b"), text("c"))), "torch.hub.load"),
    "exec of torch": (
        lambda _: state(call("torch.jit.unsupported_tensor_ops", "execWrapper", text("x"), b"}", b"}")),
        "torch.jit.unsupported_tensor_ops.execWrapper",
    ),
    "numpy that runs text": (
        lambda _: state(call("numpy.testing._private.utils", "runstring", text("x"), b"}")),
        "runstring",
    ),
    "a class of torch": (lambda _: state(call("torch.nn.modules.linear", "Linear")), "torch.nn.modules.linear.Linear"),
    "a function that nobody calls": (lambda _: state(b"cos\nsystem\n"), "b is os.system"),
    "a function among hooks": (
        lambda _: state(tensor(rest=b"\x89}" + text("h") + b"cos\nsystem\ns")),
        "it names os.system",
    ),
    "a call among hooks": (
        lambda _: state(tensor(rest=b"\x89}" + text("h") + call("os", "system", text("id")) + b"s")),
        "it names os.system",
    ),
    "a call in attributes": (lambda _: state(b"}" + call("os", "system", text("id")) + b"b"), "it names os.system"),
    "a call in a subclass": (
        lambda _: state(
            call("torch._tensor", "_rebuild_from_type_v2", b"cos\nsystem\n", b"ctorch\nTensor\n", b")", b"}")
        ),
        "in another way than torch does",
    ),
    "a subclass": (
        lambda _: state(
            call("torch._tensor", "_rebuild_from_type_v2", b"ctorch._utils\n_rebuild_tensor\n", b"ca\nB\n", b")", b"}")
        ),
        "b is a tensor of the class a.B",
    ),
    "an instance": (lambda _: state(b"(" + text("id") + b"ios\nsystem\n"), "opcode 0x69"),
    "an object of a class": (lambda _: state(b"(cos\nsystem\n" + text("id") + b"o"), "opcode 0x6f"),
    "a new object": (
        lambda _: state(b"csubprocess\nPopen\n(" + text("id") + b"t\x81"),
        "an object of subprocess.Popen",
    ),
    "a new object with keywords": (lambda _: state(b"cos\nsystem\n)}\x92"), "opcode 0x92"),
    "an extension": (lambda _: state(b"\x82\x01"), "opcode 0x82"),
    "something thrown away": (lambda _: state(call("os", "system", text("id")) + b"0N"), "opcode 0x30"),
    "a call of text": (lambda _: state(text("x") + b")R"), "calls something that it doesn't name"),
    "a call of a call": (lambda _: state(call("a", "b") + b")R"), "calls something that it doesn't name"),
    "a name with a space": (lambda _: state(b"ca b\nc d\n)R"), "a class whose name is not shown"),
    "a name of look-alikes": (lambda _: state("cоs\nsystem\n)R".encode()), "more than plain characters"),
    "a name without an end": (lambda _: b"\x80\x02c" + b"x" * 2**20, "more than plain characters"),
    "another persistent id": (lambda _: state(text("../../etc/passwd") + b"Q"), "other than a storage"),
    "a storage elsewhere": (lambda _: state(tensor(storage("../../x"))), "a storage that the file lacks"),
    "a storage of exabytes": (lambda _: state(tensor(storage(elements=2**62))), "claims a storage of"),
    "a storage of less than nothing": (lambda _: state(tensor(storage(elements=-1))), "impossible size"),
    "a storage of code": (lambda _: state(tensor(storage(kind="os\nsystem"))), "numbers of os.system"),
    "a quantized storage": (lambda _: state(tensor(storage(kind="torch\nQInt8Storage"))), "torch.QInt8Storage"),
    "a storage as a tensor": (lambda _: state(storage()), "b is a storage without a tensor"),
    "a tensor of exabytes": (lambda _: state(tensor(sizes=numbers(2**31, 2**31))), "needs more than the 24 bytes"),
    "a tensor of stride 0": (
        lambda _: state(tensor(sizes=numbers(2**20, 2**20), strides=numbers(0, 0))),
        "too many share their storage",
    ),
    "no element, and sizes beyond counting": (
        lambda _: state(tensor(sizes=numbers(2**62, 4, 0), strides=numbers(1, 1, 1))),
        "too large to count",
    ),
    "a tensor that reaches out": (lambda _: state(tensor(offset=number(2**62))), "needs more than the 24 bytes"),
    "a tensor before its storage": (lambda _: state(tensor(offset=number(-1))), "in another way than torch does"),
    "negative sizes": (lambda _: state(tensor(sizes=numbers(-2, -3))), "in another way than torch does"),
    "negative strides": (lambda _: state(tensor(strides=numbers(-3, -1))), "in another way than torch does"),
    "booleans for sizes": (lambda _: state(tensor(sizes=b"\x88\x88\x86")), "in another way than torch does"),
    "more strides than sizes": (lambda _: state(tensor(strides=numbers(3, 1, 1))), "in another way than torch does"),
    "a list of sizes": (lambda _: state(tensor(sizes=b"]")), "in another way than torch does"),
    "a thousand dimensions": (
        lambda _: state(tensor(sizes=numbers(*[1] * 1000), strides=numbers(*[1] * 1000))),
        "in another way than torch does",
    ),
    "a tensor of text": (lambda _: state(tensor(text("x"))), "in another way than torch does"),
    "few arguments": (lambda _: state(call("torch._utils", "_rebuild_tensor_v2", storage())), "in another way"),
    "many arguments": (
        lambda _: state(call("torch._utils", "_rebuild_tensor", storage(), b"N" * 100)),
        "in another way than torch does",
    ),
    "a parameter of nothing": (
        lambda _: state(call("torch._utils", "_rebuild_parameter", b"N", b"\x88", b"}")),
        "in another way than torch does",
    ),
    "a name twice": (lambda _: state(b"}" + text("weight") + tensor() + b"s", text("a")), "stands for two tensors"),
    "a name that is a path": (lambda _: state(tensor(), text("../../x\0")), "whose name isn't at most 256 characters"),
    "a dict that can't be hashed": (lambda _: state(b"N", b"]"), "neither text nor a number"),
    "a key that is deep": (lambda _: state(b"N", b")" + b"\x85" * 100_000), "neither text nor a number"),
    "a list in itself": (lambda _: state(b"]q\0h\0a"), "nested deeper than 64 levels"),
    "a value that is deep": (lambda _: state(b")" + b"\x85" * 100_000), "nested deeper than 64 levels"),
    "a billion laughs": (lambda _: state(laughs(60)), "holds more than 2000000 values"),
    "text of gigabytes": (lambda _: state(b"X\xff\xff\xff\xff"), "a text of 4294967295 bytes"),
    "a number of gigabytes": (lambda _: state(b"\x8b\xff\xff\xff\x7f"), "opcode 0x8b"),
    "many values": (lambda _: b"\x80\x02" + b"N" * 5_000_000 + b".", "more than 4000000 steps"),
    "copies of a counter": (lambda _: again("collections\nCounter", b"h\0\x85"), "more than 4000000 steps"),
    "copies of pairs": (lambda _: again("collections\nOrderedDict", PAIRS + b"\x85"), "more than 4000000 steps"),
    "many flags of many tensors": (
        lambda _: again(
            "torch._utils\n_rebuild_tensor_v2",
            b"(" + storage() + number(0) + numbers(2, 3) + numbers(3, 1) + b"\x89Nh\0t",
        ),
        "more than 4000000 steps",
    ),
    "keys of one hash": (
        lambda _: state(b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 9)) + b"u"),
        "neither text nor a number of 61 bits",
    ),
    "no value": (lambda _: b"\x80\x02.", "a value from its stack that is not there"),
    "a mark that is not there": (lambda _: b"\x80\x02t.", "a value from its stack that is not there"),
    "a memo that is not there": (lambda _: b"\x80\x02h\x07.", "a value that it hasn't written"),
    "a pickle without an end": (lambda _: honest()[:-1], "is cut off"),
    "a protocol of the future": (lambda _: b"\x80\xff" + honest()[2:], "a protocol that isn't known"),
    "text that is none": (lambda _: state(b"X\x01\0\0\0\xff"), "a text that is not UTF-8"),
    "attributes of a tensor": (lambda _: state(tensor() + b"}b"), "sets attributes of what has none"),
    "items of a tensor": (lambda _: state(tensor() + b"(" + text("a") + b"Nu"), "sets an entry of what is no dict"),
}
"""What stands in place of the values, and what is said of it."""


def saved(values: bytes, **members: bytes) -> bytes:
    """A file of torch.save with these values, one storage of 24 bytes, and further members by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {"data.pkl": values, "byteorder": b"little", "data/0": bytes(24), **members}.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def saved_long_ago(values: bytes) -> bytes:
    """The same as torch < 1.6 wrote it."""
    head = (pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return b"".join(head) + values + pickle.dumps(["0"], 2) + struct.pack("<q", 6) + bytes(24)
