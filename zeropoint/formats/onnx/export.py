"""A quantized program as the bytes of an ONNX model. It needs the extra, and `onnx` imports it when that is there.

torch translates operator by operator; constants are folded but for what begins at a stored weight, which would become
float again. Whatever tells of the user's files leaves: metadata, comments, the names of classes and functions.
"""

import logging
from collections.abc import Iterator
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

from zeropoint.formats.onnx.layers import fit_biases, fold_normalizations, halve_bytes
from zeropoint.formats.program.qdq import ops
from zeropoint.formats.program.writer import quantized_program
from zeropoint.layers.result import Quantized

OPSET = 21
"""The first whose DequantizeLinear knows groups and int4."""
MAX_BYTES = 2**31 - 2**16
"""What protobuf can hold in one file."""

_LOUD = ("torch.onnx", "onnxscript", "onnx_ir")


class Untranslatable(Exception):
    """There is no ONNX file of this program. The text is for a user."""


def onnx_bytes(quantized: Quantized) -> bytes:
    """The file, as ONNX's own checker takes it. Raises Untranslatable."""
    program = quantized_program(quantized, outputs=True)
    with _quiet():
        model = _translated(program)
        halve_bytes(model, quantized.layers)
        _optimize(model, {str(layer.layer.weight_name) for layer in quantized.layers})
        fold_normalizations(model)
        fit_biases(model)
        _name_inputs(model, program)
        Sequential(RemoveUnusedNodesPass(), ClearMetadataAndDocStringPass())(model)
    if sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value) > MAX_BYTES:
        raise Untranslatable("The model has more than 2 GiB, which one ONNX file can't hold.")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _translated(program: ExportedProgram) -> ir.Model:
    """What torch makes of it, operator by operator."""
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


def _optimize(model: ir.Model, weights: set[str]) -> None:
    """Fold constants, but for what begins at one of these."""

    def may_fold(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    optimize_ir(model, should_fold=may_fold)


def _name_inputs(model: ir.Model, program: ExportedProgram) -> None:
    """An input that is an output too keeps its name, and the output gets another."""
    taken = {value.name: value for value in model.graph.outputs}
    given = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    for value, name in zip(model.graph.inputs, given, strict=True):
        if value.name != name and name in taken:
            taken[name].name = f"{name}_output"
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
    """numbers [out, in], scales and zero points [out, in / group_size] -> float32 [out, in]."""
    zero_points = opset21.Cast(zero_points, to=dtype)
    return opset21.DequantizeLinear(input, scales, zero_points, axis=1, block_size=group_size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries say on the console what concerns nobody: which package they miss, what they could not fold."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
