"""The metadata that files carry: one JSON object for the file, and one for each quantized layer.

`schema.metadata` has their fields and their JSON Schema. Files are written before they are validated, so what
validation measures is added to the header afterwards.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.stored_tensors import stored_bytes, stored_corrections, weight_names
from zeropoint.metrics.sqnr import finite
from zeropoint.model.layer import Part
from zeropoint.schema.layer_names import layer_name
from zeropoint.schema.metadata import FILE_KEY, LAYER_KEY, SCHEMA_VERSION
from zeropoint.schema.report import LayerReport, Report, ReportWarning

CORRECTIONS: tuple[Part, ...] = ("pre_quant_scale", "outlier_channels", "outlier_weight")
MEASURED = ("sqnr_db", "worst_output_db", "weights_in_float", "macs_in_float")


def describe(quantized: Quantized, tied: Mapping[str, str], report: Report | None = None) -> dict[str, object]:
    """Return the header's JSON objects by key: for the file and each layer; `report` None: nothing is measured yet."""
    measured = {} if report is None else {layer.name: layer for layer in report.layers}
    layers = {
        LAYER_KEY + layer.layer.name: layer_metadata(layer, measured.get(layer.layer.name))
        for layer in quantized.stored_layers
    }
    return {FILE_KEY: file_metadata(quantized, tied, report), **layers}


def room_for_results(quantized: Quantized) -> int:
    """Return how many bytes to leave free in a header, so that the results fit in without moving the tensors."""
    return 4096 + 48 * len(quantized.layers)


def file_metadata(quantized: Quantized, tied: Mapping[str, str], report: Report | None = None) -> dict[str, object]:
    """Return the object of the file: recipe, versions, every layer, sizes, and what validation measured."""
    results: dict[str, object] = {}
    if report is not None:
        results["verdict"] = report.verdict
        results["warnings"] = list(dict.fromkeys(w.code for w in report.warnings if _matters_to_a_reader(w)))
        results["evaluation"] = report.evaluation.model_dump(mode="json")
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": quantized.recipe.model_dump(mode="json"),
        "versions": quantized.versions,
        "architecture": {
            "quantized": {layer.layer.name: layer.layer.type for layer in quantized.layers},
            "float": {skipped.name: skipped.type for skipped in quantized.skipped},
            "layers": _architecture(quantized),
        },
        "statistics": _file_statistics(quantized, report),
        "tied": tied,
        **results,
    }


def _file_statistics(quantized: Quantized, report: Report | None) -> dict[str, object]:
    original, stored = quantized.source.original_bytes, quantized.bytes
    sizes = {"original_bytes": original, "quantized_bytes": stored, "compression_ratio": round(original / stored, 4)}
    if report is None:
        return {**sizes}
    measured = {name: _rounded(getattr(report.summary, name)) for name in MEASURED}
    outputs = [output.model_dump(mode="json") for output in report.outputs]
    for output in outputs:
        output |= {name: _rounded(output[name]) for name in ("sqnr_db", "agreement")}
    exact = report.summary.exact if report.evaluation.source != "none" else None
    return {**sizes, **measured, "exact": exact, "outputs": outputs}


def _architecture(quantized: Quantized) -> dict[str, object]:
    """Return every layer by name with its type, its tensors as uploaded, and why it stays in float."""
    in_layers = {layer.layer.name for layer in quantized.layers}
    reasons = {skip.name: skip.reason for skip in quantized.skipped}
    owned: dict[str, dict[str, Tensor]] = {}
    uploaded = quantized.source.uploaded
    for name, tensor in uploaded.items():
        owned.setdefault(layer_name(name), {})[name] = tensor
    for layer in quantized.source.layers:  # a layer may read another one's weight, or compute its own
        if layer.parameters:
            owned[layer.name] = {read: uploaded[read] for read in layer.parameters if read in uploaded}
        for read in (layer.weight_name, layer.bias_name):
            if read is not None and read in uploaded:
                owned.setdefault(layer.name, {})[read] = uploaded[read]
    for name, parameter in quantized.source.module.named_parameters(remove_duplicate=False):
        if not owned.get(layer_name(name)):  # a tied weight is stored under its first name
            owned[layer_name(name)] = {name: parameter}
    return {
        layer.name: {
            "type": layer.type,
            "quantized": layer.name in in_layers,
            "reason": reasons.get(layer.name),
            "tensors": {
                n: {"dtype": _word(t.dtype), "shape": list(t.shape)} for n, t in owned.get(layer.name, {}).items()
            },
        }
        for layer in quantized.source.layers
    }


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rounded(value: float | None) -> float | None:
    """Return a measured number to four decimals: the order of sums on another processor changes later ones."""
    return None if value is None else round(value, 4)


def layer_metadata(layer: QuantizedLayer, measured: LayerReport | None = None) -> dict[str, object]:
    """Return the object of one quantized layer; `measured`: its entry in the report."""
    activation = layer.activation
    return {
        "type": layer.layer.type,
        "operator": layer.layer.kind,
        "weight": _weight_metadata(layer),
        "activation": activation
        and activation.settings.model_dump(mode="json")
        | {
            "scale": layer.layer.stored_name("input_scale"),
            "zero_point": layer.layer.stored_name("input_zero_point"),
            "minimum": activation.minimum,
            "maximum": activation.maximum,
            "quant_min": activation.qparams.quant_type.quant_min,
            "quant_max": activation.qparams.quant_type.quant_max,
        },
        "statistics": {
            "weight_sqnr_db": finite(layer.weight_sqnr_db),
            **({} if measured is None else {"output_sqnr_db": _rounded(measured.output_sqnr_db)}),
            "original_bytes": layer.layer.bytes,
            "bytes": stored_bytes(layer),
        },
        **_corrections_metadata(layer),
    }


def _corrections_metadata(layer: QuantizedLayer) -> dict[str, object]:
    """Return the names of the stored correction tensors (see `zeropoint.layers.corrections`) that the layer has."""
    parts = {layer.layer.stored_name(part): part for part in CORRECTIONS}
    stored: dict[str, object] = {parts.get(name, "bias"): name for name in stored_corrections(layer)}
    return stored if layer.scaled_by is None else stored | {"scaled_by": layer.scaled_by}


def _weight_metadata(layer: QuantizedLayer) -> dict[str, object]:
    """Return settings, tensor names, axis and integer range of a weight; a cast has no scale and no range."""
    names, qparams = weight_names(layer.layer), layer.qparams
    metadata: dict[str, object] = layer.settings.model_dump(mode="json")
    shape, dtype = layer.layer.stored_shape(layer.weight.shape), _word(layer.layer.weight.dtype)
    metadata |= {"tensor": names.values, "shape": shape, "original_dtype": dtype}
    if layer.layer.transposed:
        metadata |= {"transposed": True}
    if layer.layer.layout is not None:
        metadata |= {"layout": {"order": [*layer.layer.layout.order], "inputs": layer.layer.layout.inputs}}
    if qparams is None:
        return metadata
    stored_zero_point = layer.settings.scheme == "asymmetric"
    return metadata | {
        **({} if layer.rounding == "nearest" else {"rounding": layer.rounding}),
        "axis": layer.layer.stored_axis(qparams.axis),
        "scale": names.scale,
        "zero_point": names.zero_point if stored_zero_point else qparams.quant_type.middle,
        "quant_min": qparams.quant_type.quant_min,
        "quant_max": qparams.quant_type.quant_max,
    }


def _matters_to_a_reader(warning: ReportWarning) -> bool:
    """Return whether the file says so too: a note matters if it decides how the file can be loaded."""
    return warning.level == "warning" or warning.code == "program_in_place"
