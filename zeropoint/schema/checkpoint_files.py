"""The files of a Hugging Face folder, by name: what may come in, what goes out. Standard library only."""

import re
from collections.abc import Mapping

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
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
"""Kinds that go out as they came in: nothing here reads them."""


def kind_of(name: str) -> str | None:
    """What a file of the folder is; None when no checkpoint has such a file."""
    return next((kind for kind, names in KINDS.items() if names.fullmatch(name)), None)


def shard_name(number: int, count: int) -> str:
    """The name of one of several files of weights, numbered from 1."""
    return f"model-{number:05}-of-{count:05}.safetensors"
