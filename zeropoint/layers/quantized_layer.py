"""One quantized layer: its integers and their qparams, the static qparams of its input, and its corrections."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zeropoint.files.mapped import MappedFile, trim
from zeropoint.layers.corrections import beside_weight, outlier_product, scaled
from zeropoint.layers.weights import dequantize_weight
from zeropoint.model.layer import TRANSPOSED, Layer
from zeropoint.observers.observer import QuantizationSpec
from zeropoint.primitives.qparams import QParams, quant_type_for
from zeropoint.schema.recipe import ActivationSettings, WeightSettings


@dataclass(frozen=True)
class Activation:
    """The static qparams of a layer's input or output, and the range they were chosen for."""

    settings: ActivationSettings
    qparams: QParams
    minimum: float
    maximum: float

    @classmethod
    def choose(
        cls, settings: ActivationSettings, spec: QuantizationSpec, minimum: Tensor, maximum: Tensor
    ) -> "Activation":
        """Choose the qparams for a range, both ends []."""
        return cls(settings, spec.choose_qparams(minimum, maximum), float(minimum), float(maximum))


def input_spec(layer: Layer, settings: ActivationSettings) -> QuantizationSpec:
    """Return how the layer's input, or its fused output, will be quantized."""
    return QuantizationSpec(quant_type_for(settings.dtype, settings.scheme), settings.scheme, layer.scale_dtype)


Rounding = Literal["nearest", "gptq", "limited"]
"""nearest: every rounding error is at most half a step. Some are larger with gptq, to compensate for earlier columns,
and with limited, where two products would not fit in 16 bits (`algorithms.pair_limits`)."""


@dataclass(frozen=True)
class Outliers:
    """Input channels that stay in float: y += x[..., channels] · weightᵀ, where x is the input of the float layer."""

    channels: Tensor
    """int64 [k]"""
    weight: Tensor
    """[out, k] in the layer's own dtype; the same columns of the quantized weight are 0."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer with its weight [out, ...] quantized to the recipe's dtype, and the qparams (None for a cast).

    y = layer(x̂, ŵ) + bias [+ outliers], where x̂ is x · pre_quant_scale, quantized with the activation's qparams.
    """

    layer: Layer
    settings: WeightSettings
    weight: Tensor
    qparams: QParams | None
    activation: Activation | None
    weight_sqnr_db: float | None
    output: Activation | None = None
    """The qparams of its fused output (`graph.fused_outputs`), for formats that write results as integers too."""
    file: MappedFile | None = None
    """The file that holds the quantized weight, if one does (`spill_to_disk`)."""
    bias: Tensor | None = None
    """[out] in place of the layer's own bias, if it has one; None leaves that as it is."""
    pre_quant_scale: Tensor | None = None
    """float32 [in]: the input is multiplied by it before it is quantized, and the weight was divided by it."""
    scaled_by: str | None = None
    """The normalization whose weight and bias hold `pre_quant_scale`; None: the input is multiplied at run time."""
    outliers: Outliers | None = None
    rounding: Rounding = "nearest"
    limited_outputs: int = 0
    """Outputs whose weights `algorithms.pair_limits` changed."""

    @property
    def dequantized_weight(self) -> Tensor:
        """The weight that the quantized layer computes with, float32 [out, ...]."""
        return dequantize_weight(self.weight, self.qparams)

    @property
    def effective_weight(self) -> Tensor:
        """ŵ · pre_quant_scale with the outliers' columns, float32 [out, ...], to be compared with the float weight."""
        weight = self.dequantized_weight
        if self.pre_quant_scale is not None:
            weight = weight * self._beside_weight(self.pre_quant_scale)
        if self.outliers is not None:
            weight = weight.index_add(1, self.outliers.channels, self.outliers.weight.float())
        return weight

    @property
    def target_weight(self) -> Tensor:
        """The weight [out, ...] to quantize: the float weight / pre_quant_scale in float32, outlier columns 0."""
        weight = self.layer.weight.cpu()
        if self.pre_quant_scale is not None:
            weight = weight.float() / self._beside_weight(self.pre_quant_scale)
        return weight if self.outliers is None else weight.index_fill(1, self.outliers.channels, 0)

    def scale_input(self, values: Tensor) -> Tensor:
        """Return an input [..., in, ...] of the float layer times `pre_quant_scale`, in the same dtype."""
        scale = self.pre_quant_scale
        return values if scale is None else scaled(values, scale, self.layer.weight.dim() - 2)

    def outlier_output(self, values: Tensor) -> Tensor | float:
        """Return what the channels in float of an input [..., in] of the float layer add to the output."""
        return 0.0 if self.outliers is None else outlier_product(values, self.outliers.channels, self.outliers.weight)

    def _beside_weight(self, scale: Tensor) -> Tensor:
        return beside_weight(scale, self.weight.shape, transposed=self.layer.kind in TRANSPOSED)

    def release(self) -> None:
        """Release the memory of tensors that lie in files; it is read again when it is needed."""
        for file in (self.layer.file, self.file):
            if file is not None:
                file.release()
        if self.file is not None:
            trim()
