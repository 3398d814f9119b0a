"""A result as text: a few lines, or a table of its layers."""

from collections import Counter
from collections.abc import Iterable, Sequence

from zeropoint.schema.report import LayerReport, Report

COLUMNS = ("layer", "type", "weight", "input", "bytes", "weight dB", "output dB")


def overview(report: Report) -> list[str]:
    """Return the result in a few lines: verdict and why, SQNR, size, layers, the target if there was one, and
    what is wrong with the calibration samples."""
    summary, samples = report.summary, report.evaluation
    kinds = Counter(layer.weight.dtype for layer in report.layers)
    lines = [
        f"verdict  {report.verdict}{_why(report)}",
        f"sqnr     {_quality(report)}"
        + (f" on {_counted(samples.samples)} ({samples.source})" if samples.source != "none" else ""),
        f"size     {summary.original_bytes:,} -> {summary.quantized_bytes:,} bytes, "
        f"{summary.compression_ratio:.2f} times smaller",
        f"layers   {summary.layers_quantized} quantized"
        + (f" ({', '.join(f'{count} {dtype}' for dtype, count in kinds.items())})" if kinds else "")
        + f", {summary.layers_skipped} in float",
    ]
    if report.target is not None:
        lines.append(f"target   {'met' if report.target.met else 'missed'}: {report.target.detail}")
    if report.calibration.warnings:
        codes = [spot.partition(":")[0] for spot in report.calibration.warnings]
        lines.append(f"samples  {', '.join(codes)} (report.calibration.warnings)")
    return lines


def layer_table(report: Report) -> list[str]:
    """Return a line for each quantized layer, and below them one for each layer that stays in float."""
    lines = _aligned([COLUMNS, *(_row(layer) for layer in report.layers)])
    if report.skipped:
        lines += [
            "",
            *_aligned([("in float", "type", "reason"), *((s.name, s.type, s.reason) for s in report.skipped)]),
        ]
    return lines


def _why(report: Report) -> str:
    """Return what the verdict is because of: the checks that failed, and the codes of the warnings."""
    failed = [f"the check {check.name}" for check in report.checks if not check.passed]
    codes = [warning.code for warning in report.warnings if warning.level == "warning"]
    return f": {', '.join([*failed, *codes])}" if failed or codes else ""


def _counted(samples: int) -> str:
    return f"{samples} sample" if samples == 1 else f"{samples} samples"


def _quality(report: Report) -> str:
    if report.summary.exact:
        return "exact: the outputs equal the float ones"
    return "not measured" if report.summary.sqnr_db is None else f"{report.summary.sqnr_db:.2f} dB"


def _row(layer: LayerReport) -> tuple[str, ...]:
    weight = f"{layer.weight.dtype} {layer.weight.granularity} {layer.weight.shape}"
    activation = "float" if layer.activation is None else layer.activation.dtype
    size = f"{layer.original_bytes:,} -> {layer.quantized_bytes:,}"
    return (layer.name, layer.type, weight, activation, size, _db(layer.weight_sqnr_db), _db(layer.output_sqnr_db))


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _aligned(rows: Sequence[Iterable[str]]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
