"""The supported Hugging Face networks, and what their configs may say: the table that a script wrote.

networks.json has the classes of transformers by `model_type`, the model types that a nested config may have, the kind
of each key of a config, and keys that the networks read though no config declares them. `python -m
scripts.list_networks` writes it from the networks that passed. Nothing here imports transformers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.intake.huggingface.rules import FLAG, NONE, Rule, either, many, number, whole, word

TABLE = Path(__file__).with_name("networks.json")


@dataclass(frozen=True)
class Networks:
    """What the table says.

    `classes`: by model type. `nested`: model type -> key -> the model types that its value may have, the usual one
    first. `rules`: by key. `read`: keys without a rule that some network reads.
    """

    classes: Mapping[str, frozenset[str]]
    nested: Mapping[str, Mapping[str, tuple[str, ...]]]
    rules: Mapping[str, Rule]
    read: frozenset[str]


def read_table(table: Mapping[str, Any]) -> Networks:
    """Return the networks of a table. Raises KeyError or ValueError if no script wrote it."""
    return Networks(
        classes={name: frozenset(classes) for name, classes in table["classes"].items()},
        nested={name: {key: tuple(types) for key, types in keys.items()} for name, keys in table["nested"].items()},
        rules={key: either(*map(_rule, kinds)) for key, kinds in table["keys"].items()},
        read=frozenset(table["read"]),
    )


def _rule(kind: list[Any]) -> Rule:
    """Return the rule that a kind stands for: ["whole", 0, 512], ["many", ["flag"], 512], …"""
    match kind:
        case ["flag"]:
            return FLAG
        case ["null"]:
            return NONE
        case ["whole", low, high]:
            return whole(low, high)
        case ["number", low, high]:
            return number(low, high)
        case ["word", *words]:
            return word(*words)
        case ["many", inner, most]:
            return many(_rule(inner), most)
    raise ValueError(f"the table of networks has no kind {kind}")


NETWORKS = read_table(json.loads(TABLE.read_bytes()))
ARCHITECTURES = NETWORKS.classes
