"""Names of a checkpoint's tensors, matched with those of the network that they are for. Nothing is guessed silently.

A checkpoint may leave out all names but one of a tied tensor, or the prefix of the network's body; it may use names of
older versions, which transformers translates, and hold buffers that networks make by themselves today.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from zeropoint.errors import InvalidModel

MADE_ANEW = re.compile(r"(.*\.)?(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|crossattention\.bias)")
"""Buffers that older versions stored, and that a network of today makes by itself."""
_REMEDY = "Check that config.json and the weights belong together: both come from one save_pretrained."


def tied_names(network: nn.Module) -> dict[str, list[str]]:
    """First name of every parameter and persistent buffer -> all its names."""
    groups: dict[int, list[str]] = {}
    tensors = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())
    for name in network.state_dict():
        groups.setdefault(id(tensors[name]), []).append(name)
    return {names[0]: names for names in groups.values()}


def match(network: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """First name of each of the network's tensors -> the checkpoint's name for it.

    Raises InvalidModel, naming the tensor, when one is missing, left over, or of another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    renamings = import_module("transformers.conversion_mapping").get_model_conversion_mapping(network)
    found: dict[str, str] = {}
    for stored in sorted(shapes):
        readings = _readings(stored, network.base_model_prefix, renamings)
        name = next((reading for reading in readings if reading in wanted), None)
        if name is not None:
            found.setdefault(name, stored)
        elif not MADE_ANEW.fullmatch(stored):
            raise _misfit(f"Tensor {stored!r} has no place in {type(network).__name__}.")
    matched = {}
    for first, names in tied_names(network).items():
        stored = next((found[name] for name in names if name in found), "")
        if not stored:
            raise _misfit(f"Tensor {first!r} of {type(network).__name__} is missing.")
        if shapes[stored] != wanted[first]:
            raise _misfit(
                f"Tensor {stored!r} has shape {list(shapes[stored])}, config.json makes {list(wanted[first])}."
            )
        matched[first] = stored
    return matched


def _readings(stored: str, prefix: str, renamings: Iterable[Any]) -> Iterable[str]:
    """What a stored name may stand for, likeliest first."""
    name = stored
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return (stored, name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))


def _misfit(detail: str) -> InvalidModel:
    return InvalidModel("checkpoint_does_not_fit", detail, _REMEDY)
