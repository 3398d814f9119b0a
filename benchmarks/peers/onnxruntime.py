"""onnxruntime's quantize_static, as it is and tuned. Needs onnx, onnxruntime and onnxscript, and an ONNX file."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.comparison.spent import Stopwatch
from benchmarks.models.model import Call, Tensors, batches, export
from benchmarks.peers.peer import Peer, Quantized

PRODUCTS = ("Conv", "Gemm", "MatMul")


class Reader:
    """The calibration samples, as onnxruntime asks for them: a dict of arrays at a time, then None."""

    def __init__(self, samples: Tensors) -> None:
        self.left: Iterator[tuple[Tensor, ...]] = batches(samples)
        self.names = list(samples)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch."""
        batch = next(self.left, None)
        return None if batch is None else {name: part.numpy() for name, part in zip(self.names, batch, strict=True)}


def quantize(network: nn.Module, calibration: Tensors, folder: Path, *, tuned: bool) -> Quantized:
    """Quantize the ONNX file; the result runs in onnxruntime."""
    from onnxruntime.quantization import (  # noqa: PLC0415 - an optional package
        CalibrationDataReader,
        quantize_static,
        shape_inference,
    )

    CalibrationDataReader.register(Reader)
    plain, ready, done = (folder / f"{name}.onnx" for name in ("plain", "ready", "quantized"))
    _write_onnx(network, calibration, plain)
    shape_inference.quant_pre_process(plain, ready)
    watch = Stopwatch()
    quantize_static(ready, done, Reader(calibration), **(_tuned() if tuned else {}))
    return Quantized(_session(done, list(calibration)), done.stat().st_size, watch.spent())


def _tuned() -> dict[str, Any]:
    """What brings most: products with weights alone, a scale per channel, and nothing at an operator's output."""
    from onnxruntime.quantization import QuantType  # noqa: PLC0415 - an optional package

    return {
        "op_types_to_quantize": list(PRODUCTS),
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "extra_options": {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": list(PRODUCTS)},
    }


def _write_onnx(network: nn.Module, samples: Tensors, path: Path) -> None:
    program = torch.onnx.export(export(network, samples), dynamo=True)
    assert program is not None
    program.save(str(path))


def _session(path: Path, names: list[str]) -> Call:
    import onnxruntime  # noqa: PLC0415 - an optional package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def call(*tensors: Tensor) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return call


NEEDS = ("onnx", "onnxruntime", "onnxscript")
ONNXRUNTIME = Peer("onnxruntime", NEEDS, partial(quantize, tuned=False))
ONNXRUNTIME_TUNED = Peer("onnxruntime-tuned", NEEDS, partial(quantize, tuned=True))
