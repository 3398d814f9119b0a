"""Describe a Hugging Face folder without loading its weights (`python -m zeropoint describe TAR` by hand).

One line of JSON on standard output: `{"facts": {"inputs", "layers", "parameters"}}` in the API's words, or
`{"refusal": {"code", "detail", "remedy"}}`. The network is built on the meta device, and its names and shapes are
compared with the headers of the weights.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from zeropoint.data.batches import Dim, Input
from zeropoint.errors import QuantizationError
from zeropoint.model.layer import Layer
from zeropoint.sources.huggingface.source import describe

TOO_DEMANDING = {
    "code": "upload_too_demanding",
    "detail": "Building the network takes more memory than the check of an upload may have.",
    "remedy": "Ask the operator to raise ZEROPOINT_GATE_MEMORY_BYTES, or export the model as a .pt2 program.",
}


def main(lock_down: Callable[[], None], path: str) -> int:
    """Lock the process down, print the description of the folder in the tar at `path`, and return 0."""
    lock_down()
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    try:
        said: dict[str, object] = {"facts": facts(Path(path))}
    except QuantizationError as error:
        said = {"refusal": {"code": error.code, "detail": error.detail, "remedy": error.remedy}}
    except (MemoryError, RecursionError):
        said = {"refusal": TOO_DEMANDING}
    print(json.dumps(said), file=out, flush=True)
    return 0


def facts(path: Path) -> dict[str, object]:
    """Return inputs, layers and the number of parameters. Raises InvalidModel or Unsupported."""
    inputs, layers, tensors = describe(path)
    return {
        "inputs": [_input(spec) for spec in inputs],
        "layers": [_layer(layer, {name: tensors[name] for name in layer.parameters}) for layer in layers],
        "parameters": sum(tensor.numel() for tensor in {id(t): t for t in tensors.values()}.values()),
    }


def _input(spec: Input) -> dict[str, object]:
    shape = [{"min": d.minimum, "max": d.maximum} if isinstance(d, Dim) else d for d in spec.shape]
    return {"name": spec.name, "dtype": _word(spec.dtype), "shape": shape, "optional": spec.optional}


def _layer(layer: Layer, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    names = (key for key in tensors if key == layer.weight_name or key.rpartition(".")[2] == "weight")
    weight = next((tensors[name] for name in names), None)
    return {
        "name": layer.name,
        "type": layer.type,
        "weight_shape": None if weight is None else list(weight.shape),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
    }


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
