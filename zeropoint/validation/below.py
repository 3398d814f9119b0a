"""Runtimes whose numbers are below those of the saved program: which miss a bound, and what to do about it."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import ReportWarning
from zeropoint.schema.runtimes import RuntimeName, RuntimeReport
from zeropoint.simulation.processor import SATURATING

LARGEST_GAP_DB = 3.0
"""How far a further artifact's SQNR may be below the first one's: it also rounds each layer's result once."""
LARGEST_AGREEMENT_GAP = 0.05
"""How far its agreement may be below the first one's; see `agreement_below`."""
FINE_DB = 40.0
"""From this SQNR on nobody is warned, whatever the gap: a ten-thousandth of the energy is noise."""
MULTIPLYING: Collection[RuntimeName] = ("inductor", "onnxruntime")
"""Runtimes with kernels for integers."""
WORDS: dict[RuntimeName, str] = {
    "torch": "torch",
    "inductor": "torch, compiled",
    "onnxruntime": "onnxruntime",
    "transformers": "transformers",
}


def agreement_below(share: float, first: float, count: int) -> bool:
    """Return whether a share of equal elements is clearly more than the gap below the first artifact's.

    Two roundings of one model disagree on near ties, and not on the same ones. So of `count` elements (or samples, if
    that is what is known), two standard deviations more may differ: √(count · p · (1 − p)) for the share p that may.
    Otherwise two labels of 24 would be over 5 %.
    """
    allowed = min(1 - first + LARGEST_AGREEMENT_GAP, 1.0)
    return count * (1 - share) > count * allowed + 2 * math.sqrt(count * allowed * (1 - allowed))


def rows_below(rows: Iterable[RuntimeReport], bound: float, whole_db: float | None) -> list[RuntimeReport]:
    """Return the rows that count and miss a bound in dB.

    A row on the first samples is judged by its loss, against `whole_db`, the saved program's SQNR on all of them.
    """
    return [row for row in rows if row.counts and row.basis != "skipped" and not _reaches(row, bound, whole_db)]


def _reaches(row: RuntimeReport, bound: float, whole_db: float | None) -> bool:
    if row.exact or (row.sqnr_db is None and row.agreement is not None):
        return True  # integers alone have no dB; the check of the saved program says that
    if row.loss_db is not None and whole_db is not None:
        return whole_db - row.loss_db >= bound
    return row.sqnr_db is not None and row.sqnr_db >= bound


def in_words(rows: Iterable[RuntimeReport]) -> str:
    """Return which artifacts, runtimes and levels these rows are of, with their numbers."""
    return "; ".join(f"{row.artifact} in {WORDS[row.runtime]} at {row.level} ({_number(row)})" for row in rows)


def _number(row: RuntimeReport) -> str:
    if row.sqnr_db is None and row.agreement is not None:
        return f"{100 * row.agreement:.3g} % equal, {row.basis}"
    return f"no finite number, {row.basis}" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB, {row.basis}"


def below_warnings(rows: Sequence[RuntimeReport], recipe: Recipe) -> Iterator[ReportWarning]:
    """Yield a warning for what users get less of than the saved program gives; a note where the recipe left it out."""
    best = max((row.agreement for row in rows if row.runtime in ("torch", "transformers") and row.agreement), default=0)
    for counts in (True, False):
        low = [row for row in rows if row.counts is counts and _is_low(row, best)]
        if low:
            yield ReportWarning(
                code="runtime_below",
                level="warning" if counts else "note",
                detail=f"Users get less than the saved program gives: {in_words(low)}.",
                remedy=remedy(low) if counts else NAME_ANY.format(recipe.target_isa),
            )


def _is_low(row: RuntimeReport, best: float) -> bool:
    if row.basis == "skipped" or row.exact:
        return False
    if row.agreement is not None and agreement_below(row.agreement, best, row.samples):
        return True
    if row.loss_db is None:
        return row.sqnr_db is None and row.agreement is None
    return row.loss_db > LARGEST_GAP_DB and (row.sqnr_db or 0.0) < FINE_DB


NAME_ANY = 'The recipe says "target_isa": "{}". Set it to "any" if such processors run the model.'


def remedy(low: Sequence[RuntimeReport]) -> str:
    """Return what to do: about sums that saturate, if all rows are of such levels, else about the layers."""
    if all(row.level in SATURATING and row.runtime in MULTIPLYING for row in low):
        return (
            "Sums of products saturate on such processors, since inputs are larger than those that calibrated: "
            'calibrate with samples like these, or set "target_isa": "vnni" if none of these processors runs the model.'
        )
    return "Exclude the layers that lose most: the report lists them first."
