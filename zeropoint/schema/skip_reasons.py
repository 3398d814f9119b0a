"""What to do about each reason for which a layer stays in float."""

from collections.abc import Collection, Mapping

from zeropoint.schema.report import SkipReason

NO_KEY = "no key changes that for these operations"
EXPORT = (
    "export the model as a program (torch.export.export), in which weights are found by the operators that read them"
)
COPY = "let whatever else reads the weight, or returns it as an output, have a copy of its own in the model"
REMEDIES: Mapping[SkipReason, str] = {
    "type_not_selected": 'add their types to "layer_types"',
    "type_skipped": 'take their types out of "skip_layers" and add them to "layer_types"',
    "shared_weight_conflict": COPY,
    "granularity_unsupported": 'give them a granularity that they can have by "overrides" (per_channel), or set '
    '"fallback": "int8"',
    "group_size_mismatch": 'give them another "group_size" by "overrides", or set "fallback": "int8"',
    "format_unsupported": "upload the model as a .pt2 program, which quantizes more kinds of layers",
    "never_ran": "give samples that reach them",
}
WHERE_NOTHING_IS_LEFT: Mapping[SkipReason, str] = {
    "excluded": 'take the patterns that match them out of "exclude"',
    "not_included": 'add their names to "include"',
    "override": 'give them "weights" in "overrides" in place of null',
    "unsupported": f"where it is no program yet, {EXPORT}; in a program, no key changes that",
    "dead_code": "check the model: no output needs their weights",
    "folded": 'leave out what folds them ("algorithms", "merge_lora")',
}
"""Remedies that only a model of which nothing is quantized needs: otherwise these layers are as they should be."""


def remedy_for(reason: SkipReason, *, tables: bool = False, program: bool = True) -> str | None:
    """Return what to do, as the end of a sentence; None where no key changes it.

    `tables`: whether an embedding stays in float too, which may be what shares the weight. `program`: whether the model
    is a program, in which more operations are supported than in a module.
    """
    if reason == "unsupported" and not program:
        return EXPORT
    if reason == "shared_weight_conflict" and tables:
        types = 'if an embedding shares the weight, take "Embedding" out of "skip_layers" and add it to "layer_types"'
        return f"{types}; otherwise, {COPY}"
    return REMEDIES.get(reason)


def remedy_where_nothing_is_left(reasons: Collection[SkipReason], *, tables: bool) -> str:
    """Return what to do where these are the reasons of all layers; none are there if the model has no weights."""
    if not reasons:
        return "Give a model with weights: it has none that any layer could hold."
    known = [remedy_for(reason, tables=tables) or WHERE_NOTHING_IS_LEFT.get(reason, NO_KEY) for reason in reasons]
    text = "; or ".join(dict.fromkeys(known))
    return f"{text[0].upper()}{text[1:]}."
