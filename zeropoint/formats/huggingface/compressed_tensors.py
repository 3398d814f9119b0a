"""The compressed-tensors format: the tensors stored for a quantized Linear, and the config that describes them.

    int-quantized     weight int8 [out, in], with static int8 activations
    float-quantized   weight float8_e4m3 [out, in], with static float8 activations
    naive-quantized   weight float8_e4m3 [out, in], activations in float
    pack-quantized    weight_packed int32 [out, in · bits / 32] of int8 or int4, weight_shape int64 [2]

transformers' Conv1D has weights [in, out] and scales [1, out]. compressed-tensors knows no such module, but with
"dequantize" in its config transformers dequantizes any `weight` that has a `weight_scale` beside it. So a network with
such layers has one of the plain formats, int-quantized or naive-quantized, and no scales of inputs.

Merged experts [experts, out, in] are stored one by one under the names of the upload. transformers dequantizes them
while it merges them, from packed integers or from float8, and takes the scheme whose target names experts.

Scales keep the layer's own dtype: weight_scale [out, 1], [1] or [out, groups], input_scale [1]. Integers are signed:
uint8 values and zero points are both shifted down by 128, so they represent the same numbers. Source: the project
compressed-tensors 0.19 to 0.20, and checkpoints that llm-compressor wrote (tests/zeropoint/formats/llmcompressor/).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.weights import slice_rows
from zeropoint.primitives.packing import pack_int4
from zeropoint.primitives.qparams import QParams
from zeropoint.schema.recipe import ActivationSettings, WeightSettings

EXPERTS = r"re:.*\.experts\.\d+\..*"
"""The target of experts: transformers looks for one that is a pattern with this word."""
_STRATEGIES = {"per_channel": "channel", "per_tensor": "tensor", "per_group": "group"}
_OBSERVERS = {"minmax": "minmax", "mse": "mse"}


def format_of(weights: WeightSettings, activations: ActivationSettings | None, *, plain: bool = False) -> str:
    """Return the name of the format that holds layers with these settings; `plain`: one with a value in each byte."""
    if weights.dtype == "float8_e4m3":
        return "naive-quantized" if activations is None else "float-quantized"
    return "pack-quantized" if activations is None and not plain else "int-quantized"


def compressed(layer: QuantizedLayer) -> dict[str, Tensor]:
    """Return the tensors that replace the weight of a Linear [out, in], by their names within the layer."""
    qparams = layer.qparams
    assert qparams is not None
    packed = _format(layer) == "pack-quantized"
    parts = {"weight_scale": _as_columns(qparams.scale).to(layer.layer.scale_dtype)}
    if packed:
        bits = _bits(layer.settings)
        parts["weight_packed"] = pack(_signed(layer.weight), bits)
        parts["weight_shape"] = torch.tensor(layer.weight.shape)
    else:
        parts["weight"] = _signed(layer.weight)
    if layer.settings.scheme == "asymmetric":
        zero_point = _as_columns(_signed_zero_point(qparams.zero_point, qparams))
        in_rows = packed and qparams.scale.dim() > 0
        parts["weight_zero_point"] = pack(zero_point.T, _bits(layer.settings)).T if in_rows else zero_point
    if layer.layer.transposed:
        parts = {part: tensor.t() if tensor.dim() > 1 else tensor for part, tensor in parts.items()}
    return {part: tensor.contiguous() for part, tensor in (parts | _input_parts(layer)).items()}


def expert(layer: QuantizedLayer, rows: slice) -> QuantizedLayer:
    """Return the part of merged experts [experts · out, in] that is one of their weights."""
    qparams = None if layer.qparams is None else slice_rows(layer.qparams, rows)
    return replace(layer, weight=layer.weight[rows], qparams=qparams)


def pack(integers: Tensor, bits: int) -> Tensor:
    """Pack int8 [rows, n] of 4 or 8 bits into int32 [rows, ⌈n · bits / 32⌉], the first value in the lowest bits.

    Each value is shifted up by 2^(bits − 1) to make it unsigned; after the shift, rows are padded with zeros.
    """
    lowest = -(2 ** (bits - 1))
    padded = pad(integers, (0, -integers.shape[1] % (32 // bits)), value=lowest)
    data = pack_int4(padded) if bits == 4 else (padded.to(torch.int16) - lowest).to(torch.uint8)
    return data.flatten().view(torch.int32).reshape(integers.shape[0], -1)


def quantization_config(layers: Sequence[QuantizedLayer], modules: Mapping[str, str]) -> dict[str, Any]:
    """Return `quantization_config` of config.json. `modules`: name -> type of every layer that a target could mean.

    If all layers share one scheme, its target is their types except those in `ignore`; otherwise each scheme names its
    layers. Experts have a scheme of their own.
    """
    dense = [layer for layer in layers if not layer.layer.is_held]
    groups = _schemes(dense)
    types = sorted({layer.layer.type for layer in dense})
    targets = [types] if len(groups) == 1 else [names for _, names in groups]
    schemes = [scheme | {"targets": names} for (scheme, _), names in zip(groups, targets, strict=True)]
    schemes += [scheme | {"targets": [EXPERTS]} for scheme, _ in _schemes([n for n in layers if n.layer.is_held])]
    formats = sorted({scheme["format"] for scheme in schemes})
    quantized = {layer.layer.name for layer in layers}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats[0] if len(formats) == 1 else "mixed-precision",
        "config_groups": {f"group_{number}": scheme for number, scheme in enumerate(schemes)},
        "ignore": [name for name in modules if name not in quantized],
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        **({"dequantize": True} if _must_dequantize(dense) else {}),
    }


def _must_dequantize(dense: Sequence[QuantizedLayer]) -> bool:
    """Return whether transformers must dequantize the layers as it opens them, for which they share one scheme.

    Modules with packed weights have no place for zero points, and no `weight`, which some networks read.
    """
    packed = [layer for layer in dense if _format(layer) == "pack-quantized"]
    asymmetric = any(layer.settings.scheme == "asymmetric" for layer in packed)
    needed = asymmetric or any(layer.layer.stored_alike == "packed" for layer in packed)
    return needed or any(layer.layer.input_in_float for layer in dense)


def _schemes(layers: Iterable[QuantizedLayer]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the schemes of layers, each with the names of its layers."""
    schemes: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for layer in layers:
        scheme = _scheme(layer)
        schemes.setdefault(str(scheme), (scheme, []))[1].append(layer.layer.name)
    return list(schemes.values())


def _scheme(layer: QuantizedLayer) -> dict[str, Any]:
    activations = _activations(layer)
    weights = _arguments(layer.settings) | {
        "num_bits": _bits(layer.settings),
        "strategy": _STRATEGIES[layer.settings.granularity],
        "group_size": layer.settings.group_size,
    }
    return {
        "format": _format(layer),
        "weights": weights,
        "input_activations": activations and _arguments(activations),
        "output_activations": None,
    }


def _format(layer: QuantizedLayer) -> str:
    return format_of(layer.settings, _activations(layer), plain=layer.layer.input_in_float)


def _arguments(settings: WeightSettings | ActivationSettings) -> dict[str, Any]:
    symmetric = settings.scheme == "symmetric"
    return {
        "type": "float" if settings.dtype == "float8_e4m3" else "int",
        "num_bits": 8,
        "symmetric": symmetric,
        "strategy": "tensor",
        "group_size": None,
        "dynamic": False,
        "observer": _OBSERVERS.get(settings.observer.kind),
        "observer_kwargs": {},
        "actorder": None,
        "block_structure": None,
        "scale_dtype": None,
        "zp_dtype": None if symmetric else "torch.int8",
    }


def _activations(layer: QuantizedLayer) -> ActivationSettings | None:
    return None if layer.activation is None else layer.activation.settings


def _bits(settings: WeightSettings) -> int:
    return 4 if settings.dtype == "int4" else 8


def _input_parts(layer: QuantizedLayer) -> dict[str, Tensor]:
    if layer.activation is None:
        return {}
    qparams = layer.activation.qparams
    parts = {"input_scale": qparams.scale.reshape(1).to(layer.layer.scale_dtype)}
    if layer.activation.settings.scheme == "asymmetric":
        parts["input_zero_point"] = _signed_zero_point(qparams.zero_point, qparams).reshape(1)
    return parts


def _as_columns(values: Tensor) -> Tensor:
    """Reshape [] -> [1] and [out] -> [out, 1]; groups stay [out, groups]."""
    return values.reshape(1) if values.dim() == 0 else values.reshape(values.shape[0], -1)


def _signed(integers: Tensor) -> Tensor:
    """Shift uint8 down by 128 to int8; return other dtypes unchanged."""
    return (integers.to(torch.int16) - 128).to(torch.int8) if integers.dtype == torch.uint8 else integers


def _signed_zero_point(zero_point: Tensor, qparams: QParams) -> Tensor:
    return (zero_point - (128 if qparams.quant_type.dtype == torch.uint8 else 0)).to(torch.int8)
