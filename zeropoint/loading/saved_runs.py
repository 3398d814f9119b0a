"""Run the files that the second process opened, also as runtimes do."""

from collections.abc import Iterator, Mapping
from traceback import print_exc
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zeropoint.loading.readers import Opened
from zeropoint.loading.readers.onnx import OpenedOnnx
from zeropoint.loading.readers.program import OpenedProgram
from zeropoint.schema.formats import ONNX_FILE
from zeropoint.simulation.saturation import MLAS, ONEDNN

Also = Literal["onednn", "mlas", "usual"]
"""A further run: the program with sums of oneDNN or MLAS that saturate, or the ONNX file in a session as users get."""


def batch_of(question: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that a question is about, by their inputs' names."""
    tensors = load_file(question["inputs"])
    return {name: tensors[str(position)] for position, name in enumerate(question["names"])}


def run_opened(opened: Opened, further: Mapping[str, Opened], question: Mapping[str, Any]) -> None:
    """Run the artifacts and write their outputs. Raises ValueError when a further one has fewer or more outputs."""
    batch = batch_of(question)
    with torch.no_grad():
        also = list(_also(opened, further, question, batch))
        torch.manual_seed(0)  # a model that draws random numbers is measured the same way in every run
        result = {i: value for i, value in enumerate(opened.run(batch)) if isinstance(value, Tensor)}
        others = {file: zip(result, artifact.run(batch), strict=True) for file, artifact in further.items()}
        others |= {name: zip(result, values, strict=True) for name, values in also}
    outputs = {str(i): value for i, value in result.items()}
    outputs |= {f"{file}:{i}": cast(Tensor, value) for file, pairs in others.items() for i, value in pairs}
    # clones: outputs may be one tensor, or parts of one, and the format stores none of these
    save_file({key: value.contiguous().clone() for key, value in outputs.items()}, question["outputs"])


def _also(
    opened: Opened, further: Mapping[str, Opened], question: Mapping[str, Any], batch: Mapping[str, Tensor]
) -> Iterator[tuple[str, list[object]]]:
    """Yield the outputs of each further run that works; they have the saved program's positions."""
    kernels, onnx = {"onednn": ONEDNN, "mlas": MLAS}, further.get(ONNX_FILE)
    for name in question.get("also", ()):
        torch.manual_seed(0)
        try:
            if name in kernels and isinstance(opened, OpenedProgram):
                values = opened.run_saturating(batch, kernels[name])
                yield name, [value for value in values if isinstance(value, Tensor)]
            elif name == "usual" and isinstance(onnx, OpenedOnnx):
                yield name, onnx.run_as_usual(batch)
        except Exception:  # the report then says that this run is missing
            print_exc()
