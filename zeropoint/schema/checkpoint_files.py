"""The files of a Hugging Face folder by name, uploaded and written. Standard library only."""

import re
from collections.abc import Mapping

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FOLDER_FILE = "model.tar"
"""The whole folder as one file to download."""

KINDS: Mapping[str, re.Pattern[str]] = {
    "config": re.compile(r"config\.json"),
    "generation_config": re.compile(r"generation_config\.json"),
    "weights": re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors"),
    "index": re.compile(r"model\.safetensors\.index\.json"),
    "tokenizer": re.compile(
        r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
        r"|vocab\.(json|txt)|merges\.txt|(preprocessor|processor)_config\.json|chat_template\.(jinja|json)"
        r"|spiece\.model|sentencepiece\.bpe\.model|tokenizer\.model"
    ),
}
CARRIED = ("generation_config", "tokenizer")
"""Kinds that are copied unchanged, and never read."""


def kind_of(name: str) -> str | None:
    """Return the kind of a file by its name; None when no checkpoint has such a file."""
    return next((kind for kind, names in KINDS.items() if names.fullmatch(name)), None)


def shard_name(number: int, count: int) -> str:
    """Return the name of one of several weight files, numbered from 1."""
    return f"model-{number:05}-of-{count:05}.safetensors"
