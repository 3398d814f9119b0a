"""Algorithms: each takes layers as they are and gives those that it changed. To add one: settings in
`schema.algorithms`, a file here, one line below. The acceptance samples decide which is kept (`search.trial`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zeropoint.algorithms.awq import scale_by_activations
from zeropoint.algorithms.bias_correction import correct_biases
from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.algorithms.gptq import round_by_gptq
from zeropoint.algorithms.mixed_precision import keep_in_float
from zeropoint.algorithms.mse_clipping import clip
from zeropoint.algorithms.outlier_split import split_outliers
from zeropoint.algorithms.smoothing import smooth
from zeropoint.layers.quantized_layer import QuantizedLayer


@dataclass(frozen=True)
class Algorithm:
    """`run(settings, context, layers)` gives the layers that it changed, None for one that stays in float.

    It stays where SQNR rises, and by `least_gain_db` at least.
    """

    run: Callable[[Any, AlgorithmContext, Layers], Mapping[str, QuantizedLayer | None]]
    least_gain_db: float = 0.0


FITTED_DB, TIGHT_DB, SLOW_DB = 0.5, 2.0, 0.5
"""The gate's samples are more like those that calibrated than tomorrow's will be. So what fits a range to them must
gain more than nothing, and more still what leaves no channel room: a network for faces gained 0.4 dB by smoothing at
the gate, and lost 9 on other pictures. What costs time when the model runs must be worth it."""

ALGORITHMS: Mapping[str, Algorithm] = {
    "mse_clipping": Algorithm(clip, least_gain_db=FITTED_DB),
    "smoothing": Algorithm(smooth, least_gain_db=TIGHT_DB),
    "outlier_split": Algorithm(split_outliers, least_gain_db=TIGHT_DB),
    "gptq": Algorithm(round_by_gptq),
    "awq": Algorithm(scale_by_activations),
    "bias_correction": Algorithm(correct_biases, least_gain_db=FITTED_DB),
    "mixed_precision": Algorithm(keep_in_float, least_gain_db=SLOW_DB),
}
