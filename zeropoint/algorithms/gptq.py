"""GPTQ: round a weight column by column, and let later columns compensate for the error so far.

    min ‖(W − Ŵ) · X̂‖²,   H = X̂ · X̂ᵀ,   W[:, j+1:] −= (w_j − ŵ_j) / U_jj · U[j, j+1:],   UᵀU = H⁻¹ (Cholesky, upper)

Source: Frantar et al., "GPTQ" (ICLR 2023), algorithm 1, with columns in the order of falling H_jj and λ = damping ·
mean(diag H) added to the diagonal. X̂ is the layer's input in the quantized model. Scales and zero points don't change.

Layers that read the same values share H and are rounded together. H is [in, in]: layers are processed in rounds whose
H fit in `MAX_BYTES`, with one forward pass per round. A convolution is a linear layer of the `patches` of its input,
with an H for each group.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from zeropoint.algorithms.context import AlgorithmContext, Layers, targeted, watch_inputs
from zeropoint.algorithms.patches import patches
from zeropoint.data.padding import visible
from zeropoint.layers.quantize import with_quantized_values
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.primitives.qparams import QuantType
from zeropoint.schema.algorithms import Gptq
from zeropoint.simulation.fake_quant import quantize_input, simulated

MAX_BYTES = 2**30
BLOCK = 128
CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
MOST_PATCHES = 2**14
"""Patches that a convolution's H is the sum of, about: neighbours overlap, and 1 % of damping is added to it."""
MOST_COLUMNS = 4608
"""Columns of a convolution that is rounded: 512 channels of 3 × 3. Time rises with their cube."""


def round_by_gptq(settings: Gptq, context: AlgorithmContext, layers: Layers) -> Layers:
    """Return the integer linears and convolutions, rounded again."""
    eligible = {name: layer for name, layer in targeted(layers, settings.layer_types).items() if _can(layer)}
    groups: dict[tuple[str, str], list[str]] = {}
    for name, layer in eligible.items():
        kind = layer.settings.model_dump_json()
        source = context.sharing.get(name, name) if layer.layer.kind == "Linear" else name  # kernels read other patches
        groups.setdefault((source, kind), []).append(name)
    changed: dict[str, QuantizedLayer] = {}
    for together in _rounds(eligible, groups.values()):
        moments = _moments(context, layers, [names[0] for names in together])
        for names in together:
            if names[0] in moments:
                changed |= _rounded([eligible[name] for name in names], moments[names[0]], settings.damping)
    return changed


def _rounded(layers: Sequence[QuantizedLayer], moments: Tensor, damping: float) -> dict[str, QuantizedLayer]:
    """Return these layers, rounded for inputs with the moments H: [columns, columns], or one for each group."""
    weight = torch.cat([layer.target_weight.float().flatten(1) for layer in layers])
    scale, zero_point = (torch.cat([_of_rows(layer, part) for layer in layers]) for part in ("scale", "zero_point"))
    quant_type = layers[0].qparams.quant_type if layers[0].qparams is not None else None
    assert quant_type is not None
    groups = moments.reshape(-1, *moments.shape[-2:])
    chunks = (torch.chunk(values, len(groups)) for values in (weight, scale, zero_point.float()))
    of_groups = zip(*chunks, groups, strict=True)
    values = torch.cat([optimal(w, s, z, quant_type, damped(own, damping)) for w, s, z, own in of_groups])
    parts = torch.split(values.to(quant_type.dtype), [layer.weight.shape[0] for layer in layers])
    rounded = (
        replace(with_quantized_values(layer, _as_weight(part, layer.weight)), rounding="gptq")
        for layer, part in zip(layers, parts, strict=True)
    )
    return {layer.layer.name: layer for layer in rounded}


def _as_weight(part: Tensor, weight: Tensor) -> Tensor:
    """Return quantized values [out, columns] in the shape of a weight; a kernel's also have its strides."""
    return part.clone() if weight.dim() == 2 else torch.empty_like(weight).copy_(part.reshape(weight.shape))


def damped(moments: Tensor, damping: float) -> Tensor:
    """Return H + λ, float32 [in, in]; channels that are always 0 get 1 on the diagonal."""
    diagonal = moments.diagonal()
    more = (diagonal == 0).float() + damping * diagonal.mean()
    return moments + torch.diag(more)


def optimal(weight: Tensor, scale: Tensor, zero_point: Tensor, quant_type: QuantType, moments: Tensor) -> Tensor:
    """Return the quantized values, float32 [rows, in], of a weight [rows, in] for H float32 [in, in].

    `scale` and `zero_point` are [rows, in or 1]. Raises torch.linalg.LinAlgError when H is not positive definite.
    """
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    upper = inverse_factor(moments[order][:, order])
    # transposed, so that a column and its scales are contiguous
    remaining = weight[:, order].T.contiguous()
    steps, zeros = (values.expand(weight.shape)[:, order].T.contiguous() for values in (scale, zero_point))
    quantized, low, high = torch.empty_like(remaining), quant_type.quant_min, quant_type.quant_max
    for start in range(0, len(remaining), BLOCK):
        stop = min(start + BLOCK, len(remaining))
        errors = torch.empty_like(remaining[start:stop])
        for row in range(start, stop):
            rounded = (remaining[row] * (1 / steps[row])).round_().add_(zeros[row]).clamp_(low, high)
            quantized[row] = rounded
            error = (remaining[row] - (rounded - zeros[row]) * steps[row]).div_(upper[row, row])
            errors[row - start] = error
            remaining[row:stop].addr_(upper[row, row:stop], error, alpha=-1)
        remaining[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return quantized.T[:, torch.argsort(order)].contiguous()


def inverse_factor(moments: Tensor) -> Tensor:
    """Return U, float32 [in, in], upper, with UᵀU = H⁻¹.

    It is the inverse of A in H = A·Aᵀ, the Cholesky factor with rows and columns in reverse order.
    """
    lower, failed = torch.linalg.cholesky_ex(moments.flip(0, 1))
    if bool(failed):  # float32 was not enough
        lower = torch.linalg.cholesky(moments.flip(0, 1).double())
    factor: Tensor = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)
    return factor.flip(0, 1).float()


def _of_rows(layer: QuantizedLayer, part: str) -> Tensor:
    """Return a `part` of the qparams, expanded to each row and column of the weight: [out, columns]."""
    assert layer.qparams is not None
    values: Tensor = getattr(layer.qparams, part)
    if layer.qparams.group_size is not None:
        return values.repeat_interleave(layer.qparams.group_size, dim=1)
    rows, columns = layer.weight.flatten(1).shape
    return values.reshape(-1, 1).expand(rows, columns)


def _moments(context: AlgorithmContext, layers: Layers, names: Sequence[str]) -> dict[str, Tensor]:
    """Return X̂ · X̂ᵀ, float32 [in, in], of each layer's input in the quantized model, over the calibration samples.

    Those of a convolution are [groups, columns, columns], with in / groups · taps columns.
    """
    moments: dict[str, Tensor] = {}

    def add(name: str, values: Tensor, mask: Tensor | None) -> None:
        read, module = quantize_input(values, layers[name]), layers[name].layer.module
        if isinstance(module, _ConvNd):
            rows = patches(module, read, MOST_PATCHES // max(len(context.calibration), 1)).float()
        else:
            rows = visible(read, mask).float()
            rows = rows.reshape(-1, rows.shape[-1])
        product = (rows.mT @ rows).cpu()
        moments[name] = moments[name] + product if name in moments else product

    with simulated(layers.values()):
        watch_inputs(context, {name: layers[name] for name in names}, add)
    return moments


def _can(layer: QuantizedLayer) -> bool:
    qparams = layer.qparams
    if qparams is None or qparams.quant_type.dtype.is_floating_point or qparams.axis not in (None, 0):
        return False
    columns = layer.weight.numel() // max(len(layer.weight), 1)
    return layer.layer.kind == "Linear" or (layer.layer.kind in CONVOLUTIONS and columns <= MOST_COLUMNS)


def _rounds(layers: Mapping[str, QuantizedLayer], groups: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Yield rounds of groups whose moments fit in memory together."""
    together: list[list[str]] = []
    size = 0
    for names in groups:
        layer = layers[names[0]]
        matrices = int(getattr(layer.layer.module, "groups", 1))
        bytes_needed = 4 * matrices * (layer.weight.numel() // len(layer.weight)) ** 2
        if together and size + bytes_needed > MAX_BYTES:
            yield together
            together, size = [], 0
        together.append(names)
        size += bytes_needed
    if together:
        yield together
