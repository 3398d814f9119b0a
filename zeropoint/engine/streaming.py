"""Quantize a file of weights tensor by tensor, block by block, and append the results to another file.

If each row has its own scales, blocks are quantized independently; else the whole tensor is read first to choose them.
Memory holds no whole tensor, except to find a percentile or mse range that spans all rows of one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zeropoint.errors import InvalidModel
from zeropoint.files.block_reader import StoredTensor
from zeropoint.files.chunks import ChunkStore
from zeropoint.files.stream_writer import TensorWriter
from zeropoint.layers.checkpoints import is_searched
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.selection import Choice
from zeropoint.layers.stored_tensors import weight_names
from zeropoint.layers.weights import (
    choose_weight_qparams,
    concatenate_rows,
    dequantize_weight,
    has_qparams_per_row,
    packed,
    quantize_weight_with,
    to_tensors,
    weight_blocks,
    weight_ranges,
)
from zeropoint.metrics.sqnr import Noise
from zeropoint.primitives.qparams import QParams, quant_type_for
from zeropoint.schema.job import ProgressCallback
from zeropoint.schema.recipe import CASTS, WeightSettings
from zeropoint.sources.weights import WeightsSource


@dataclass(frozen=True, kw_only=True)
class Streamed(Quantized):
    """A result whose tensors are in a file; in memory they have only shapes."""

    written_bytes: int

    @property
    def bytes(self) -> int:
        return self.written_bytes


def stream(
    source: WeightsSource,
    choices: Mapping[str, Choice],
    writer: TensorWriter,
    searched: ChunkStore[QParams],
    step: ProgressCallback,
) -> Iterator[QuantizedLayer]:
    """Append every tensor, and yield each quantized layer when it is done, without its values.

    `choices`: by weight name. `searched`: stores qparams that take long to find, and holds those of an earlier attempt.

    Raises InvalidModel when a weight isn't finite.
    """
    for done, (name, stored) in enumerate(source.files.items(), start=1):
        if name in choices:
            yield _stream_layer(choices[name], stored, writer, searched)
        else:
            writer.stream(name, stored.dtype, stored.shape, stored.blocks())
        step(done, len(source.files))


def _stream_layer(
    choice: Choice, stored: StoredTensor, writer: TensorWriter, searched: ChunkStore[QParams]
) -> QuantizedLayer:
    """Append a weight's quantized values, then their scale and zero point."""
    layer, settings, name = choice.layer, choice.weights, stored.name
    noise, parts = Noise(), list[QParams]()

    def quantized() -> Iterator[Tensor]:
        for block, qparams in _blocks(choice, stored, searched.take(layer.name)):
            encoded = quantize_weight_with(qparams, block, settings)
            noise.add(block, dequantize_weight(encoded, qparams))
            parts.extend([] if qparams is None else [qparams])
            yield packed(encoded, settings)

    outline = torch.empty(stored.shape, dtype=_dtype_of(settings), device="meta")
    packed_outline = packed(outline, settings)
    writer.stream(name, packed_outline.dtype, tuple(packed_outline.shape), quantized())
    if not parts:
        return QuantizedLayer(layer, settings, outline, None, None, noise.db)
    qparams = concatenate_rows(parts)
    for part, tensor in to_tensors(weight_names(layer), settings, outline, qparams).items():
        if part != name:
            writer.add(part, tensor)
    if is_searched(settings):
        searched.add(layer.name, qparams)
    scale, zero_point = qparams.scale.to("meta"), qparams.zero_point.to("meta")
    qparams = replace(qparams, scale=scale, zero_point=zero_point)
    return QuantizedLayer(layer, settings, outline, qparams, None, noise.db)


def _blocks(choice: Choice, stored: StoredTensor, known: QParams | None) -> Iterator[tuple[Tensor, QParams | None]]:
    """Yield the blocks of a weight [out, ...] with their qparams (None for a cast); `known` are those of all rows.

    Raises InvalidModel when a value isn't finite.
    """
    cast = choice.weights.dtype in CASTS
    if not cast and known is None and not has_qparams_per_row(choice.weights, _axis(choice)):
        known = _whole_qparams(choice, stored)
    for rows, block, qparams in weight_blocks(stored.blocks(), known):
        _require_finite(block, stored.name, rows.start)
        if not cast and qparams is None:
            qparams = _qparams(choice, _ranges(choice, block), len(block))
        yield block, qparams


def _whole_qparams(choice: Choice, stored: StoredTensor) -> QParams:
    """Choose the qparams of a weight whose scales span rows: min-max reads block by block, the others all at once."""
    if choice.weights.observer.kind != "minmax":
        return _qparams(choice, _ranges(choice, stored.whole()), stored.shape[0])
    lows, highs = zip(*(_ranges(choice, block) for block in stored.blocks()), strict=True)
    return _qparams(choice, (torch.stack(lows).amin(0), torch.stack(highs).amax(0)), stored.shape[0])


def _ranges(choice: Choice, values: Tensor) -> tuple[Tensor, Tensor]:
    return weight_ranges(values, choice.weights, _axis(choice), choice.layer.scale_dtype)


def _qparams(choice: Choice, ranges: tuple[Tensor, Tensor], out: int) -> QParams:
    return choose_weight_qparams(ranges, out, choice.weights, _axis(choice), choice.layer.scale_dtype)


def _axis(choice: Choice) -> int:
    return choice.layer.scale_axis(choice.weights.axis)


def _dtype_of(settings: WeightSettings) -> torch.dtype:
    if settings.dtype in CASTS:
        return getattr(torch, settings.dtype)  # type: ignore[no-any-return]
    return quant_type_for(settings.dtype, settings.scheme).dtype


def _require_finite(block: Tensor, name: str, row: int) -> None:
    bad = ~torch.isfinite(block)
    if bool(bad.any()):
        first, *rest = bad.nonzero()[0].tolist()
        raise InvalidModel(
            "non_finite_weights",
            f"Tensor {name!r} holds NaN or infinity, first at index {[row + first, *rest]}.",
            "Train or repair the model and upload it again.",
        )
