"""Read `model.safetensors` or `model.pt` back: its metadata, the integers and their qparams."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zeropoint.errors import InvalidModel, Unsupported, invalid_recipe
from zeropoint.formats.metadata import CORRECTIONS
from zeropoint.formats.torch_checkpoint import METADATA, TENSORS
from zeropoint.layers.weights import WeightNames, as_stored, from_tensors
from zeropoint.model.layer import TRANSPOSED
from zeropoint.model.weight_holder import Layout, layout_in
from zeropoint.primitives.qparams import QParams, quant_type_for
from zeropoint.schema.faults import first_fault, keys_of
from zeropoint.schema.metadata import FILE_KEY, LAYER_KEY, SCHEMA_VERSION
from zeropoint.schema.recipe import CASTS, Recipe, WeightSettings

SAVE_AGAIN = "Save the quantized model again, or pass the complete folder that was saved."


@dataclass(frozen=True)
class Stored:
    """A saved file: its JSON object, one JSON object per quantized layer by name, and every tensor by name."""

    about: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Tensor]

    @cached_property
    def recipe(self) -> Recipe:
        """Return the recipe that made the file. Raises InvalidRecipe, with the place, when it doesn't validate."""
        try:
            return Recipe.model_validate(self.about["recipe"])
        except ValidationError as error:
            fault = first_fault(error, keys_of(Recipe))
            raise invalid_recipe(f"/recipe{fault.pointer}", fault.detail) from error

    def settings(self, layer: str) -> WeightSettings:
        """Return how the layer's weight was quantized."""
        about = self._about(layer, "weight")
        return WeightSettings.model_validate({k: v for k, v in about.items() if k in WeightSettings.model_fields})

    def axis(self, layer: str) -> int | None:
        """Return the axis of per_channel scales in the stored weight; None for other granularities."""
        settings = self.settings(layer)
        if settings.granularity != "per_channel" or settings.dtype in CASTS:
            return None
        axis = self._about(layer, "weight").get("axis")
        if axis is None:
            axis = settings.axis if settings.axis is not None else int(self.layers[layer]["operator"] in TRANSPOSED)
        return int(axis)

    def transposed(self, layer: str) -> bool:
        """Return whether the weight is stored as [in, out]."""
        return bool(self._about(layer, "weight").get("transposed", False))

    def layout(self, layer: str) -> Layout | None:
        """Return how the stored weight becomes a matrix [out, in]; None where it is one, or a convolution's."""
        about = self._about(layer, "weight")
        return layout_in(about.get("layout"), about["shape"])

    def weight_names(self, layer: str) -> WeightNames:
        """Return the names of the weight's values, scale and zero point, as far as these are stored."""
        about = self._about(layer, "weight")
        usual = WeightNames.usual(str(about["tensor"]))
        scale, zero_point = about.get("scale"), about.get("zero_point")
        return WeightNames(
            usual.values,
            scale if isinstance(scale, str) else usual.scale,
            zero_point if isinstance(zero_point, str) else usual.zero_point,
        )

    def own_names(self, layer: str) -> tuple[str, str | None, str | None]:
        """Return the names of the weight's values, scale and zero point; None for what a weight lacks."""
        names = self.weight_names(layer)
        if self.settings(layer).dtype in CASTS:
            return names.values, None, None
        return names.values, names.scale, names.zero_point if self.settings(layer).scheme == "asymmetric" else None

    def own_tensors(self, layer: str) -> Iterator[str]:
        """Yield the names of all tensors that the file holds for the layer."""
        yield from filter(None, self.own_names(layer))
        yield from self.beside(layer).values()
        if "bias" in self.layers[layer]:
            yield self.layers[layer]["bias"]

    def beside(self, layer: str) -> dict[str, str]:
        """Return part -> tensor name of the qparams of the layer's input, and of its corrections but the bias."""
        about, activation = self.layers[layer], self._about(layer, "activation") or {}
        parts = ("scale", "zero_point") if activation else ()
        inputs = {f"input_{part}": str(activation.get(part, f"{layer}.input_{part}")) for part in parts}
        return inputs | {part: str(about[part]) for part in CORRECTIONS if part in about}

    def weight_name(self, layer: str) -> str:
        """Return the weight's name."""
        return str(self._about(layer, "weight")["tensor"])

    def weight(self, layer: str) -> tuple[Tensor, QParams | None]:
        """Return the weight's quantized values [out, ...] and their qparams, which a cast lacks.

        Raises InvalidModel when one of its tensors is missing.
        """
        names, axis, tensors, layout = self.weight_names(layer), self.axis(layer), self.tensors, self.layout(layer)
        try:
            if layout is not None:
                axis = None if axis is None else 0
                tensors = {name: layout.matrix(tensors[name]) for name in names if name in tensors}
                scales = {name: tensors[name].reshape(-1) for name in names[1:] if axis == 0 and name in tensors}
                tensors |= scales
            if self.transposed(layer):
                axis = None if axis is None else 1 - axis
                tensors = {name: as_stored(tensors[name]) for name in names if name in tensors}
            return from_tensors(names, self.settings(layer), axis, tensors)
        except KeyError as error:
            raise _invalid(f"Layer {layer!r} needs tensor {error}, which is not stored.") from error

    def input(self, layer: str) -> QParams | None:
        """Return the per-tensor qparams of the layer's input; None when it stays in float. Raises InvalidModel."""
        metadata = self._about(layer, "activation")
        if metadata is None:
            return None
        quant_type = quant_type_for(metadata["dtype"], metadata["scheme"])
        names = (metadata.get(part, f"{layer}.input_{part}") for part in ("scale", "zero_point"))
        scale, zero_point = (self._tensor(layer, name) for name in names)
        return QParams(quant_type, scale, zero_point)

    def correction(self, layer: str, part: str) -> Tensor | None:
        """Return a correction of error compensation, None where the layer has none; `part` is one of:

        `bias`, `pre_quant_scale`, `outlier_channels`, `outlier_weight`. Raises InvalidModel when its tensor is missing.
        """
        name = self.layers[layer].get(part)
        return None if name is None else self._tensor(layer, name)

    def scaled_by(self, layer: str) -> str | None:
        """Return the normalization that absorbed `pre_quant_scale`; None when the layer multiplies itself."""
        name: str | None = self.layers[layer].get("scaled_by")
        return name

    def _about(self, layer: str, part: str) -> Any:
        if layer not in self.layers or part not in self.layers[layer]:
            raise _invalid(f"Layer {layer!r} has no metadata for its {part}.")
        return self.layers[layer][part]

    def _tensor(self, layer: str, name: str) -> Tensor:
        if name not in self.tensors:
            raise _invalid(f"Layer {layer!r} needs tensor {name!r}, which is not stored.")
        return self.tensors[name]


def read_safetensors(path: Path) -> Stored:
    """Read the whole file. Raises InvalidModel unless Zeropoint wrote it, Unsupported if another version did."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise _invalid(f"{path.name} is not a readable safetensors file.") from error
    return _stored(path.name, metadata, tensors)


def read_torch_checkpoint(path: Path) -> Stored:
    """Read the file without running code from it. Raises what `read_safetensors` raises."""
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        metadata, tensors = content[METADATA], content[TENSORS]
    except Exception as error:  # a pickle may raise any exception
        raise _invalid(f"{path.name} is not a readable checkpoint.") from error
    return _stored(path.name, metadata, tensors)


def _stored(file_name: str, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Stored:
    if FILE_KEY not in metadata:
        raise _invalid(f"{file_name} has no metadata that Zeropoint wrote.")
    try:
        about = json.loads(metadata[FILE_KEY])
        layers = {
            key.removeprefix(LAYER_KEY): json.loads(value)
            for key, value in sorted(metadata.items())
            if key.startswith(LAYER_KEY)
        }
    except ValueError as error:
        raise _invalid(f"{file_name}: its metadata is not JSON.") from error
    if not isinstance(about, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
        raise _invalid(f"{file_name}: its metadata holds no objects.")
    if about.get("schema_version") != SCHEMA_VERSION:
        raise Unsupported(
            "unknown_schema_version",
            f"{file_name} has schema_version {about.get('schema_version')!r}; this version reads {SCHEMA_VERSION}.",
            "Read it with the version of Zeropoint that the file's metadata names, or quantize again.",
        )
    if missing := [key for key in ("recipe", "versions", "statistics", "tied") if key not in about]:
        raise _invalid(f"{file_name}: its metadata lacks {missing[0]!r}.")
    aliases = {alias: tensors[name] for alias, name in about["tied"].items() if name in tensors}
    return Stored(about, layers, {**tensors, **aliases})


def _invalid(detail: str) -> InvalidModel:
    return InvalidModel("saved_model_invalid", detail, SAVE_AGAIN)
