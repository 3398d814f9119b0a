"""The files of a Hugging Face folder by name, uploaded and written. Standard library only."""

import re
from collections.abc import Mapping

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MODULES_FILE = "modules.json"
"""The list of a sentence encoder's modules: the network, its pooling, …"""
FOLDER_FILE = "model.tar"
"""The whole folder as one file to download."""

KINDS: Mapping[str, re.Pattern[str]] = {
    "config": re.compile(r"config\.json"),
    "generation_config": re.compile(r"generation_config\.json"),
    "weights": re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors"),
    "index": re.compile(r"model\.safetensors\.index\.json"),
    "pickled_weights": re.compile(r"pytorch_model(-[0-9]{5}-of-[0-9]{5})?\.bin"),
    "pickled_index": re.compile(r"pytorch_model\.bin\.index\.json"),
    "tokenizer": re.compile(
        r"(audio_)?tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|entity_vocab\.json"
        r"|((feature_extractor|(video_)?preprocessor|processor|image_processor)_config)\.json"
        r"|vocab\.(json|txt|bpe|model)|encoder\.json|merges\.txt|bpe\.codes|dict\.txt|normalizer\.json|tekken\.json"
        r"|(spiece|sentencepiece(\.bpe)?|spm|tokenizer|bpe)\.model(\.v[0-9]{1,2})?|(source|target)\.spm|qwen\.tiktoken"
        r"|chat_template\.(jinja|json)"
    ),
    "sentence_encoder": re.compile(
        r"modules\.json|config_sentence_transformers\.json|sentence_[a-z_-]{1,32}_config\.json"
        r"|[0-9]{1,2}_[A-Z][A-Za-z]{1,32}/config\.json"
    ),
}
CARRIED = ("generation_config", "tokenizer", "sentence_encoder")
"""Kinds that are copied unchanged, and never read once they are stored."""


def kind_of(name: str) -> str | None:
    """Return the kind of a file by its name; None when no checkpoint has such a file."""
    return next((kind for kind, names in KINDS.items() if names.fullmatch(name)), None)


def shard_name(number: int, count: int) -> str:
    """Return the name of one of several weight files, numbered from 1."""
    return f"model-{number:05}-of-{count:05}.safetensors"
