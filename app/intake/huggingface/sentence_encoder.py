"""The small JSON files of a sentence encoder: which modules follow the network, and how tokens become one vector.

    modules.json                        the network, its pooling, perhaps a normalization
    1_Pooling/config.json               how the tokens' vectors become one
    config_sentence_transformers.json   prompts, and how vectors are compared
    sentence_bert_config.json           the longest text

Each is built from checked values, under names of ours. What can't be checked is left out and listed: the network is
taken anyway.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.intake.huggingface.rules import FLAG, MAX_POSITIONS, MAX_WIDTH, NONE, Rule, either, whole, word
from app.intake.huggingface.unpack import FolderFile, refused
from app.intake.parsing.strict_json import read_json
from zeropoint.schema.checkpoint_files import CONFIG_FILE, MODULES_FILE

MAX_VALUES = 10_000
MAX_MODULES = 8

_SETTINGS_FILE = "config_sentence_transformers.json"
_TYPE = re.compile(r"sentence_transformers(\.[a-z_]{1,40}){1,4}\.(Transformer|Pooling|Normalize)")
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{0,64}")
_TEXT = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]{0,4096}")
_TOKENS = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def _text(pattern: re.Pattern[str]) -> Rule:
    return Rule(lambda value: isinstance(value, str) and bool(pattern.fullmatch(value)), "plain text")


def _texts(values: re.Pattern[str]) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(_LINE.fullmatch(k) and _text(values).fits(v) for k, v in value.items())

    return Rule(fits, "an object of texts")


_POOLING: Mapping[str, Rule] = {
    **dict.fromkeys(("word_embedding_dimension", "embedding_dimension"), whole(1, MAX_WIDTH)),
    **{f"pooling_mode_{tokens}": FLAG for tokens in _TOKENS},
    "pooling_mode": word("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
    "include_prompt": FLAG,
}
_LENGTH: Mapping[str, Rule] = {"max_seq_length": either(whole(1, MAX_POSITIONS), NONE), "do_lower_case": FLAG}
_SETTINGS: Mapping[str, Rule] = {
    "__version__": _texts(_LINE),
    "model_type": word("SentenceTransformer"),
    "prompts": _texts(_TEXT),
    "default_prompt_name": either(_text(_LINE), NONE),
    "similarity_fn_name": either(word("cosine", "dot", "dot_product", "euclidean", "manhattan"), NONE),
}


@dataclass(frozen=True)
class SentenceEncoder:
    """Documents by their paths, empty for a folder that is no sentence encoder; and pairs of a path and a reason."""

    documents: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()


def read_sentence_encoder(folder: Path, files: Sequence[FolderFile]) -> SentenceEncoder:
    """Read the files beside a network. Raises nothing for what is in them: a fault leaves all of them out."""
    known = {file.name: file for file in files}
    if MODULES_FILE not in known:
        return SentenceEncoder(left_out=tuple((name, "no modules.json says what it is for") for name in known))
    left_out: list[tuple[str, str]] = []
    try:
        documents = dict(_documents(folder, known, left_out))
    except Invalid as refusal:
        reason = f"not carried, and with it the pooling: {refusal.detail}"
        return SentenceEncoder(left_out=tuple((name, reason) for name in known))
    return SentenceEncoder(documents, tuple(left_out))


def _documents(
    folder: Path, files: dict[str, FolderFile], left_out: list[tuple[str, str]]
) -> Iterator[tuple[str, Any]]:
    modules, read = [], {MODULES_FILE}
    for number, (kind, path, entry) in enumerate(_modules(_json(folder, files[MODULES_FILE]))):
        ours = "" if kind == "Transformer" else f"{number}_{kind}"
        modules.append(entry | {"idx": number, "name": str(number), "path": ours})
        config = f"{path}/{CONFIG_FILE}"
        if kind == "Pooling" and config not in files:
            raise refused(f"{MODULES_FILE}: {CONFIG_FILE} of module {number} is missing.")
        if kind == "Pooling":
            read.add(config)
            yield f"{ours}/{CONFIG_FILE}", _checked(config, _json(folder, files[config]), _POOLING, left_out)
    yield MODULES_FILE, modules
    for name, file in files.items():
        if name == _SETTINGS_FILE:
            yield name, _checked(name, _json(folder, file), _SETTINGS, left_out)
        elif re.fullmatch(r"sentence_[a-z_-]{1,32}_config\.json", name):
            yield name, _checked(name, _json(folder, file), _LENGTH, left_out)
        elif name not in read:
            left_out.append((name, "no module that is carried reads it"))


def _modules(document: Any) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield the kind of each module, its path in the upload, and its type. Raises Invalid."""
    if not isinstance(document, list) or not 1 <= len(document) <= MAX_MODULES:
        raise refused(f"{MODULES_FILE} is not a list of 1 to {MAX_MODULES} modules.")
    for number, entry in enumerate(document):
        kind = entry.get("type") if isinstance(entry, dict) else None
        match = _TYPE.fullmatch(kind) if isinstance(kind, str) else None
        path = entry.get("path") if isinstance(entry, dict) else None
        if match is None or not isinstance(path, str):
            raise refused(f"{MODULES_FILE}: module {number} is not a Transformer, Pooling or Normalize with its path.")
        if (match[2] == "Transformer") != (number == 0):
            raise refused(f"{MODULES_FILE}: the first module, and no other, must be a Transformer.")
        yield match[2], path, {"type": match[0]}


def _checked(name: str, document: Any, rules: Mapping[str, Rule], left_out: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the known keys of a document. Raises Invalid for a value out of range; other keys are listed."""
    if not isinstance(document, dict):
        raise refused(f"{name} is not an object.")
    for key, value in document.items():
        if key not in rules:
            left_out.append((name, "it is carried without the keys that the service doesn't know"))
        elif not rules[key].fits(value):
            raise refused(f"{name}: {key} must be {rules[key].expected}.")
    return {key: value for key, value in document.items() if key in rules}


def _json(folder: Path, file: FolderFile) -> Any:
    data = (folder / file.file).read_bytes()
    return read_json(data, lambda detail: refused(f"{file.name} {detail}."), MAX_VALUES)
