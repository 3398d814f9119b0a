"""Count the layers that run on integers: in the graph that Inductor compiles, and in onnxruntime's session.

python -m scripts.coverage.kernels FOLDER        FOLDER: model.pt2, arguments.pt, and perhaps model.onnx

A process of its own, since Inductor reads its settings once. It prints one line of JSON.
"""

import json
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import torch._inductor.config
import torch.ao.quantization.fx._decomposed
from torch._inductor.compile_fx import compile_fx

from zeropoint.loading.readers.onnx import load_runtime

KERNEL = re.compile(r"onednn\.q(conv|linear)\w*_pointwise")
ON_INTEGERS = re.compile(r"QLinear(Conv|MatMul)|QGemm|MatMulInteger(ToFloat)?|ConvInteger|DynamicQuantizeMatMul")


def of_inductor(folder: Path) -> int:
    """Return the int8 kernels of the frozen graph, which is what remains to be compiled."""
    module = torch.export.load(folder / "model.pt2").module()
    args, kwargs = torch.load(folder / "arguments.pt", weights_only=True)
    found: list[int] = []

    def keep(graph: torch.fx.GraphModule, *_: object, **__: object) -> Callable[[list[Any]], Any]:
        found.append(sum(bool(KERNEL.search(str(node.target))) for node in graph.graph.nodes))
        return _boxed(graph)

    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        inner: Any = partial(compile_fx, inner_compile=keep)  # type: ignore[arg-type]
        torch.compile(module, dynamic=False, backend=inner)(*args, **kwargs)
    return sum(found)


def _boxed(graph: torch.fx.GraphModule) -> Callable[[list[Any]], Any]:
    """Return the graph as Inductor calls what it compiled: with one list."""

    def run(inputs: list[Any]) -> Any:
        return graph(*inputs)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def of_onnxruntime(folder: Path) -> int | None:
    """Return the operators on integers in an optimized session; None if there is no file."""
    if not (folder / "model.onnx").exists():
        return None
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    runtime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx", load_external_data=False).graph.node
    return sum(bool(ON_INTEGERS.fullmatch(node.op_type)) for node in nodes)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps([of_inductor(Path(sys.argv[1])), of_onnxruntime(Path(sys.argv[1]))]))
