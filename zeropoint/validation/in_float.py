"""Say how much of the model stays in float, and why: shares of weight bytes and of multiply-accumulates.

Weights are stored tensors of two dimensions or more; normalizations and biases don't count. What nothing reads, and
what was folded into another weight, is not part of the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zeropoint.layers.result import Quantized
from zeropoint.model.source import ProgramSource
from zeropoint.schema.layer_names import layer_name, matches
from zeropoint.schema.presets import PRESETS
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import FloatShare, ReportWarning, SkipReason
from zeropoint.schema.skip_reasons import NO_KEY, remedy_for

MOST_IN_FLOAT = 0.1
"""A larger share of either kind, that the recipe's own words don't ask for, is a warning."""
MOST_NAMES = 20
NOT_THERE: tuple[SkipReason, ...] = ("dead_code", "folded")
ASKED_FOR: tuple[SkipReason, ...] = ("excluded", "not_included", "override", "mixed_precision")
"""Reasons that are always the recipe's own words."""


@dataclass(frozen=True)
class Left:
    """A layer that stays in float, with its shares of the whole model, 0 to 1."""

    name: str
    type: str
    reason: SkipReason
    chosen: bool
    """Whether the recipe's own words leave it in float."""
    weights: float
    macs: float | None

    @property
    def most(self) -> float:
        """The larger of the two shares."""
        return max(self.weights, self.macs or 0.0)

    @property
    def is_table(self) -> bool:
        """Whether it is an embedding that the lists of types leave out."""
        return self.reason in ("type_skipped", "type_not_selected") and "Embedding" in self.type

    @property
    def never_ran(self) -> bool:
        """Whether neither a calibration sample nor an evaluation sample reached it."""
        return self.reason == "never_ran" and not self.macs


@dataclass(frozen=True)
class InFloat:
    """The shares of the whole model, 0 to 1; `macs` is None if nothing was run, `weights` if there are no weights."""

    weights: float | None
    macs: float | None
    layers: list[Left]
    """Every layer in float that is part of the model, largest share first."""
    program: bool = True
    """Whether the model is a program."""

    @property
    def by_reason(self) -> list[FloatShare]:
        """The shares of each reason, largest first."""
        groups: dict[tuple[SkipReason, bool], list[Left]] = {}
        for layer in self.layers:
            groups.setdefault((layer.reason, layer.chosen), []).append(layer)
        shares = [
            FloatShare(
                reason=reason,
                chosen=chosen,
                layers=len(layers),
                weights=sum(layer.weights for layer in layers),
                macs=None if self.macs is None else sum(layer.macs or 0.0 for layer in layers),
            )
            for (reason, chosen), layers in groups.items()
        ]
        return sorted(shares, key=lambda share: -max(share.weights, share.macs or 0.0))


def in_float(quantized: Quantized, macs: Mapping[str, int] | None) -> InFloat:
    """Return what stays in float; `macs`: multiply-accumulates by layer name."""
    absent = {skip.name for skip in quantized.skipped if skip.reason in NOT_THERE}
    sizes = {name: size for name, size in _weight_bytes(quantized).items() if name not in absent}
    bytes_of, work_of = _share_of(sizes), None if not macs else _share_of(macs)
    skipped = {skip.name: (skip.type, skip.reason) for skip in quantized.skipped if skip.name not in absent}
    unlisted: tuple[str, SkipReason] = ("Module", "unsupported")
    known = {layer.layer.name for layer in quantized.layers} | absent | set(skipped)
    skipped |= dict.fromkeys(sorted({*sizes, *(macs or {})} - known), unlisted)
    layers = [
        Left(
            name=name,
            type=kind,
            reason=reason,
            chosen=is_chosen(name, reason, quantized.recipe),
            weights=bytes_of.get(name, 0.0),
            macs=None if work_of is None else work_of.get(name, 0.0),
        )
        for name, (kind, reason) in skipped.items()
    ]
    layers.sort(key=lambda layer: -layer.most)
    return InFloat(
        weights=sum(layer.weights for layer in layers) if sizes else None,
        macs=None if work_of is None else sum(layer.macs or 0.0 for layer in layers),
        layers=layers,
        program=isinstance(quantized.source, ProgramSource),
    )


def _share_of(values: Mapping[str, int]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total for name, value in values.items()} if total else {}


def _weight_bytes(quantized: Quantized) -> dict[str, int]:
    """Return layer name -> bytes of its weights; shared memory belongs to the quantized layer, or to the first one."""
    owners: dict[int, str] = {}
    sizes: dict[str, int] = {}
    known = {layer.name for layer in quantized.source.layers}
    by_weight = {layer.layer.weight_name: layer.layer.name for layer in quantized.layers}
    layers = [*reversed(quantized.source.layers)]  # the first layer that has a tensor owns it
    by_name = {parameter: layer.name for layer in layers for parameter in layer.parameters}
    by_name |= {layer.weight_name: layer.name for layer in layers if layer.weight_name is not None}
    named = sorted(quantized.source.tensors.items(), key=lambda item: item[0] not in by_weight)
    for name, tensor in named:
        owner = by_weight.get(name) or by_name.get(name, layer_name(name))
        if tensor.dim() < 2 or not tensor.is_floating_point() or owner not in known:
            continue
        address = tensor.untyped_storage().data_ptr()
        if address and address in owners:
            continue
        owners[address] = owner
        sizes[owner] = sizes.get(owner, 0) + tensor.numel() * tensor.element_size()
    return sizes


def is_chosen(name: str, reason: SkipReason, recipe: Recipe) -> bool:
    """Return whether the recipe's own words leave a layer in float; a preset's list of types is not the user's."""
    if matches(name, recipe.exclude) or not matches(name, recipe.include):
        return True
    if reason == "type_skipped":
        return recipe.skip_layers != Recipe().skip_layers
    if reason == "type_not_selected":
        presets = [preset.recipe for preset in PRESETS.values()]
        return not any(
            preset.layer_types == recipe.layer_types and preset.weights.dtype == recipe.weights.dtype
            for preset in presets
        )
    return reason in ASKED_FOR


def float_warnings(left: InFloat) -> list[ReportWarning]:
    """Return a warning if more than a tenth of either kind stays in float unasked, and a note on what defaults skip."""
    unasked = [layer for layer in left.layers if not layer.chosen and layer.most > 0]
    tables = any(layer.is_table and not layer.chosen for layer in left.layers)
    noted = [layer for layer in unasked if _is_noted(layer, tables=tables)]
    others = [layer for layer in unasked if layer not in noted]
    kinds: list[tuple[list[Left], Literal["warning", "note"]]] = [(others, "warning"), (noted, "note")]
    return [_warning(left, layers, level) for layers, level in kinds if max(_sums(layers)) > MOST_IN_FLOAT]


def _is_noted(layer: Left, *, tables: bool) -> bool:
    """Return whether a layer in float is only noted: an embedding, a head that shares its weight, or what never ran."""
    return layer.is_table or layer.never_ran or (tables and layer.reason == "shared_weight_conflict")


def _sums(layers: Iterable[Left]) -> tuple[float, float]:
    listed = list(layers)
    return sum(layer.weights for layer in listed), sum(layer.macs or 0.0 for layer in listed)


def _warning(left: InFloat, layers: Sequence[Left], level: Literal["warning", "note"]) -> ReportWarning:
    weights, macs = _sums(layers)
    worst = ", ".join(f"{layer.name!r} ({layer.type}, {layer.reason})" for layer in layers[:5])
    more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
    work = "" if left.macs is None else f" and {_percent(macs)} of the multiply-accumulates"
    tables = any(layer.is_table for layer in left.layers)
    remedies = (remedy_for(layer.reason, tables=tables, program=left.program) or NO_KEY for layer in layers)
    ways = list(dict.fromkeys(remedies))
    remedy = f"To quantize them, {'; '.join(ways)}." if ways != [NO_KEY] else f"Nothing to set: {NO_KEY}."
    return ReportWarning(
        code="left_in_float",
        level=level,
        detail=f"{_percent(weights)} of the bytes of all weights{work} stay in float: {worst}{more}.",
        remedy=f'{remedy} If they are to stay in float, name them in "exclude".',
        layers=[layer.name for layer in layers[:MOST_NAMES]],
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
