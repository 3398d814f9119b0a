"""What the table of networks says about configs, derived from the config classes of transformers and their sources.

A key's kind follows from its annotation, and the range of a number from what its name counts. A key that holds text may
have the words that the sources compare it with.
"""

import dataclasses
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import transformers
from transformers.configuration_utils import ALLOWED_LAYER_TYPES
from transformers.models.auto import configuration_auto, modeling_auto

from app.intake.huggingface.config_rules import CODE, DROPPED, NEUTRAL, SHARED
from app.intake.huggingface.rules import MAX_LAYERS, MAX_POSITIONS, MAX_VOCABULARY, MAX_WIDTH
from tests.tiny_networks import tiny_config, value_of

Kind = list[Any]
CONFIGS: Mapping[str, str] = vars(configuration_auto)["CONFIG_MAPPING_NAMES"]
MODELS = Path(str(transformers.__file__)).parent / "models"
HANDLED = {
    *("architectures", "model_type", "dtype", "torch_dtype", "id2label", "label2id", "num_labels"),
    *("transformers_version", "problem_type", "return_dict", "output_hidden_states", "chunk_size_feed_forward"),
}
_ELSEWHERE = re.compile(r"(.*_)?(path|url|file|repo|checkpoint|tokenizer|hub|revision|code|impl|implementation)(_.*)?")
"""Keys whose text could name something outside the config; none of them is taken as text."""
_HEAD = re.compile(r"(Model|For[A-Z]\w*|LMHeadModel|EncoderModel|DoubleHeadsModel)$")
_WORD = re.compile(r"[A-Za-z0-9_-]{1,40}")
_BOUNDS: tuple[tuple[re.Pattern[str], tuple[int, int]], ...] = tuple(
    (re.compile(pattern), bounds)
    for pattern, bounds in (
        (r".*(_token_id|_token_ids|_token_index|_idx|_index|_indices|_token)", (-1, MAX_VOCABULARY)),
        (r".*(vocab|num_embeddings|codebook_size).*", (0, MAX_VOCABULARY)),
        (r".*(position|length|max_seq|seq_len|num_frames|window|chunk).*", (0, MAX_POSITIONS)),
        (r".*(layer|depth|block|stage|level|hidden_groups|repeat).*", (0, MAX_LAYERS)),
        (r".*(expert|head|group).*", (0, 4096)),
        (r".*(kernel|stride|dilation|padding|patch|pool).*", (0, 8192)),
    )
)
_SIZES = re.compile(r".*(size|dim|width|channels|hidden)s?")


@cache
def model_classes() -> dict[str, tuple[str, ...]]:
    """Return the names of the classes that may be networks of each model type, those of the Auto classes first."""
    found: dict[str, dict[str, None]] = {model_type: {} for model_type in CONFIGS}
    for name, mapping in vars(modeling_auto).items():
        if name.endswith("_MAPPING_NAMES"):
            for model_type, classes in mapping.items():
                found.setdefault(model_type, {}).update(
                    dict.fromkeys([classes] if isinstance(classes, str) else classes)
                )
    by_prefix = {str(config).removesuffix("Config"): model_type for model_type, config in CONFIGS.items()}
    for name in sorted(dir(transformers)):
        prefix = _HEAD.sub("", name)
        if prefix != name and prefix in by_prefix:
            found[by_prefix[prefix]].setdefault(name)
    return {model_type: tuple(filter(None, names)) for model_type, names in found.items()}


def class_of(name: str, model_type: str) -> Any:
    """Return a class of transformers if it is a network of this model type, else None."""
    kind = getattr(transformers, name, None)
    is_network = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    config = getattr(kind, "config_class", None) if is_network else None
    return kind if config is not None and config.model_type == model_type and not name.startswith("Auto") else None


def table_of(networks: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Return the table for these classes by model type."""
    nested: dict[str, dict[str, list[str]]] = {}
    configs: dict[str, Any] = {}
    for model_type, names in networks.items():
        kind = class_of(next(iter(names)), model_type)
        _collect(kind.config_class(**tiny_config(kind)), nested, configs)
    keys: dict[str, list[Kind]] = {}
    for config in configs.values():
        for field in dataclasses.fields(config):
            if field.name in HANDLED | DROPPED | set(NEUTRAL) or CODE.fullmatch(field.name) or field.name[0] == "_":
                continue
            value = value_of(config, field.name)
            keys[field.name] = _joined(keys.get(field.name, []), _kinds(field.name, field.type, value))
        for key, value in config.to_dict().items():  # what the class computes and saves is no field
            if not (key in HANDLED | DROPPED | set(NEUTRAL) or CODE.fullmatch(key) or key[0] == "_"):
                keys[key] = _joined(keys.get(key, []), _kinds(key, type(value), value))
    keys = {key: kinds for key, kinds in keys.items() if kinds}
    return {
        "transformers": transformers.__version__,
        "classes": {model_type: sorted(names) for model_type, names in sorted(networks.items())},
        "nested": {model_type: parts for model_type, parts in sorted(nested.items()) if parts},
        "keys": dict(sorted(keys.items())),
        "read": sorted(_read_names() - keys.keys() - SHARED.keys() - HANDLED - DROPPED - NEUTRAL.keys()),
    }


def _collect(instance: Any, nested: dict[str, dict[str, list[str]]], configs: dict[str, Any]) -> None:
    """Add the class of a config, and those of its nested configs."""
    configs[instance.model_type] = instance
    for field in dataclasses.fields(instance):
        value: Any = value_of(instance, field.name)
        if hasattr(value, "model_type"):
            types = nested.setdefault(instance.model_type, {}).setdefault(field.name, [])
            if value.model_type not in types:
                types.append(value.model_type)
            _collect(value, nested, configs)


def _kinds(key: str, annotation: Any, default: Any) -> Iterator[Kind]:
    """Yield the kinds of values that a key may have; of keys with a rule by hand, only what that does not cover."""
    by_hand = key in SHARED
    for kind in _members(annotation):
        origin = get_origin(kind)
        if kind is type(None):
            yield ["null"]
        elif by_hand and SHARED[key].fits([1, 1]):
            continue
        elif origin in (list, tuple) or kind in (list, tuple):
            items = [argument for argument in get_args(kind) if argument is not Ellipsis]
            inner = [one for argument in items for one in _kinds_in_list(key, argument)]
            inner += _kinds_of_values(key, default)
            yield from (["many", one, MAX_LAYERS] for one in _joined([], inner))
        elif not by_hand:
            yield from _plain(key, kind, default)


def _kinds_in_list(key: str, annotation: Any) -> Iterator[Kind]:
    for kind in _members(annotation):
        if get_origin(kind) in (list, tuple):
            items = [argument for argument in get_args(kind) if argument is not Ellipsis]
            yield from (["many", one, MAX_LAYERS] for argument in items for one in _plain(key, argument, None))
        else:
            yield from _plain(key, kind, None)


def _kinds_of_values(key: str, values: Any) -> Iterator[Kind]:
    for value in values if isinstance(values, list | tuple) else ():
        yield from _plain(key, type(value), value)


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _plain(key: str, kind: Any, default: Any) -> Iterator[Kind]:
    if kind is bool:
        yield ["flag"]
    elif kind is int:
        low, high = _bounds(key)
        yield ["whole", min(low, default) if type(default) is int else low, high]
    elif kind is float:
        yield ["number", -1e9, 1e9]
    elif get_origin(kind) is Literal:
        yield ["word", *sorted(word for word in get_args(kind) if isinstance(word, str) and _WORD.fullmatch(word))]
    elif kind is str and not _ELSEWHERE.fullmatch(key) and (words := _words(key, default)):
        yield ["word", *words]


def _bounds(key: str) -> tuple[int, int]:
    if _SIZES.fullmatch(key):
        return 0, MAX_WIDTH
    return next((bounds for names, bounds in _BOUNDS if names.fullmatch(key)), (0, MAX_WIDTH))


def _words(key: str, default: Any) -> list[str]:
    """Return the words that a key may be: activations, its default, and whatever the sources compare it with."""
    words = {default} if isinstance(default, str) else set()
    if key.endswith("layer_types"):
        words |= set(ALLOWED_LAYER_TYPES)
    if re.search(r"act(ivation)?(_|$)|nonlinearity", key):
        words |= set(transformers.activations.ACT2FN)
    return sorted(word for word in words | _compared_words().get(key, set()) if _WORD.fullmatch(word))


def _joined(known: list[Kind], more: Iterable[Kind]) -> list[Kind]:
    """Return both lists without repetition; words and ranges of one kind become one."""
    joined = [*known]
    for kind in more:
        same = next((k for k in joined if k[0] == kind[0] and (k[0] != "many" or k[1][0] == kind[1][0])), None)
        if same is None:
            joined.append(kind)
        elif kind[0] == "word":
            joined[joined.index(same)] = ["word", *sorted({*same[1:], *kind[1:]})]
        elif kind[0] in ("whole", "number"):
            joined[joined.index(same)] = [kind[0], min(same[1], kind[1]), max(same[2], kind[2])]
        elif kind[0] == "many":
            joined[joined.index(same)] = ["many", _joined([same[1]], [kind[1]])[0], MAX_LAYERS]
    return joined


_COMPARED = re.compile(r"\.(\w+)(?:\[\w+\])? (?:[!=]=|(?:not )?in) (\"[^\"]*\"|[\[({][^\])}]*)")
_QUOTED = re.compile(r"[\"']([^\"']*)[\"']")
_READ = re.compile(
    r"config\.(\w+)|getattr\([^,()]+, \"(\w+)\"|hasattr\([^,()]+, \"(\w+)\"|kwargs\.(?:pop|get)\(\"(\w+)\""
)


@cache
def _sources() -> tuple[str, ...]:
    """Return the sources of all networks and their configs."""
    files = sorted(path for kind in ("modeling", "configuration") for path in MODELS.glob(f"*/{kind}_*.py"))
    return tuple(path.read_text("utf-8") for path in files)


@cache
def _compared_words() -> Mapping[str, set[str]]:
    """Return the words that attributes are compared with in the sources."""
    words: dict[str, set[str]] = {}
    for source in _sources():
        for match in _COMPARED.finditer(source):
            words.setdefault(match[1], set()).update(_QUOTED.findall(match[2]))
    return words


@cache
def _read_names() -> set[str]:
    """Return the names that networks read of their configs."""
    names = {name for source in _sources() for found in _READ.findall(source) for name in found if name}
    base = transformers.PreTrainedConfig
    return {name for name in names if not name.startswith("_") and not callable(getattr(base, name, None))}
