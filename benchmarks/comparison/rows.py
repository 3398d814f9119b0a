"""The table of a model, and the lines below it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.comparison.fidelity import Fidelity
from benchmarks.comparison.spent import Spent

NEAR_DB = 0.1  # the order of sums differs


@dataclass(frozen=True)
class Row:
    """What one preset or peer made of a model; `problem` stands in place of numbers that could not be had."""

    name: str
    problem: str = ""
    fidelity: Fidelity | None = None
    size: float = 1.0
    verdict: str = "-"
    passes: Spent | None = None


def table(quality: dict[str, float], rows: Iterable[Row]) -> str:
    """A Markdown table: the float model's quality, then everyone's difference to it in points."""
    titles = ["", "SQNR dB", "bytes", "verdict", "passes (wall)", "passes (processor)", "agreement", *quality]
    plain = ["float", "", "1.000", "", "", "", "", *(f"{100 * share:.1f} %" for share in quality.values())]
    lines = [titles, ["---"] * len(titles), plain, *(_cells(row, quality) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row, quality: dict[str, float]) -> list[str]:
    if row.fidelity is None or row.passes is None:
        return [row.name, row.problem, *[""] * (5 + len(quality))]
    found = row.fidelity
    sqnr = "exact" if found.sqnr_db is None else f"{found.sqnr_db:.1f}"
    numbers = [sqnr, f"{row.size:.3f}", row.verdict, f"{row.passes.wall:.1f}", f"{row.passes.processor:.1f}"]
    agreement = f"{100 * found.agreement:.1f} %"
    return [row.name, *numbers, agreement, *(_points(found.quality[name] - share) for name, share in quality.items())]


def _points(difference: float) -> str:
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # + 0.0: no −0.0


def algorithm_lines(preset: str, report: dict[str, Any]) -> list[str]:
    """What a recipe's algorithms did, one line for each that the report speaks of."""
    return [f"- {preset}: {_line(entry)}" for entry in report.get("algorithms", [])]


def disagreement(preset: str, found: Fidelity, report: dict[str, Any]) -> list[str]:
    """A line if the report's SQNR, of the same samples, is not the one that was measured here."""
    said = report["summary"]["sqnr_db"]
    same = said == found.sqnr_db if None in (said, found.sqnr_db) else abs(said - (found.sqnr_db or 0)) < NEAR_DB
    return [] if same else [f"- {preset}: the report says {said} dB, here it is {found.sqnr_db} dB"]


def _line(entry: dict[str, Any]) -> str:
    """Which algorithm, kept or not, then whatever else is there."""
    rest = {key: value for key, value in entry.items() if key not in {"algorithm", "kept"}}
    kept = {True: "kept", False: "not kept"}.get(entry.get("kept", ""), "")
    words = [f"{key} {_word(value)}" for key, value in rest.items() if value not in (None, "", [], {})]
    return "; ".join([f"{entry.get('algorithm', '?')} {kept}".strip(), *words])


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_word(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_word(part) for part in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
