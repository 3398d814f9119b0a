"""`model.onnx`: the quantized program in the form that ONNX runtimes read.

    x ── QuantizeLinear ── DequantizeLinear ──┐
    weight int8 ── DequantizeLinear ──────────┴── Gemm / MatMul / Conv ── …

torch translates the program; what belongs to the layers is then laid so that onnxruntime runs it on integers (see
`onnx_layers`). Inputs and outputs have the names of the program, dynamic dimensions stay. It holds no float weight of a
quantized layer, no samples, and nothing of the user's source but these names and those of its parameters.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch.export.graph_signature import OutputKind, TensorArgument

from zeropoint.errors import Unsupported
from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource, Source

PACKAGES = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")


def write_onnx(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises what `require_onnx` raises, and OSError when the disk doesn't take it."""
    require_onnx(quantized.source)
    from zeropoint.formats.onnx.export import Untranslatable, onnx_bytes  # noqa: PLC0415 - it needs the extra

    try:
        path.write_bytes(onnx_bytes(quantized))
    except Untranslatable as error:
        raise _unsupported(str(error)) from error


def require_onnx(source: Source) -> None:
    """Ask before any work whether a model can become an ONNX file here.

    Raises Unsupported when it can't, or the packages that write it are not installed; TypeError when the source is no
    exported program.
    """
    if not isinstance(source, ProgramSource):
        raise TypeError("only an exported program can be written as ONNX")
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise Unsupported(
            "onnx_unavailable",
            f"ONNX files need packages that are not installed here: {', '.join(missing)}.",
            'Install zeropoint[onnx], or leave "onnx" out of "formats".',
        )
    if reason := _obstacle(source):
        raise _unsupported(reason)


def _obstacle(source: ProgramSource) -> str | None:
    """What ONNX, or the runtime that reads it, does not know of a model."""
    if source.changing:
        return f"The model changes its buffer {min(source.changing)!r} as it runs, and an ONNX model keeps no state."
    for spec in source.program.graph_signature.output_specs:
        returns_tensor = isinstance(spec.arg, TensorArgument) or getattr(spec.arg, "value", spec.arg) is None
        if spec.kind is OutputKind.USER_OUTPUT and not returns_tensor:
            return "The model returns numbers beside its tensors."
    halves = [name for name, tensor in source.tensors.items() if tensor.dtype == torch.bfloat16]
    if halves:
        return f"The model computes in bfloat16 ({min(halves)!r}), which onnxruntime can't on a CPU."
    return None


def _unsupported(reason: str) -> Unsupported:
    return Unsupported("onnx_unsupported", reason, 'Leave "onnx" out of "formats"; the other formats hold the result.')
