"""A sentence encoder as its authors ship it: a tiny BERT, its pooling, and everything that lies beside them."""

import json
import pickle
from pathlib import Path
from typing import Any

from tests.escape_canary import Touch, payload
from tests.transformers_networks import Network, network

DOCUMENTS: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    },
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"},
        "prompts": {"query": "Represent this: "},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
}
CARRIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "generation_config.json")
BESIDE = {
    **{".gitattributes": "a hidden file", "README.md": "a text for people", "LICENSE": "a text for people"},
    **{"data_config.json": "not a file that the service knows", "train_script.py": "code, which is never run"},
    **{"logo.png": "text, pictures or recordings", "pytorch_model.bin": "a pickle or an archive, which is not opened"},
    **dict.fromkeys(
        ("tf_model.h5", "rust_model.ot", "flax_model.msgpack", "model.Q4_0.gguf"),
        "weights of another format; those in model.safetensors are taken",
    ),
    **dict.fromkeys(("onnx/", "openvino/", "original/"), "a folder that is not part of the network"),
    ".cache/": "a hidden folder",
}
"""What is left out, and why."""


def shipped(folder: Path, canary: Path) -> Network:
    """Write the folder; code and pickles in it would make the canary."""
    made = network("BertModel", folder)
    for name, document in DOCUMENTS.items():
        _write(folder / name, json.dumps(document, indent=2).encode())
    for name in CARRIED:
        _write(folder / name, f'{{"this is": "{name}"}}'.encode())
    for name in BESIDE:
        place = folder / (f"{name}deep/model.onnx" if name.endswith("/") else name)
        _write(place, pickle.dumps(Touch(canary)) if name.endswith(".bin") else payload(canary).encode())
    (folder / "original" / "config.json").symlink_to("/etc/hostname")
    _write(folder / "onnx" / "config.json", bytes(2**20 + 1))
    return made


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
