"""`model.safetensors`: quantized integers, scales and zero points under the layer's own names, described by the header.

    <layer>.weight        int8 [out, ...]      <layer>.weight_scale        float32 [out] or [], symmetric
    <layer>.input_scale   float32 []           <layer>.input_zero_point    int64 []

Every tensor that stays in float keeps its name, dtype and shape. The header has one JSON object `zeropoint` for the
file and one `zeropoint.layer.<name>` per quantized layer (docs/reference/artifacts.md). A tensor with two names is
stored once; `tied` maps the other name to the stored one. The same result always gives the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zeropoint.files.safetensors import save_tensors
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.metrics.sqnr import finite

SCHEMA_VERSION = 1
FILE_KEY = "zeropoint"
LAYER_KEY = "zeropoint.layer."


def write_safetensors(quantized: Quantized, path: Path) -> None:
    """Write the file. Raises OSError when the disk can't take it."""
    kept, tied = _without_aliases(quantized.tensors)
    save_tensors(kept, path, describe(quantized, tied))


def describe(quantized: Quantized, tied: Mapping[str, str]) -> dict[str, object]:
    """Return the header's JSON objects by key: for the file and each layer (docs/reference/artifacts.md)."""
    layers = {LAYER_KEY + layer.layer.name: _layer_metadata(layer) for layer in quantized.layers}
    return {FILE_KEY: _file_metadata(quantized, tied), **layers}


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


def _file_metadata(quantized: Quantized, tied: Mapping[str, str]) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": quantized.recipe.model_dump(mode="json"),
        "versions": quantized.versions,
        "architecture": {
            "quantized": {layer.layer.name: layer.layer.type for layer in quantized.layers},
            "float": {skipped.name: skipped.type for skipped in quantized.skipped},
        },
        "statistics": {"original_bytes": quantized.source.original_bytes, "quantized_bytes": quantized.bytes},
        "tied": tied,
    }


def _layer_metadata(layer: QuantizedLayer) -> dict[str, object]:
    activation = layer.activation
    return {
        "type": layer.layer.type,
        "operator": layer.layer.kind,
        "weight": _weight_metadata(layer),
        "activation": activation
        and activation.settings.model_dump(mode="json")
        | {
            "scale": f"{layer.layer.name}.input_scale",
            "zero_point": f"{layer.layer.name}.input_zero_point",
            "minimum": activation.minimum,
            "maximum": activation.maximum,
            "quant_min": activation.qparams.quant_type.quant_min,
            "quant_max": activation.qparams.quant_type.quant_max,
        },
        "statistics": {
            "weight_sqnr_db": finite(layer.weight_sqnr_db),
            "original_bytes": layer.layer.bytes,
            "bytes": layer.bytes,
        },
        **_corrections_metadata(layer),
    }


def _corrections_metadata(layer: QuantizedLayer) -> dict[str, object]:
    """Return the names of the stored correction tensors (see `zeropoint.layers.corrections`) that the layer has."""
    parts = {f"{layer.layer.name}.{part}": part for part in ("pre_quant_scale", "outlier_channels", "outlier_weight")}
    stored: dict[str, object] = {parts.get(name, "bias"): name for name in layer.corrections}
    return stored if layer.scaled_by is None else stored | {"scaled_by": layer.scaled_by}


def _weight_metadata(layer: QuantizedLayer) -> dict[str, object]:
    """Return settings, tensor names, axis and integer range of a weight; a cast has no scale and no range."""
    name, qparams = layer.layer.weight_name, layer.qparams
    metadata: dict[str, object] = layer.settings.model_dump(mode="json")
    metadata |= {"tensor": name, "shape": list(layer.weight.shape)}
    if qparams is None:
        return metadata
    stored_zero_point = layer.settings.scheme == "asymmetric"
    return metadata | {
        **({} if layer.rounding == "nearest" else {"rounding": layer.rounding}),
        "axis": qparams.axis,
        "scale": f"{name}_scale",
        "zero_point": f"{name}_zero_point" if stored_zero_point else qparams.quant_type.middle,
        "quant_min": qparams.quant_type.quant_min,
        "quant_max": qparams.quant_type.quant_max,
    }
