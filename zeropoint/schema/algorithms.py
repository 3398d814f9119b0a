"""What a recipe says of algorithms: which pieces to try, in which order. Torch-free; `algorithms` does them.

`layer_types` of a piece: the layers that it looks at, by the type of the source or by what they compute.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from zeropoint.schema.frozen import Frozen

TypeName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
TypeNames = Annotated[tuple[TypeName, ...], Field(min_length=1, max_length=100)]


class FoldNormalization(Frozen):
    """A batch normalization behind a convolution goes into its weight and bias."""

    kind: Literal["fold_normalization"] = "fold_normalization"


class MseClipping(Frozen):
    """Activation ranges with the least quantization error in place of the recipe's observer."""

    kind: Literal["mse_clipping"] = "mse_clipping"
    layer_types: TypeNames = ("Conv1d", "Conv2d", "Conv3d")


class Smoothing(Frozen):
    """Moves the spread of input channels into the weight: `alpha` 0 none of it, 1 all."""

    kind: Literal["smoothing"] = "smoothing"
    alpha: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.8
    layer_types: TypeNames = ("Linear",)


class OutlierSplit(Frozen):
    """The `channels` input channels with the largest range go through a small product in float."""

    kind: Literal["outlier_split"] = "outlier_split"
    channels: Annotated[int, Field(ge=1, le=256)] = 4
    layer_types: TypeNames = ("Linear",)


class Gptq(Frozen):
    """Rounds a weight column by column, each error made up for by the columns that follow."""

    kind: Literal["gptq"] = "gptq"
    damping: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.01
    layer_types: TypeNames = ("Linear",)


class Awq(Frozen):
    """Scales weight columns that meet large inputs up before they are rounded; for weight-only recipes."""

    kind: Literal["awq"] = "awq"
    layer_types: TypeNames = ("Linear",)


class BiasCorrection(Frozen):
    """Takes the mean error of each output out of the layer's bias, layer after layer in one pass."""

    kind: Literal["bias_correction"] = "bias_correction"


class MixedPrecision(Frozen):
    """Leaves in float what makes over `min_ratio` times more noise than work (shares of the model's noise and of its
    multiply-accumulates), at most `max_share` of the work and of the weights, until the model is predicted to reach
    `until_db`."""

    kind: Literal["mixed_precision"] = "mixed_precision"
    min_ratio: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 1.5
    max_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    until_db: Annotated[float, Field(ge=-100, le=400, allow_inf_nan=False)] = 40.0


AlgorithmSettings = Annotated[
    FoldNormalization | MseClipping | Smoothing | OutlierSplit | Gptq | Awq | BiasCorrection | MixedPrecision,
    Field(discriminator="kind"),
]

NEEDS_SAMPLES = ("mse_clipping", "smoothing", "outlier_split", "gptq", "awq", "bias_correction", "mixed_precision")
"""All but those that change nothing but the form of the float model."""
NEEDS_HISTOGRAMS = ("mse_clipping",)
NEEDS_CHANNELS = ("smoothing", "outlier_split", "awq")
