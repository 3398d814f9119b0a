"""Record what the integer kernels of a library make of `tests.kernel_cases` on this processor.

python -m scripts.record_kernels LIBRARY FILE        LIBRARY: onnxruntime, torch

The recorded files of the tests come from a processor without VNNI, or from one that was made to seem so:

    qemu-x86_64 -cpu Haswell .venv/bin/python -m scripts.record_kernels onnxruntime FILE
    ONEDNN_MAX_CPU_ISA=AVX2 .venv/bin/python -m scripts.record_kernels torch FILE

onnxruntime rounds the sums of a convolution to 8 bits; `output_scale` says how.
"""

import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from tests.kernel_cases import Case, cases

TYPES = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}
Sums = NDArray[Any]


def output_scale(case: Case) -> np.float32:
    """Return the scale with which the sums of a convolution are rounded to uint8 around 128."""
    return np.float32(max(1, case.weight[0].size * 16 * 127 // 127))


def by_onnxruntime(case: Case) -> Sums:
    """Return the sums of a linear, int32 [rows, out], or the rounded sums of a convolution, uint8."""
    middle = 128 if case.weight.dtype == np.uint8 else 0
    parts: dict[str, Sums] = {
        "zero": np.array(case.zero_point, case.values.dtype),
        "weight_zero": np.array(middle, case.weight.dtype),
    }
    shape = case.shape
    if shape is None:
        parts["weight"] = np.ascontiguousarray(case.weight.T)
        node = helper.make_node("MatMulInteger", ["values", "weight", "zero", "weight_zero"], ["sums"])
        return _ran(case, node, parts, TensorProto.INT32)
    rank = len(shape.kernel)
    parts |= {"weight": case.weight, "one": np.array(1, np.float32), "scale": np.array(output_scale(case))}
    parts["middle"] = np.array(128 if case.values.dtype == np.uint8 else 0, case.values.dtype)
    names = ["values", "one", "zero", "weight", "one", "weight_zero", "scale", "middle"]
    node = helper.make_node(
        "QLinearConv",
        names,
        ["sums"],
        group=shape.groups,
        strides=[shape.stride] * rank,
        pads=[shape.padding] * 2 * rank,
        dilations=[shape.dilation] * rank,
    )
    return _ran(case, node, parts, TYPES[case.values.dtype])


def _ran(case: Case, node: onnx.NodeProto, parts: dict[str, Sums], result: int) -> Sums:
    given = helper.make_tensor_value_info("values", TYPES[case.values.dtype], case.values.shape)
    made = helper.make_tensor_value_info("sums", result, None)
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in parts.items()]
    graph = helper.make_graph([node], "kernel", [given], [made], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sums: Sums = session.run(None, {"values": case.values})[0]
    return sums


def by_torch(case: Case) -> Sums:
    """Return the sums, int32, of the operators that Inductor writes for a frozen program: scales are 1."""
    values, weight = torch.from_numpy(case.values), torch.from_numpy(case.weight)
    outputs, zero_point = len(weight), case.zero_point
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    result: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
    operators, shape = torch.ops.onednn, case.shape
    if shape is None:
        packed = operators.qlinear_prepack(weight, [*values.shape])
        sums = operators.qlinear_pointwise(values, 1.0, zero_point, packed, ones, zeros, *result)
        return np.asarray(sums.to(torch.int32).numpy())
    flat = len(shape.kernel) == 1
    if flat:  # the program's own form of a conv1d
        values, weight = values.unsqueeze(2), weight.unsqueeze(2)
    first = [0, 1, 1] if flat else [shape.padding, shape.stride, shape.dilation]
    padding, stride, dilation = ([one, two] for one, two in zip(first, _options(case), strict=True))
    options = (stride, padding, dilation, shape.groups)
    packed = operators.qconv_prepack(weight, ones, 1.0, zero_point, *options, [*values.shape])
    values = values.contiguous(memory_format=torch.channels_last)
    sums = operators.qconv_pointwise(values, 1.0, zero_point, packed, ones, zeros, None, *options, *result[1:])
    return np.asarray((sums.squeeze(2) if flat else sums).contiguous().to(torch.int32).numpy())


def _options(case: Case) -> tuple[int, int, int]:
    assert case.shape is not None
    return case.shape.padding, case.shape.stride, case.shape.dilation


LIBRARIES = {"onnxruntime": (by_onnxruntime, onnxruntime.__version__), "torch": (by_torch, torch.__version__)}


def _features() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")


def main(library: str, file: Path) -> None:
    """Write the sums of all cases by name, and with what they were made."""
    torch.set_num_threads(1)
    run, version = LIBRARIES[library]
    sums = {case.name: np.ascontiguousarray(run(case)) for case in cases()}
    about = {"library": library, "version": version, "machine": platform.machine(), "features": _features()}
    save_file(sums, file, about)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
