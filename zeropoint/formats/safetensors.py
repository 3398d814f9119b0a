"""`model.safetensors`: quantized integers, scales and zero points under the layer's own names, described by the header.

    <layer>.weight        int8 [out, ...]      <layer>.weight_scale        float32 [out] or [], symmetric
    <layer>.input_scale   float32 []           <layer>.input_zero_point    int64 []

Every tensor that stays in float keeps its name, dtype and shape. The header has one JSON object `zeropoint` for the
file and one `zeropoint.layer.<name>` per quantized layer (`formats.metadata`). A tensor with two names is stored once;
`tied` maps the other name to the stored one. The same result always gives the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zeropoint.files.safetensors import in_json, replace_metadata, save_tensors
from zeropoint.formats.metadata import describe, room_for_results
from zeropoint.layers.result import Quantized
from zeropoint.schema.report import Report


def write_safetensors(quantized: Quantized, path: Path) -> None:
    """Write the file, with room in its header for the results. Raises OSError when the disk can't take it."""
    kept, tied = _without_aliases(quantized.tensors)
    save_tensors(kept, path, describe(quantized, tied), room_for_results(quantized))


def record_safetensors(quantized: Quantized, path: Path, report: Report) -> None:
    """Write what validation measured into the header; no tensor's bytes change. Raises OSError."""
    _, tied = _without_aliases(quantized.tensors)
    replace_metadata(path, in_json(describe(quantized, tied, report)))


def _without_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by first name, and the aliases: alias -> first name."""
    first_names: dict[tuple[object, ...], str] = {}
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and memory in first_names:
            tied[name] = first_names[memory]
            continue
        first_names[memory] = name
        kept[name] = tensor
    return kept, tied
