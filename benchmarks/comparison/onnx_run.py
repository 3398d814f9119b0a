"""Run an ONNX file on samples in a process of its own; needs no torch, so that it starts fast on an emulated processor.

python benchmarks/comparison/onnx_run.py LIBRARY MODEL.onnx SAMPLES.safetensors OUTPUTS.safetensors BATCH
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Arrays = dict[str, NDArray[Any]]


def by_onnxruntime(model: str) -> Callable[[Arrays], Sequence[NDArray[Any]]]:
    """Return a session with all optimizations, on one thread."""
    import onnxruntime  # noqa: PLC0415 — one of two libraries, which need not both be installed

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def by_openvino(model: str) -> Callable[[Arrays], Sequence[NDArray[Any]]]:
    """Return a compiled model on one thread, in float32 where it is not quantized."""
    import openvino  # noqa: PLC0415

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda feed: [*compiled(feed).to_tuple()]


LIBRARIES = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def batches(samples: Arrays, size: int) -> Iterator[Arrays]:
    """Yield the samples of one call after another."""
    count = len(next(iter(samples.values())))
    for first in range(0, count, size):
        yield {name: array[first : first + size] for name, array in samples.items()}


def main(library: str, model: str, samples: str, file: str, size: str) -> None:
    """Write the outputs of all samples by position."""
    run = LIBRARIES[library](model)
    rounds = [run(batch) for batch in batches(load_file(samples), int(size))]
    outputs = (np.concatenate(parts) for parts in zip(*rounds, strict=True))
    save_file({str(place): np.ascontiguousarray(output) for place, output in enumerate(outputs)}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
