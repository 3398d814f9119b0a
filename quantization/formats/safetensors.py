"""`model.safetensors`: integers, scales and zero points under the layer's own names, and a header that explains them.

    <layer>.weight        int8 [out, ...]      <layer>.weight_scale        float32 [out] or [], symmetric
    <layer>.input_scale   float32 []           <layer>.input_zero_point    int64 []

Everything that stays in float keeps its name, dtype and shape. The header has one JSON object `zeropoint` for the file
and one `zeropoint.layer.<name>` per quantized layer (docs/quantization.md). Two names of one tensor are stored once;
`tied` says which. Same result in, same bytes out.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from quantization.layers import Quantized, QuantizedLayer
from quantization.sources.source import distinct_bytes

SCHEMA_VERSION = 1
FILE_KEY = "zeropoint"
LAYER_KEY = "zeropoint.layer."


def write_safetensors(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises OSError when the disk doesn't take it."""
    kept, tied = _without_aliases(quantized.tensors)
    metadata = {FILE_KEY: _json(_file_metadata(quantized, tied))}
    metadata |= {LAYER_KEY + layer.layer.name: _json(_layer_metadata(layer)) for layer in quantized.layers}
    save_file(kept, path, metadata)
    _sort_header(path)


def _without_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous tensors by first name, and alias -> first name."""
    first: dict[tuple[object, ...], str] = {}
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first:
            tied[name] = first[place]
            continue
        first[place] = name
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        kept[name] = tensor if whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)
    return kept, tied


def _file_metadata(quantized: Quantized, tied: dict[str, str]) -> dict[str, object]:
    stored = distinct_bytes(quantized.tensors.values())
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": quantized.recipe.model_dump(mode="json"),
        "versions": quantized.versions,
        "architecture": {
            "quantized": {layer.layer.name: layer.layer.type for layer in quantized.layers},
            "float": {skipped.name: skipped.type for skipped in quantized.skipped},
        },
        "statistics": {"original_bytes": quantized.source.original_bytes, "quantized_bytes": stored},
        "tied": tied,
    }


def _layer_metadata(layer: QuantizedLayer) -> dict[str, object]:
    grid, settings, activation = layer.affine.grid, layer.settings, layer.activation
    return {
        "type": layer.layer.type,
        "operator": layer.layer.kind,
        "weight": settings.model_dump(mode="json")
        | {
            "tensor": layer.layer.weight_name,
            "scale": f"{layer.layer.weight_name}_scale",
            "zero_point": 0,
            "shape": list(layer.weight.shape),
            "quant_min": grid.quant_min,
            "quant_max": grid.quant_max,
        },
        "activation": activation
        and activation.settings.model_dump(mode="json")
        | {
            "scale": f"{layer.layer.name}.input_scale",
            "zero_point": f"{layer.layer.name}.input_zero_point",
            "minimum": activation.minimum,
            "maximum": activation.maximum,
            "quant_min": activation.affine.grid.quant_min,
            "quant_max": activation.affine.grid.quant_max,
        },
        "statistics": {
            "weight_sqnr_db": layer.weight_sqnr_db,
            "original_bytes": layer.layer.bytes,
            "bytes": layer.bytes,
        },
    }


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sort_header(path: Path) -> None:
    """Order the header's keys in place: the library writes metadata in the order of a hash table, another each time."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        canonical = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(canonical) != length:
            raise ValueError("the header changed its length")
        file.seek(8)
        file.write(canonical)
