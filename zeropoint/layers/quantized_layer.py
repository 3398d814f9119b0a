"""What quantization makes of a layer, and of a model: integers, the grids they live on, and what it cost."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from zeropoint.files.mapped import MappedFile, trim
from zeropoint.layers.corrections import beside_weight, outlier_product, scaled
from zeropoint.layers.weights import dequantize_weight, to_tensors
from zeropoint.model.layer import TRANSPOSED, Layer
from zeropoint.observers.observer import QuantizationSpec
from zeropoint.primitives.qparams import QParams, quant_type_for
from zeropoint.schema.recipe import ActivationSettings, WeightSettings


@dataclass(frozen=True)
class Activation:
    """The static grid of a layer's input, and the range it came from."""

    settings: ActivationSettings
    qparams: QParams
    minimum: float
    maximum: float

    @classmethod
    def over(
        cls, settings: ActivationSettings, target: QuantizationSpec, minimum: Tensor, maximum: Tensor
    ) -> "Activation":
        """The grid over a range, both ends []."""
        return cls(settings, target.choose_qparams(minimum, maximum), float(minimum), float(maximum))


def input_spec(layer: Layer, settings: ActivationSettings) -> QuantizationSpec:
    """What the range of the layer's input, or of its outlet, will become."""
    return QuantizationSpec(quant_type_for(settings.dtype, settings.scheme), settings.scheme, layer.scale_dtype)


Rounding = Literal["nearest", "gptq"]
"""nearest: no number is further than half a step from its weight. gptq: each may be, to make up for those before it."""


@dataclass(frozen=True)
class Outliers:
    """Input channels that stay in float: y += x[..., channels] · weightᵀ, of x as the float layer is given it."""

    channels: Tensor
    """int64 [k]"""
    weight: Tensor
    """[out, k] in the layer's own dtype; the same columns of the numbers mean 0."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer with its weight [out, ...] as numbers of the recipe's dtype, on their grid (None for a cast).

    y = layer(x̂, ŵ) + bias [+ outliers], x̂ = x · pre_quant_scale on the activation's grid.
    """

    layer: Layer
    settings: WeightSettings
    weight: Tensor
    qparams: QParams | None
    activation: Activation | None
    weight_sqnr_db: float | None
    output: Activation | None = None
    """The grid at its outlet (`sources.fused_outputs`), for formats that write results as integers too."""
    file: MappedFile | None = None
    """Where the numbers lie, if they lie in a file (`spilling`)."""
    bias: Tensor | None = None
    """[out] in place of the layer's own bias, or where it has none; None leaves it."""
    pre_quant_scale: Tensor | None = None
    """float32 [in]: the input is multiplied by it before its grid, and the weight was divided by it."""
    scaled_by: str | None = None
    """The normalization whose weight and bias carry `pre_quant_scale`, so that nothing multiplies; None: a product."""
    outliers: Outliers | None = None
    rounding: Rounding = "nearest"

    @property
    def dequantized_weight(self) -> Tensor:
        """float32 [out, ...], what the quantized layer computes with."""
        return dequantize_weight(self.weight, self.qparams)

    @property
    def effective_weight(self) -> Tensor:
        """float32 [out, ...]: ŵ · pre_quant_scale with the outliers' columns, to be compared with the float weight."""
        weight = self.dequantized_weight
        if self.pre_quant_scale is not None:
            weight = weight * self._beside_weight(self.pre_quant_scale)
        if self.outliers is not None:
            weight = weight.index_add(1, self.outliers.channels, self.outliers.weight.float())
        return weight

    @property
    def target_weight(self) -> Tensor:
        """[out, ...]: what was laid on the grid: the float weight / pre_quant_scale in float32, outlier columns 0."""
        weight = self.layer.weight.cpu()
        if self.pre_quant_scale is not None:
            weight = weight.float() / self._beside_weight(self.pre_quant_scale)
        return weight if self.outliers is None else weight.index_fill(1, self.outliers.channels, 0)

    @property
    def bias_name(self) -> str:
        """The stored name of the layer's bias, also where only quantization gives it one."""
        return self.layer.bias_name or f"{self.layer.name}.bias"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is stored in place of the float weight, by name, and beside it (`corrections`)."""
        stored = to_tensors(str(self.layer.weight_name), self.settings, self.weight, self.qparams)
        if self.activation is not None:
            stored[f"{self.layer.name}.input_scale"] = self.activation.qparams.scale
            stored[f"{self.layer.name}.input_zero_point"] = self.activation.qparams.zero_point
        return stored | self.corrections

    @property
    def corrections(self) -> dict[str, Tensor]:
        """What error compensation stores beside the numbers, by name."""
        name, stored = self.layer.name, dict[str, Tensor]()
        if self.pre_quant_scale is not None:
            stored[f"{name}.pre_quant_scale"] = self.pre_quant_scale
        if self.outliers is not None and self.outlier_weight is not None:
            stored[f"{name}.outlier_channels"] = self.outliers.channels
            stored[f"{name}.outlier_weight"] = self.outlier_weight
        if self.bias is not None:
            stored[self.bias_name] = self.bias
        return stored

    @property
    def outlier_weight(self) -> Tensor | None:
        """[out, k] of the inputs in float as the stored layer is given them: multiplied, where a normalization does."""
        if self.outliers is None or self.pre_quant_scale is None or self.scaled_by is None:
            return None if self.outliers is None else self.outliers.weight
        weight = self.outliers.weight
        return (weight.float() / self.pre_quant_scale[self.outliers.channels]).to(weight.dtype)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of what is stored in place of the float weight, by name; no number is read for it."""
        outline = replace(self, weight=self.weight.to("meta"))
        return {name: tensor.nbytes for name, tensor in outline.tensors.items()}

    @property
    def bytes(self) -> int:
        """Bytes of what is stored for this layer, the float bias included."""
        own = 0 if self.layer.bias is None or self.bias is not None else self.layer.bias.nbytes
        return sum(self.sizes.values()) + own

    def scale_input(self, values: Tensor) -> Tensor:
        """What the float layer is given [..., in, ...] -> what is laid on the grid of its input, in the same dtype."""
        scale = self.pre_quant_scale
        return values if scale is None else scaled(values, scale, self.layer.weight.dim() - 2)

    def outlier_output(self, values: Tensor) -> Tensor | float:
        """What the inputs that stay in float add to the output, of what the float layer is given [..., in]."""
        return 0.0 if self.outliers is None else outlier_product(values, self.outliers.channels, self.outliers.weight)

    def _beside_weight(self, scale: Tensor) -> Tensor:
        return beside_weight(scale, self.weight.shape, transposed=self.layer.kind in TRANSPOSED)

    def release(self) -> None:
        """Give back the memory of what lies in files, once it was read: it is read again when it is needed."""
        for file in (self.layer.file, self.file):
            if file is not None:
                file.release()
        if self.file is not None:
            trim()
