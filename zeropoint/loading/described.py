"""The part of a report that a saved file's own metadata tells, for a file that came without `report.json`."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from zeropoint.layers.selection import skip_reason
from zeropoint.loading.stored import Stored
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import (
    NOT_CALIBRATED,
    ActivationReport,
    EvaluationReport,
    LayerReport,
    Report,
    SkippedLayer,
    SkipReason,
    Summary,
    Verdict,
    WeightReport,
)


def report_of(stored: Stored) -> Report:
    """Return what is known of a result from its file alone: layers, sizes, recipe and versions.

    What was measured on samples is null where the metadata doesn't hold it, and the verdict then "not_evaluated".
    """
    about, statistics = stored.about, stored.about["statistics"]
    recipe = Recipe.model_validate(about["recipe"])
    skipped = list(_skipped(about, recipe))
    original, quantized = int(statistics["original_bytes"]), int(statistics["quantized_bytes"])
    verdict = statistics.get("verdict")
    return Report(
        verdict=verdict if verdict in get_args(Verdict) else "not_evaluated",
        summary=Summary(
            sqnr_db=statistics.get("sqnr_db"),
            exact=bool(statistics.get("exact", False)),
            original_bytes=original,
            quantized_bytes=quantized,
            compression_ratio=original / quantized,
            dead_bytes=int(statistics.get("dead_bytes", 0)),
            layers_quantized=len(stored.layers),
            layers_skipped=len(skipped),
        ),
        checks=[],
        layers=[_layer(stored, name, layer) for name, layer in stored.layers.items()],
        skipped=skipped,
        calibration=NOT_CALIBRATED,
        evaluation=EvaluationReport(source="none", samples=0),
        timings={},
        peak_memory_bytes=0,
        recipe=recipe,
        versions=dict(about["versions"]),
    )


def _skipped(about: Mapping[str, Any], recipe: Recipe) -> Iterator[SkippedLayer]:
    """Give the layers in float; where the file doesn't say why, the recipe does for all but what it would quantize."""
    for name, told in about["architecture"]["float"].items():
        kind, said = (told["type"], told.get("reason")) if isinstance(told, Mapping) else (told, None)
        reason = said if said in get_args(SkipReason) else skip_reason(name, kind, recipe)
        yield SkippedLayer(name=name, type=kind, reason=reason)


def _layer(stored: Stored, name: str, about: Mapping[str, Any]) -> LayerReport:
    weight, activation, statistics = about["weight"], about["activation"], about["statistics"]
    qparams = stored.input(name)
    return LayerReport(
        name=name,
        type=about["type"],
        weight=WeightReport(
            dtype=weight["dtype"],
            scheme=weight["scheme"],
            granularity=weight["granularity"],
            axis=weight.get("axis"),
            shape=list(weight["shape"]),
        ),
        activation=None
        if qparams is None
        else ActivationReport(
            dtype=activation["dtype"],
            scheme=activation["scheme"],
            scale=float(qparams.scale),
            zero_point=int(qparams.zero_point),
            minimum=activation["minimum"],
            maximum=activation["maximum"],
        ),
        weight_sqnr_db=statistics["weight_sqnr_db"],
        output_sqnr_db=statistics.get("output_sqnr_db"),
        original_bytes=statistics["original_bytes"],
        quantized_bytes=statistics["bytes"],
    )
