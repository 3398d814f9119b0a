"""Algorithms: each takes the quantized layers and returns those that it changed.

To add one, write its settings in `schema.algorithms`, a file here and one line below. An algorithm is kept only if it
improves SQNR on the acceptance samples (`search.trial`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zeropoint.algorithms.awq import scale_by_activations
from zeropoint.algorithms.bias_correction import correct_biases
from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.algorithms.equalization import equalize
from zeropoint.algorithms.gptq import round_by_gptq
from zeropoint.algorithms.mixed_precision import keep_in_float
from zeropoint.algorithms.mse_clipping import clip
from zeropoint.algorithms.outlier_split import split_outliers
from zeropoint.algorithms.smoothing import smooth
from zeropoint.layers.quantized_layer import QuantizedLayer


@dataclass(frozen=True)
class Algorithm:
    """`run(settings, context, layers)` returns the layers that it changed, and None for one that stays in float.

    The change is kept if SQNR rises, and by at least `least_gain_db`.
    """

    run: Callable[[Any, AlgorithmContext, Layers], Mapping[str, QuantizedLayer | None]]
    least_gain_db: float = 0.0


FITTED_DB, TIGHT_DB, SLOW_DB = 0.5, 2.0, 0.5
"""Least gains in dB on the acceptance samples, which resemble the calibration samples more than future inputs will.

FITTED_DB holds for algorithms that fit a range to samples. TIGHT_DB holds for those that also leave channels no
headroom, as equalization and smoothing: smoothing gained 0.4 dB for a face network on the acceptance samples, and lost
9 dB on other pictures.
SLOW_DB holds for algorithms that make the model slower.
"""

ALGORITHMS: Mapping[str, Algorithm] = {
    "equalization": Algorithm(equalize, least_gain_db=TIGHT_DB),
    "mse_clipping": Algorithm(clip, least_gain_db=FITTED_DB),
    "smoothing": Algorithm(smooth, least_gain_db=TIGHT_DB),
    "outlier_split": Algorithm(split_outliers, least_gain_db=TIGHT_DB),
    "gptq": Algorithm(round_by_gptq),
    "awq": Algorithm(scale_by_activations),
    "bias_correction": Algorithm(correct_biases, least_gain_db=FITTED_DB),
    "mixed_precision": Algorithm(keep_in_float, least_gain_db=SLOW_DB),
}
