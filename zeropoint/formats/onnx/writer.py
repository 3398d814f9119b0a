"""`model.onnx`: the quantized program for ONNX runtimes.

    x ── QuantizeLinear ── DequantizeLinear ──┐
    weight int8 ── DequantizeLinear ──────────┴── Gemm / MatMul / Conv ── …

torch translates the program; `layers` then rewrites the quantized layers so that onnxruntime runs them on integers.
Inputs and outputs keep the program's names, and dynamic dimensions stay dynamic. The file holds no float weight of a
quantized layer, no samples, and nothing of the user's source but the names of inputs, outputs and parameters.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.fx import Node

from zeropoint.errors import Unsupported
from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource, Source

PACKAGES = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
_NO_FLOAT64 = ("Conv", "LSTM", "GRU", "RNN")
"""Layers for which onnxruntime has no kernel in float64; it has some for matrices."""


def write_onnx(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises what `require_onnx` raises, and OSError when the disk can't take it."""
    require_onnx(quantized.source)
    from zeropoint.formats.onnx.export import Untranslatable, onnx_bytes  # noqa: PLC0415 - it needs the extra

    try:
        path.write_bytes(onnx_bytes(quantized))
    except Untranslatable as error:
        raise _unsupported(str(error)) from error


def require_onnx(source: Source) -> None:
    """Check, before any work, that a model can be written as an ONNX file on this machine.

    Raises Unsupported when it can't, or when the packages that write it are not installed; TypeError when the source is
    not an exported program.
    """
    if not isinstance(source, ProgramSource):
        raise TypeError("only an exported program can be written as ONNX")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise Unsupported(
            "onnx_unavailable",
            f"ONNX files need packages that are not installed here: {', '.join(missing)}.",
            'Leave "onnx" out of "formats", or install the extra (in the checkout: pip install ".[onnx]").',
        )
    if reason := _obstacle(source):
        raise _unsupported(reason)


def _obstacle(source: ProgramSource) -> str | None:
    """Return what ONNX or onnxruntime does not support in this model; None if nothing."""
    if source.changing:
        return f"The model changes its buffer {min(source.changing)!r} as it runs, and an ONNX model keeps no state."
    for spec in source.program.graph_signature.output_specs:
        returns_tensor = isinstance(spec.arg, TensorArgument) or getattr(spec.arg, "value", spec.arg) is None
        if spec.kind is OutputKind.USER_OUTPUT and not returns_tensor:
            return "The model returns values other than tensors."
    bfloat16 = [name for name, tensor in source.tensors.items() if tensor.dtype == torch.bfloat16]
    if bfloat16:
        return f"The model computes in bfloat16 ({min(bfloat16)!r}), which onnxruntime can't run on a CPU."
    double = {name for name, tensor in source.tensors.items() if tensor.dtype == torch.float64}
    without = [
        layer for layer in source.layers if layer.weight_name in double and str(layer.kind).startswith(_NO_FLOAT64)
    ]
    if without:
        return f"The model computes in float64 ({without[0].name!r}, {without[0].type}), which onnxruntime can't there."
    if any(map(_projects, source.program.graph.nodes)):
        return "The model has an LSTM with proj_size, which ONNX does not know."
    return None


def _projects(node: Node) -> bool:
    """Return whether a node is an LSTM whose outputs are smaller than its cells; torch would write a plain one."""
    if node.target is not torch.ops.aten.lstm.input:
        return False
    hidden, cells = cast(Sequence[Node], node.args[1])
    return bool(hidden.meta["val"].shape[-1] != cells.meta["val"].shape[-1])


def _unsupported(reason: str) -> Unsupported:
    return Unsupported("onnx_unsupported", reason, 'Leave "onnx" out of "formats"; the other formats hold the result.')
