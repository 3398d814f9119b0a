"""The compressed-tensors format: the tensors stored for a quantized Linear, and the config that describes them.

    int-quantized     weight int8 [out, in], with static int8 activations
    float-quantized   weight float8_e4m3 [out, in], with static float8 activations
    naive-quantized   weight float8_e4m3 [out, in], activations in float
    pack-quantized    weight_packed int32 [out, in · bits / 32] of int8 or int4, weight_shape int64 [2]

Scales keep the layer's own dtype: weight_scale [out, 1], [1] or [out, groups], input_scale [1]. Integers are signed:
uint8 values and zero points are both shifted down by 128, so they represent the same numbers. Source: the project
compressed-tensors 0.19 to 0.20, and checkpoints that llm-compressor wrote (tests/zeropoint/formats/llmcompressor/).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.packing import pack_int4
from zeropoint.primitives.qparams import QParams
from zeropoint.schema.recipe import ActivationSettings, WeightSettings

TARGET = "Linear"
_STRATEGIES = {"per_channel": "channel", "per_tensor": "tensor", "per_group": "group"}
_OBSERVERS = {"minmax": "minmax", "mse": "mse"}


def format_of(weights: WeightSettings, activations: ActivationSettings | None) -> str:
    """Return the name of the format that holds layers with these settings."""
    if weights.dtype == "float8_e4m3":
        return "naive-quantized" if activations is None else "float-quantized"
    return "pack-quantized" if activations is None else "int-quantized"


def compressed(layer: QuantizedLayer) -> dict[str, Tensor]:
    """Return the tensors that replace the weight of a Linear [out, in], by their names within the layer."""
    qparams = layer.qparams
    assert qparams is not None
    packed = format_of(layer.settings, _activations(layer)) == "pack-quantized"
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
    return {part: tensor.contiguous() for part, tensor in (parts | _input_parts(layer)).items()}


def pack(integers: Tensor, bits: int) -> Tensor:
    """Pack int8 [rows, n] of 4 or 8 bits into int32 [rows, ⌈n · bits / 32⌉], the first value in the lowest bits.

    Each value is shifted up by 2^(bits − 1) to make it unsigned; after the shift, rows are padded with zeros.
    """
    lowest = -(2 ** (bits - 1))
    padded = pad(integers, (0, -integers.shape[1] % (32 // bits)), value=lowest)
    data = pack_int4(padded) if bits == 4 else (padded.to(torch.int16) - lowest).to(torch.uint8)
    return data.flatten().view(torch.int32).reshape(integers.shape[0], -1)


def quantization_config(layers: Sequence[QuantizedLayer], linears: Iterable[str]) -> dict[str, Any]:
    """Return `quantization_config` of config.json. `linears`: the names of every Linear of the network.

    If all layers share one scheme, its target is every Linear except those in `ignore`; otherwise each scheme names its
    layers.
    """
    schemes: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for layer in layers:
        scheme = _scheme(layer)
        schemes.setdefault(str(scheme), (scheme, []))[1].append(layer.layer.name)
    formats = sorted({scheme["format"] for scheme, _ in schemes.values()})
    quantized = {layer.layer.name for layer in layers}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats[0] if len(formats) == 1 else "mixed-precision",
        "config_groups": {
            f"group_{number}": scheme | {"targets": [TARGET] if len(schemes) == 1 else names}
            for number, (scheme, names) in enumerate(schemes.values())
        },
        "ignore": [name for name in linears if name not in quantized],
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
    }


def _scheme(layer: QuantizedLayer) -> dict[str, Any]:
    activations = _activations(layer)
    weights = _arguments(layer.settings) | {
        "num_bits": _bits(layer.settings),
        "strategy": _STRATEGIES[layer.settings.granularity],
        "group_size": layer.settings.group_size,
    }
    return {
        "format": format_of(layer.settings, activations),
        "weights": weights,
        "input_activations": activations and _arguments(activations),
        "output_activations": None,
    }


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
