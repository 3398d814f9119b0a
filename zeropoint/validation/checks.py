"""The four validation checks on the saved files, and the verdict.

sqnr          the whole model's SQNR is a number, and at least `min_sqnr_db` if the recipe sets it; the SQNR of further
              artifacts is a number too, and at most slightly lower
size          the stored tensors are smaller than the uploaded ones (or equal, if the recipe only changes one 16-bit
              float for another), within `max_size_ratio` if the recipe sets it
load_and_run  the saved files open in a fresh process, agree with each other, and give outputs of the right shape
weight_range  integers are in their range, scales are valid, and no rounding error exceeds half a step (except for GPTQ,
              which rounds some weights further on purpose)
"""

from collections.abc import Mapping, Sequence
from math import isfinite

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.rounding_error import layer_rounding_error
from zeropoint.metrics.sqnr import Noise, finite
from zeropoint.schema.recipe import ValidationSettings
from zeropoint.schema.report import (
    Check,
    EvaluationReport,
    Summary,
    Verdict,
)
from zeropoint.validation.evaluation import TensorDiff

ROUNDING = 1e-3
"""Share of a step by which float32 arithmetic may raise the rounding error above half a step."""
LARGEST_GAP_DB = 3.0
"""How far a further artifact's SQNR may be below the first one's: it also rounds each layer's result once."""


def verdict(checks: list[Check], settings: ValidationSettings, evaluated: EvaluationReport) -> Verdict:
    """Return the verdict on these checks under the recipe's `on_failure`."""
    if all(check.passed for check in checks):
        return "not_evaluated" if evaluated.source == "none" else "passed"
    return "warned" if settings.on_failure == "warn" else "failed"


def _sqnr_check(summary: Summary, beside: Mapping[str, Noise], ran: bool, settings: ValidationSettings) -> Check:
    bound, value = settings.min_sqnr_db, summary.sqnr_db
    measured = ran and (summary.exact or value is not None)
    passed = measured and (bound is None or summary.exact or (value is not None and value >= bound))
    if not measured:
        detail = "SQNR could not be measured: the quantized outputs are missing, NaN or infinite."
    elif summary.exact:
        detail = "The quantized outputs equal the float outputs."
    else:
        detail = f"{value:.2f} dB over all floating outputs" + (
            f"; at least {bound:g} dB asked." if bound is not None else "."
        )
    lost = [file for file, noise in beside.items() if not _keeps_up(noise, value, bound)] if measured else []
    for file in beside if measured else ():
        db = _beside_db(beside, file)
        text = f"{db:.2f} dB" if db is not None else "no finite number"
        detail += f" {file}: {text}" + (", too far below." if file in lost else ".")
    return Check(name="sqnr", passed=passed and not lost, value=value, bound=bound, detail=detail)


def _keeps_up(noise: Noise, first: float | None, bound: float | None) -> bool:
    """Return whether a further artifact meets the bound, and is at most the gap below `first` (None: exact)."""
    if noise.exact:
        return True
    db = finite(noise.db)
    least = [limit for limit in (bound, first and first - LARGEST_GAP_DB) if limit is not None]
    return db is not None and all(db >= limit for limit in least)


def _beside_db(beside: Mapping[str, Noise], file: str) -> float | None:
    return finite(beside[file].db) if file in beside else None


def _size_check(summary: Summary, layers: Sequence[QuantizedLayer], settings: ValidationSettings) -> Check:
    ratio = summary.quantized_bytes / summary.original_bytes
    bound = settings.max_size_ratio
    none_narrower = all(layer.bytes == layer.layer.bytes for layer in layers)  # a cast from one 16-bit float to another
    passed = (ratio < 1 or (ratio == 1 and none_narrower)) if bound is None else ratio <= bound
    detail = f"{summary.quantized_bytes} of {summary.original_bytes} bytes."
    return Check(name="size", passed=passed, value=ratio, bound=bound, detail=detail)


def _load_check(ran: bool, evaluated: EvaluationReport) -> Check:
    if not ran:
        detail = "The saved files did not load or run in a fresh process."
    elif evaluated.source == "none":
        detail = "The saved files load in a fresh process; there were no samples to run."
    else:
        detail = f"A fresh process loaded the saved files and ran {evaluated.samples} samples."
    return Check(name="load_and_run", passed=ran, value=None, bound=None, detail=detail)


def _comparison_check(comparison: TensorDiff, *, opened: bool) -> Check:
    """Return the check of a file of weights, whose detail says only what was loaded and compared."""
    if not opened:
        detail = "The saved file did not load in a fresh process."
    elif comparison.unlike:
        detail = f"A fresh process read {comparison.unlike[0]!r} otherwise than it was saved."
    else:
        detail = (
            "A fresh process loaded the file and compared each tensor with the upload: the quantized ones have the "
            "SQNR reported here, the others are the same. Nothing was run: weights alone have no graph."
        )
    passed = opened and not comparison.unlike
    return Check(name="load_and_run", passed=passed, value=None, bound=None, detail=detail)


def _rounding_errors(layers: list[QuantizedLayer]) -> dict[str, float]:
    """Return the largest rounding error of each layer's weight in steps, by layer name."""
    errors = {}
    for layer in layers:
        errors[layer.layer.name] = layer_rounding_error(layer)
        layer.release()
    return errors


def _range_check(steps: Mapping[str, float], layers: Sequence[QuantizedLayer]) -> Check:
    """Return the check of rounding errors, which are infinite in `steps` for values or scales that are not valid.

    Layers rounded by GPTQ fail only then.
    """
    if not steps:
        return Check(name="weight_range", passed=False, bound=0.5, detail="No weight could be read back.")
    rounded_by_gptq = {layer.layer.name for layer in layers if layer.rounding == "gptq"}
    bounded = {name: 0.0 if name in rounded_by_gptq and isfinite(error) else error for name, error in steps.items()}
    worst = max(bounded, key=lambda name: bounded[name])
    passed = bounded[worst] <= 0.5 + ROUNDING
    detail = f"The largest rounding error of a weight is {bounded[worst]:.3f} steps (layer {worst!r})."
    if not passed:
        detail = f"Weights of layer {worst!r} are not within half a step of what was uploaded, or a scale is invalid."
    elif rounded_by_gptq:
        of_gptq = f"All values of the {len(rounded_by_gptq)} layers that GPTQ rounded are within their range."
        detail = of_gptq if len(rounded_by_gptq) == len(steps) else f"{detail} {of_gptq}"
    return Check(name="weight_range", passed=passed, value=finite(bounded[worst]), bound=0.5, detail=detail)
