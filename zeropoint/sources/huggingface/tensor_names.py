"""Match the names of a checkpoint's tensors with those of its network; a name without a match is an error.

A checkpoint may store a tied tensor under one of its names only, omit the prefix of the network's body, use names of
older versions (which transformers translates), and hold buffers that networks compute today.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from zeropoint.errors import InvalidModel
from zeropoint.sources.huggingface.conversions import Conversion, find_conversions

RECOMPUTED = re.compile(r"(.*\.)?(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|crossattention\.bias)")
"""Buffers that older versions stored, and that today's networks compute."""
_REMEDY = "Check that config.json and the weights come from the same save_pretrained."


def tied_names(network: nn.Module) -> dict[str, list[str]]:
    """Return the first name of every parameter and persistent buffer -> all its names."""
    groups: dict[int, list[str]] = {}
    tensors = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())
    for name in network.state_dict():
        groups.setdefault(id(tensors[name]), []).append(name)
    return {names[0]: names for names in groups.values()}


def match(network: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, str], list[Conversion]]:
    """Return the first name of each of the network's tensors -> its name in the checkpoint, and what is converted.

    A converted tensor has the same name on both sides. Raises InvalidModel, naming the tensor, when one is missing,
    left over, or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    conversions = find_conversions(network, shapes)
    converted = _shapes_of(conversions)
    pieces = {stored for conversion in conversions for stored, _ in conversion.sources}
    known = {name: shape for name, shape in shapes.items() if name not in pieces} | converted
    stored_names = _stored_names(network, known, expected)
    matched = {}
    for first, names in tied_names(network).items():
        stored = next((stored_names[name] for name in names if name in stored_names), "")
        if not stored:
            raise _misfit(f"Tensor {first!r} of {type(network).__name__} is missing.")
        if known[stored] != expected[first]:
            raise _misfit(
                f"Tensor {stored!r} has shape {list(known[stored])}; config.json implies {list(expected[first])}."
            )
        matched[first] = stored
    return matched, conversions


def _shapes_of(conversions: Iterable[Conversion]) -> dict[str, tuple[int, ...]]:
    try:
        return {name: shape for one in conversions for name, shape in one.shapes().items()}
    except ValueError as error:
        raise _misfit(f"config.json and the weights differ: {error}.") from error


def _stored_names(network: Any, shapes: Iterable[str], expected: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the stored name of each of the network's names. Raises InvalidModel on one that is left over."""
    mapping = import_module("transformers.conversion_mapping").get_model_conversion_mapping(network)
    renamings = [entry for entry in mapping if not hasattr(entry, "operations")]
    stored_names: dict[str, str] = {}
    for stored in sorted(shapes):
        candidates = _candidates(stored, network.base_model_prefix, renamings)
        name = next((candidate for candidate in candidates if candidate in expected), None)
        if name is not None:
            stored_names.setdefault(name, stored)
        elif not RECOMPUTED.fullmatch(stored):
            raise _misfit(f"Tensor {stored!r} has no place in {type(network).__name__}.")
    return stored_names


def _candidates(stored: str, prefix: str, renamings: Iterable[Any]) -> Iterable[str]:
    """Return the network's names that a stored name may stand for, likeliest first."""
    name = stored
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return (stored, name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))


def _misfit(detail: str) -> InvalidModel:
    return InvalidModel("checkpoint_does_not_fit", detail, _REMEDY)
