"""Read config.json of a Hugging Face folder. The result is built from checked values, not edited from the input."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from app.errors import Invalid
from app.intake.huggingface.architectures import ARCHITECTURES, NETWORKS
from app.intake.huggingface.config_rules import CODE, DROPPED, NEUTRAL, RULES
from app.intake.huggingface.rules import MAX_LABELS
from app.intake.huggingface.unpack import refused
from app.intake.parsing.strict_json import read_json

MAX_CONFIG_VALUES = 4 * MAX_LABELS

_DTYPES = {name: name for name in ("float32", "float16", "bfloat16")}
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LABEL = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{0,256}")
_LABELS = ("num_labels", "id2label", "label2id")
_NAMES = ("model_type", "architectures", "torch_dtype", "dtype", *_LABELS)
_EXPORT = (
    "Export the network as a program, torch.export.export(model.eval(), args), and upload what torch.export.save "
    "writes: programs need no list of networks."
)
_REMOVE = "Remove the key from config.json if the network does not need it; else export the model as a .pt2 program."


@dataclass(frozen=True)
class Config:
    """The network's class, and the values that it is built with."""

    model_type: str
    architecture: str
    values: dict[str, Any]
    dropped: tuple[str, ...] = ()
    """Keys that the network does not have, as they may be shown."""


def read_config(data: bytes) -> Config:
    """Read config.json. Raises Invalid with the key and its allowed values."""
    document = read_json(data, lambda detail: refused(f"config.json {detail}."), MAX_CONFIG_VALUES)
    if not isinstance(document, dict):
        raise refused("config.json is not an object.")
    model_type, architecture = _architecture(document)
    dropped: set[str] = set()
    values = _values(document, model_type, dropped)
    return Config(model_type, architecture, values | _dtype(document), tuple(sorted(dropped)))


def _values(document: dict[str, Any], model_type: str, dropped: set[str]) -> dict[str, Any]:
    """Return the values that a config of this type is built with. Raises Invalid."""
    nested = NETWORKS.nested.get(model_type, {})
    values = {}
    for key, value in sorted(document.items()):
        if key in nested and isinstance(value, dict):
            values[key] = _nested(key, value, nested[key], dropped)
        elif key in RULES:
            _check(key, RULES[key].fits(value), RULES[key].expected)
            values[key] = value
        elif _is_unknown(key, value):
            dropped.add(_shown(key))
    return values | _labels(document)


def _nested(key: str, document: dict[str, Any], types: tuple[str, ...], dropped: set[str]) -> dict[str, Any]:
    """Return a config within the config. Its type is one of a list, and none but the network's own class builds it."""
    model_type = document.get("model_type", types[0])
    _check(f"{key}.model_type", model_type in types, f"one of {', '.join(types)}")
    _dtype(document)
    return {"model_type": model_type} | _values(document, model_type, dropped)


def _architecture(document: dict[str, Any]) -> tuple[str, str]:
    model_type, names = document.get("model_type"), document.get("architectures")
    known = ARCHITECTURES.get(model_type, frozenset()) if isinstance(model_type, str) else frozenset()
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(model_type, str) or not isinstance(name, str) or name not in known:
        raise Invalid("architecture_unsupported", _unsupported(model_type, name), _EXPORT)
    return model_type, name


def _unsupported(model_type: Any, name: Any) -> str:
    """Return the words for a network that is not in the table, with those of its type, or types of a similar name."""
    if not isinstance(model_type, str) or not isinstance(name, str):
        return "config.json: model_type and architectures name no network; from_pretrained needs both."
    said = f"config.json: the network {_plain(name)} of model_type {_plain(model_type)} is not one that is built here"
    known = sorted(ARCHITECTURES.get(model_type, ()))
    near = get_close_matches(model_type, ARCHITECTURES, 8, 0.6)
    if known:
        return f"{said}; those of this type are {', '.join(known)}."
    return f"{said}; types of a similar name are {', '.join(near)}." if near else f"{said}."


def _is_unknown(key: str, value: object) -> bool:
    """Return whether the network does not know the key. Raises Invalid if dropping it would change the network."""
    if key in NEUTRAL:
        _check(key, NEUTRAL[key].fits(value), NEUTRAL[key].expected)
        return False
    if key in _NAMES or key in DROPPED or key.startswith("_") or value is None:
        return False
    if CODE.fullmatch(key):
        if value is False:
            return False
        raise refused(f"config.json: {_shown(key)} would load code or files from elsewhere.", _REMOVE)
    if key in NETWORKS.read or isinstance(value, dict):
        raise refused(f"config.json: {_shown(key)} is not a supported key.", _REMOVE)
    return True


def _dtype(document: dict[str, Any]) -> dict[str, Any]:
    dtype = document.get("dtype", document.get("torch_dtype"))
    if dtype is None:
        return {}
    _check("dtype", isinstance(dtype, str) and dtype in _DTYPES, f"one of {', '.join(_DTYPES)}")
    return {"dtype": _DTYPES[dtype]}


def _labels(document: dict[str, Any]) -> dict[str, Any]:
    """Return id2label, and label2id derived from it; num_labels, if present too, must be their number."""
    count, names = document.get("num_labels"), document.get("id2label")
    expected = f"a whole number from 1 to {MAX_LABELS}, the number of labels in id2label"
    if names is None:
        _check("num_labels", count is None or (type(count) is int and 1 <= count <= MAX_LABELS), expected)
        return {} if count is None else {"num_labels": count}
    ordered = _ordered_labels(names)
    _check("num_labels", count is None or count == len(ordered), expected)
    return {
        "id2label": {str(number): label for number, label in enumerate(ordered)},
        "label2id": {label: number for number, label in enumerate(ordered)},
    }


def _ordered_labels(names: Any) -> list[str]:
    expected = f"an object from 0, 1, 2 … to at most {MAX_LABELS} labels of plain text"
    _check("id2label", isinstance(names, dict) and 1 <= len(names) <= MAX_LABELS, expected)
    ordered = [names.get(str(number)) for number in range(len(names))]
    _check("id2label", all(isinstance(label, str) and _LABEL.fullmatch(label) for label in ordered), expected)
    return ordered


def _check(key: str, fits: bool, expected: str) -> None:
    if not fits:
        raise refused(f"config.json: {key} must be {expected}.", "Use the config.json that save_pretrained wrote.")


def _plain(name: str) -> str:
    return name if _KEY.fullmatch(name) else "of another name"


def _shown(key: str) -> str:
    return key if _KEY.fullmatch(key) else "a key"
