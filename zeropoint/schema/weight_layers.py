"""Guess the layers of a weights file, which has no graph, from names and shapes. Standard library only.

The gate lists these layers, and the engine quantizes them; `include` and `exclude` correct a wrong guess.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from zeropoint.schema.layer_names import layer_name

Shape = tuple[int, ...]

BY_RANK = {2: "Linear", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
OTHER = "Module"

_EMBEDDING = re.compile(
    r"(?:\w+_)?(?:embed|embeds|embedding|embeddings|emb)(?:_(?:tokens|positions|in))?"
    r"|wte|wpe|shared|relative_attention_bias"
)
"""The last part of the names that embedding modules have."""


@dataclass(frozen=True)
class NamedLayer:
    """Tensors that belong together by name; `weight` is the one that could be quantized."""

    name: str
    type: str
    weight: str | None
    tensors: tuple[str, ...]


def layers_in(shapes: Mapping[str, Shape]) -> list[NamedLayer]:
    """Return the layers of a file whose tensors have these shapes, in the order of their first tensors.

    `a.weight` of rank 2 is the weight of a Linear `a`, or of an Embedding when `a` is named like one; of rank 3, 4 or 5
    it is a convolution's. Anything else is a Module.
    """
    owned: dict[str, list[str]] = {}
    for name in shapes:
        owned.setdefault(layer_name(name) or name, []).append(name)
    return [_layer(name, tensors, shapes) for name, tensors in owned.items()]


def _layer(name: str, tensors: list[str], shapes: Mapping[str, Shape]) -> NamedLayer:
    weight = next((tensor for tensor in tensors if _is_weight(tensor)), None)
    kind = OTHER if weight is None else BY_RANK.get(len(shapes[weight]), OTHER)
    if kind == "Linear" and _EMBEDDING.fullmatch(name.rpartition(".")[2]):
        kind = "Embedding"
    return NamedLayer(name, kind, weight, tuple(tensors))


def _is_weight(tensor: str) -> bool:
    """Return whether it is `a.weight` or a projection's weight: `attn.in_proj_weight`, `lstm.weight_ih_l0`."""
    owner, _, leaf = tensor.rpartition(".")
    return leaf == "weight" or ("weight" in leaf.split("_") and layer_name(tensor) != owner)
