"""The result of quantizing a model: its quantized and skipped layers, the decisions made, and the tensors to store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from zeropoint.layers.absorption import absorbed_factors, float_tensors, with_factors
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.stored_tensors import bias_name, stored_sizes, stored_tensors
from zeropoint.model.layer import distinct_bytes
from zeropoint.model.source import Source
from zeropoint.schema.decisions import AlgorithmReport, IntegerOutputsReport, PairLimitsReport, TargetReport
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import CalibrationReport, ReportWarning, SkippedLayer


@dataclass(frozen=True)
class Decisions:
    """What was decided by running the quantized model on samples kept out of calibration."""

    algorithms: list[AlgorithmReport] = field(default_factory=list)
    pair_limits: PairLimitsReport | None = None
    integer_outputs: IntegerOutputsReport | None = None
    acceptance_samples: int = 0
    acceptance_db: float | None = None
    """SQNR of the final layers on these samples."""
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    """By layer, the whole model's SQNR in dB if that layer alone were quantized."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """By layer, by how many dB the whole model's SQNR would rise if that layer were in float."""
    target: TargetReport | None = None


@dataclass(frozen=True)
class Quantized:
    """The engine's result: integer layers beside the float source they came from."""

    source: Source
    recipe: Recipe
    layers: list[QuantizedLayer]
    skipped: list[SkippedLayer]
    calibration: CalibrationReport
    versions: dict[str, str]
    decisions: Decisions = Decisions()
    warnings: tuple[ReportWarning, ...] = ()
    """What calibration found about the samples and the ranges."""
    neighbours_alike: bool = False
    """Whether samples resemble their neighbours, and those that evaluate are neighbours of those that calibrate."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All stored tensors, by name: those that stay in float, and those in place of quantized weights."""
        return self.kept | {
            name: tensor for layer in self.stored_layers for name, tensor in stored_tensors(layer).items()
        }

    @cached_property
    def stored_layers(self) -> list[QuantizedLayer]:
        """The layers as files hold them: those that absorb the input scale of another layer have other scales."""
        factors = self._absorbed
        return [
            with_factors(layer, factors[layer.layer.name]) if layer.layer.name in factors else layer
            for layer in self.layers
        ]

    @property
    def kept(self) -> dict[str, Tensor]:
        """The tensors that stay in float, by name: as uploaded, except what holds the scale of a layer behind it."""
        replaced = {layer.layer.weight_name for layer in self.layers}
        replaced |= {bias_name(layer) for layer in self.stored_layers if layer.bias is not None}
        kept = {n: tensor.detach().cpu() for n, tensor in self.source.tensors.items() if n not in replaced}
        return kept | self.scaled_tensors

    @cached_property
    def scaled_tensors(self) -> dict[str, Tensor]:
        """Weights and biases that hold the scale of the layers they feed, by name: normalizations and float layers."""
        return self._scaled_normalizations | self._scaled_float_layers

    @property
    def _scaled_normalizations(self) -> dict[str, Tensor]:
        absorbed = self._absorbed
        scales = {
            layer.scaled_by: layer.pre_quant_scale
            for layer in self.layers
            if layer.scaled_by is not None and layer.scaled_by not in absorbed
        }
        scale_of = {f"{norm}.{part}": scale for norm, scale in scales.items() for part in ("weight", "bias")}
        return {
            name: (tensor.detach().cpu() * scale).to(tensor.dtype)
            for name, tensor in self.source.tensors.items()
            if (scale := scale_of.get(name)) is not None
        }

    @property
    def _scaled_float_layers(self) -> dict[str, Tensor]:
        quantized, factors = {layer.layer.name for layer in self.layers}, self._absorbed
        tensors: dict[str, Tensor] = {}
        for layer in self.source.layers:
            if layer.name in factors and layer.name not in quantized:
                tensors |= float_tensors(layer, factors[layer.name])
        return tensors

    @cached_property
    def _absorbed(self) -> dict[str, Tensor]:
        return absorbed_factors(
            {layer.layer.name: layer.pre_quant_scale for layer in self.layers},
            {layer.layer.name: layer.scaled_by for layer in self.layers},
            self.source.layers,
        )

    @property
    def bytes(self) -> int:
        """The bytes of all stored tensors; memory that several names share counts once."""
        sizes = {name: size for layer in self.stored_layers for name, size in stored_sizes(layer).items()}
        return distinct_bytes(self.kept.values()) + sum(sizes.values())
