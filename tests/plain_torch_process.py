"""Someone who has `.pt2` files and torch, and nothing of ours.

`python -P plain_torch_process.py FOLDER … --compile FOLDER …`

Each folder has `model.pt2` and `calls.pt`, a list of (arguments, keywords). It gets `answer.pt`: what the program gave
in eager mode and as the graph that Inductor's patterns leave, by call, as flat lists; and which int8 kernels the graph
calls, and how often. A folder behind `--compile` gets the same of compiled code too: the C++ compiler takes longer than
all the rest.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torch.ao.quantization.fx._decomposed
from torch._inductor.compile_fx import compile_fx
from torch._inductor.utils import run_and_get_code
from torch.utils._pytree import tree_leaves

OURS = ("zeropoint", "sandbox", "app", "worker", "tests")
KERNEL = re.compile(r"torch\.ops\.onednn\.q(conv|linear)\w*_pointwise")


class Refusing:
    """Makes an import of ours fail, wherever it comes from."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"{name} is not here")


Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def answer(folder: Path, *, compiles: bool) -> dict[str, object]:
    """What the program in the folder gives, in each way."""
    module = torch.export.load(folder / "model.pt2").module()
    calls: Calls = torch.load(folder / "calls.pt", weights_only=True)
    eager = [tree_leaves(module(*arguments, **keywords)) for arguments, keywords in calls]
    return {"eager": eager} | as_graph(module, calls) | (as_code(module, calls) if compiles else {})


def as_graph(module: torch.nn.Module, calls: Calls) -> dict[str, object]:
    """Compile as far as Inductor's patterns go, and run the graph with the int8 kernels that they put into it."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, *_: object, **__: object) -> Callable[[list[Any]], Any]:
        graphs.append(graph)
        return boxed(graph)

    torch._dynamo.reset()
    fast = torch.compile(module, dynamic=False, backend=partial(compile_fx, inner_compile=keep))  # type: ignore[arg-type]
    outputs = [tree_leaves(fast(*arguments, **keywords)) for arguments, keywords in calls]
    kernels = Counter(KERNEL.findall(" ".join(f"torch.ops.{node.target}" for node in graphs[0].graph.nodes)))
    return {"graph": outputs, "kernels": dict(kernels)}


def boxed(graph: torch.fx.GraphModule) -> Callable[[list[Any]], Any]:
    """The graph as Inductor calls what it compiled: with one list."""

    def run(inputs: list[Any]) -> Any:
        return graph(*inputs)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def as_code(module: torch.nn.Module, calls: Calls) -> dict[str, object]:
    """Compile to the end, and run that."""
    torch._dynamo.reset()
    fast = torch.compile(module, dynamic=False)
    first, code = run_and_get_code(fast, *calls[0][0], **calls[0][1])
    rest = [tree_leaves(fast(*arguments, **keywords)) for arguments, keywords in calls[1:]]
    kernels = Counter(KERNEL.findall("".join(code)))
    return {"compiled": [tree_leaves(first), *rest], "kernels_of_code": dict(kernels)}


def main(*arguments: str) -> None:
    """Answer for every folder."""
    at = arguments.index("--compile")
    torch._inductor.config.freezing = True
    torch._inductor.config.compile_threads = 1  # to start a pool takes longer than what few cases have for it
    torch.set_num_threads(1)
    for name in (*arguments[:at], *arguments[at + 1 :]):
        with torch.no_grad():
            torch.save(answer(Path(name), compiles=name in arguments[at:]), Path(name) / "answer.pt")


if __name__ == "__main__":
    sys.meta_path.insert(0, Refusing())
    main(*sys.argv[1:])
