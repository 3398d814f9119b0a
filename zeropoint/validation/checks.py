"""The four validation checks on the saved files, and the verdict.

sqnr          the whole model's SQNR is a number (without floating outputs, integers were compared), and at least
              `min_sqnr_db` if the recipe sets it; that of further artifacts is a number too, and at most slightly lower
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
from zeropoint.layers.stored_tensors import stored_bytes
from zeropoint.metrics.sqnr import finite
from zeropoint.schema.recipe import ValidationSettings
from zeropoint.schema.report import Check, EvaluationReport, Summary, Verdict
from zeropoint.schema.runtimes import RuntimeReport
from zeropoint.validation.below import LARGEST_GAP_DB, agreement_below, in_words, rows_below
from zeropoint.validation.evaluation import TensorDiff
from zeropoint.validation.outputs import Outputs

ROUNDING = 1e-3
"""Share of a step by which float32 arithmetic may raise the rounding error above half a step."""


def verdict(checks: list[Check], settings: ValidationSettings, evaluated: EvaluationReport) -> Verdict:
    """Return the verdict on these checks under the recipe's `on_failure`."""
    if all(check.passed for check in checks):
        return "not_evaluated" if evaluated.source == "none" else "passed"
    return "warned" if settings.on_failure == "warn" else "failed"


def sqnr_check(
    outputs: Outputs,
    beside: Mapping[str, Outputs],
    ran: bool,
    settings: ValidationSettings,
    runtimes: Sequence[RuntimeReport] = (),
) -> Check:
    """Return the check of the outputs: floats have an SQNR, integers and bools an agreement.

    Without a floating output there is no SQNR: a bound then holds only if every output is equal. It must hold in every
    runtime.
    """
    bound, value = settings.min_sqnr_db, finite(outputs.noise.db)
    measured = ran and bool(outputs.by_position) and (value is not None or outputs.noise.exact)
    equal = all(output.exact for output in outputs.floating) and (bool(outputs.floating) or outputs.exact)
    passed = measured and (bound is None or equal or (value is not None and value >= bound))
    detail = _outputs_in_words(outputs, bound) if measured else UNMEASURED
    lost = [file for file, further in beside.items() if not _keeps_up(further, outputs, bound)] if measured else []
    for file in beside if measured else ():
        detail += f" {file}: {_numbers(beside[file])}" + (", too far below." if file in lost else ".")
    missed = rows_below(runtimes, bound, value) if measured and bound is not None else []
    if passed and missed:
        detail += f" Missed by {in_words(missed)}."
    return Check(name="sqnr", passed=passed and not lost and not missed, value=value, bound=bound, detail=detail)


UNMEASURED = "SQNR could not be measured: the quantized outputs are missing, NaN or infinite."


def _outputs_in_words(outputs: Outputs, bound: float | None) -> str:
    if outputs.exact:
        return "The quantized outputs equal the float outputs."
    asked = f"; at least {bound:g} dB asked" if bound is not None else ""
    if not outputs.floating:
        return f"There is no floating output, and so no SQNR{asked}: {_numbers(outputs)}."
    return f"{_numbers(outputs)} over the floating outputs that changed{asked}."


def _numbers(outputs: Outputs) -> str:
    """Return the SQNR of floating outputs and the lowest agreement of the others."""
    db, share = finite(outputs.noise.db), outputs.worst_agreement
    texts = []
    if outputs.floating:
        texts.append("equal" if outputs.noise.exact else "no finite number" if db is None else f"{db:.2f} dB")
    if share is not None:
        texts.append(f"{100 * share:.4g} % of integers and bools equal")
    return ", ".join(texts)


def _keeps_up(further: Outputs, first: Outputs, bound: float | None) -> bool:
    """Return whether a further artifact meets the bound, and is at most the gaps below the first one."""
    pairs = zip(further.counted, first.counted, strict=True)
    if any(agreement_below(f.equal.value or 0.0, own.equal.value or 0.0, f.equal.total) for f, own in pairs):
        return False
    if further.noise.exact:
        return True
    db, first_db = finite(further.noise.db), finite(first.noise.db)
    least = [limit for limit in (bound, first_db and first_db - LARGEST_GAP_DB) if limit is not None]
    return db is not None and all(db >= limit for limit in least)


def _size_check(summary: Summary, layers: Sequence[QuantizedLayer], settings: ValidationSettings) -> Check:
    ratio = summary.quantized_bytes / summary.original_bytes
    bound = settings.max_size_ratio
    # a cast from one 16-bit float to another narrows nothing
    none_narrower = all(stored_bytes(layer) == layer.layer.bytes for layer in layers)
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

    Layers that are not rounded to nearest, by GPTQ or to limit pairs, fail only then.
    """
    if not steps:
        return Check(name="weight_range", passed=False, bound=0.5, detail="No weight could be read back.")
    otherwise = {layer.layer.name for layer in layers if layer.rounding != "nearest"}
    bounded = {name: 0.0 if name in otherwise and isfinite(error) else error for name, error in steps.items()}
    worst = max(bounded, key=lambda name: bounded[name])
    passed = bounded[worst] <= 0.5 + ROUNDING
    detail = f"The largest rounding error of a weight is {bounded[worst]:.3f} steps (layer {worst!r})."
    if not passed:
        detail = f"Weights of layer {worst!r} are not within half a step of what was uploaded, or a scale is invalid."
    elif otherwise:
        rest = f"All values of the {len(otherwise)} layers that are not rounded to nearest are within their range."
        detail = rest if len(otherwise) == len(steps) else f"{detail} {rest}"
    return Check(name="weight_range", passed=passed, value=finite(bounded[worst]), bound=0.5, detail=detail)
