"""Algorithms in a recipe: which to try, and in which order. Torch-free; `zeropoint.algorithms` implements them.

`layer_types` limits an algorithm to these layers, by their class in the source or by the operator they compute.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from zeropoint.schema.frozen import Frozen

TypeName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
TypeNames = Annotated[tuple[TypeName, ...], Field(min_length=1, max_length=100)]


class FoldNormalization(Frozen):
    """Fold a batch normalization after a convolution into its weight and bias."""

    kind: Literal["fold_normalization"] = "fold_normalization"


class Equalization(Frozen):
    """Give the channels between two layers similar ranges by powers of two, which the first layer's scales absorb."""

    kind: Literal["equalization"] = "equalization"
    layer_types: TypeNames = (
        *("Linear", "Conv1d", "Conv2d", "Conv3d"),
        *("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    )


class MseClipping(Frozen):
    """Choose activation ranges with the least quantization error, in place of the recipe's observer.

    `ignore_outliers`: values further out than twice what 98 % of them need don't count.
    """

    kind: Literal["mse_clipping"] = "mse_clipping"
    layer_types: TypeNames = ("Conv1d", "Conv2d", "Conv3d")
    ignore_outliers: bool = False


class Smoothing(Frozen):
    """Move the spread of input channels into the weight: `alpha` 0 moves none of it, 1 all."""

    kind: Literal["smoothing"] = "smoothing"
    alpha: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.8
    layer_types: TypeNames = ("Linear",)


class OutlierSplit(Frozen):
    """Compute the `channels` input channels with the largest range in float."""

    kind: Literal["outlier_split"] = "outlier_split"
    channels: Annotated[int, Field(ge=1, le=256)] = 4
    layer_types: TypeNames = ("Linear",)


class Gptq(Frozen):
    """Round a weight column by column, compensating each error in the columns that follow."""

    kind: Literal["gptq"] = "gptq"
    damping: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.01
    layer_types: TypeNames = ("Linear",)


class Awq(Frozen):
    """Scale weight columns with large inputs up before rounding; for weight-only recipes."""

    kind: Literal["awq"] = "awq"
    layer_types: TypeNames = ("Linear",)


class BiasCorrection(Frozen):
    """Subtract the mean error of each output from the layer's bias, layer after layer in one pass."""

    kind: Literal["bias_correction"] = "bias_correction"


class MixedPrecision(Frozen):
    """Leave the noisiest layers in float until the model is predicted to reach `until_db`.

    A layer qualifies if its share of the model's noise is over `min_ratio` times its share of the multiply-accumulates;
    at most `max_share` of the multiply-accumulates, and of the weights, stay in float.
    """

    kind: Literal["mixed_precision"] = "mixed_precision"
    min_ratio: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 1.5
    max_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    until_db: Annotated[float, Field(ge=-100, le=400, allow_inf_nan=False)] = 40.0


AlgorithmSettings = Annotated[
    FoldNormalization
    | Equalization
    | MseClipping
    | Smoothing
    | OutlierSplit
    | Gptq
    | Awq
    | BiasCorrection
    | MixedPrecision,
    Field(discriminator="kind"),
]

NEEDS_SAMPLES = (
    *("equalization", "mse_clipping", "smoothing", "outlier_split"),
    *("gptq", "awq", "bias_correction", "mixed_precision"),
)
"""Algorithms that run on samples: all except those that only rewrite the float model."""
NEEDS_HISTOGRAMS = ("mse_clipping",)
NEEDS_CHANNELS = ("equalization", "smoothing", "outlier_split", "awq")
