"""Convert a quantized program to the bytes of an ONNX model. Needs the extra `onnx`; only `writer` imports it.

torch translates operator by operator. Constants are folded, except after a stored weight: folding there would turn it
back into float. Everything that reveals the user's files is removed: metadata, comments, class and function names.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from onnxscript import opset21
from onnxscript.optimizer import optimize_ir
from torch.export import ExportedProgram

from zeropoint.formats.onnx.layers import fold_normalizations, prevent_bias_overflow, store_int4_as_uint4
from zeropoint.formats.onnx.scatters import rewrite_scatters
from zeropoint.formats.onnx.strides import forget_strides
from zeropoint.formats.program.qdq import ops
from zeropoint.formats.program.writer import quantized_program
from zeropoint.graph.spelled_names import renamed, spelled_names, stored_names
from zeropoint.layers.result import Quantized
from zeropoint.model.quiet import torch_is_quiet

OPSET = 21
"""The first opset whose DequantizeLinear supports groups and int4."""
MAX_BYTES = 2**31 - 2**16
"""The most that protobuf can hold in one file."""


class Untranslatable(Exception):
    """Raised when a program has no ONNX form; the text is for a user."""


def onnx_bytes(quantized: Quantized) -> bytes:
    """Return the file's bytes, checked by ONNX's own checker. Raises Untranslatable."""
    written = quantized_program(quantized, outputs=True)
    names = spelled_names(stored_names(written))
    program = renamed(written, names) if names else written
    forget_strides(program.graph_module)
    rewrite_scatters(program.graph_module)
    with _quiet():
        model = _translated(program)
        _name_tensors(model, {other: name for name, other in names.items()})
        store_int4_as_uint4(model, quantized.layers)
        _optimize(model, {str(layer.layer.weight_name) for layer in quantized.layers})
        fold_normalizations(model)
        prevent_bias_overflow(model)
        _name_inputs(model, program)
        Sequential(RemoveUnusedNodesPass(), ClearMetadataAndDocStringPass())(model)
    if sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value) > MAX_BYTES:
        raise Untranslatable("The model has more than 2 GiB, which one ONNX file can't hold.")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _translated(program: ExportedProgram) -> ir.Model:
    """Translate the program with torch, operator by operator. Raises Untranslatable."""
    try:
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=OPSET,
            custom_translation_table={ops.dequantize_per_channel_group.default: _dequantize_groups},
        )
    except torch.onnx.OnnxExporterError as error:
        raise Untranslatable("The model has an operator that torch can't write as ONNX.") from error
    assert exported is not None
    return exported.model


def _name_tensors(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give the model's tensors the names that the user gave them."""
    for value in [value for name, value in model.graph.initializers.items() if name in names]:
        value.name = names[str(value.name)]


def _optimize(model: ir.Model, weights: set[str]) -> None:
    """Fold constants, except those computed from these weights."""

    def may_fold(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    optimize_ir(model, should_fold=may_fold)


def _name_inputs(model: ir.Model, program: ExportedProgram) -> None:
    """Name the model's inputs like the program's; an output of the same name gets the suffix `_output`."""
    outputs = {value.name: value for value in model.graph.outputs}
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    for value, name in zip(model.graph.inputs, names, strict=True):
        if value.name != name and name in outputs:
            outputs[name].name = f"{name}_output"
        value.name = name


def _dequantize_groups(  # noqa: PLR0917 - the operator's own arguments
    input: Any,
    scales: Any,
    zero_points: Any,
    quant_min: int,  # noqa: ARG001 - the operator has it, by this name
    quant_max: int,  # noqa: ARG001
    dtype: int,
    group_size: int = 128,
    output_dtype: int = 1,  # noqa: ARG001
) -> Any:
    """Dequantize integers [out, in] with scales and zero points [out, in / group_size] to float32 [out, in]."""
    zero_points = opset21.Cast(zero_points, to=dtype)
    return opset21.DequantizeLinear(input, scales, zero_points, axis=1, block_size=group_size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' log and standard output, which report missing packages and unfolded nodes."""
    with torch_is_quiet(), redirect_stdout(StringIO()):
        yield
