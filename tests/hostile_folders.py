"""Hostile Hugging Face folders, each made from an honest one by one change, with what a good server says.

Every road by which transformers 5 runs, opens or fetches what a folder names is here; `tests.hostile_uploads` writes
them as files beside the hostile programs.
"""

import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tests.app.intake.tars import member, tar
from tests.escape_canary import Touch, payload
from tests.hostile_pickles import PICKLES, saved

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
GATE, DESCRIPTION = "gate", "description"

Files = dict[str, bytes | Path]
"""By name; a path stands for a link to it."""


@dataclass(frozen=True)
class FolderAttack:
    """`change` edits the files of an honest folder in place; `code` and `answer` are of the refusal.

    Without a code the folder is taken: what was hostile in it is gone, or is read by nobody.
    """

    change: Callable[[Files, Path], object]
    code: str | None
    answer: str = ""
    by: str = GATE


def honest_folder() -> Files:
    """A BertModel of one layer, as save_pretrained writes it."""
    width, hidden, words = 8, 16, 32
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings": (words, width),
        "embeddings.position_embeddings": (hidden, width),
        "embeddings.token_type_embeddings": (2, width),
        **{f"encoder.layer.0.attention.self.{name}": (width, width) for name in ("query", "key", "value")},
        "encoder.layer.0.attention.output.dense": (width, width),
        "encoder.layer.0.intermediate.dense": (hidden, width),
        "encoder.layer.0.output.dense": (width, hidden),
        "pooler.dense": (width, width),
    }
    norms = ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output")
    tensors = {f"{name}.weight": torch.rand(shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": torch.rand(shape[0]) for name, shape in shapes.items() if "embeddings" not in name}
    tensors |= {f"{name}.LayerNorm.{part}": torch.rand(width) for name in norms for part in ("weight", "bias")}
    config = {
        **{"architectures": ["BertModel"], "model_type": "bert", "vocab_size": words, "hidden_size": width},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": hidden, "type_vocab_size": 2},
        **{"max_position_embeddings": hidden, "transformers_version": "5.17.0"},
    }
    return {CONFIG: json.dumps(config).encode(), WEIGHTS: save(tensors), "tokenizer.json": b"{}"}


def config(**keys: Any) -> Callable[[Files, Path], None]:
    """Put keys into the config; PAYLOAD in a value becomes the payload's text."""

    def apply(files: Files, canary: Path) -> None:
        document = json.loads(_bytes(files[CONFIG])) | keys
        files[CONFIG] = json.dumps(document).replace("PAYLOAD", json.dumps(payload(canary))[1:-1]).encode()

    return apply


def added(name: str, content: bytes | Path | None = None) -> Callable[[Files, Path], None]:
    """Put a file into the folder: code that makes the canary, if nothing is said."""
    return lambda files, canary: files.update({name: payload(canary).encode() if content is None else content})


def pickled(name: str) -> Callable[[Files, Path], None]:
    """Put a pickle into the folder."""
    return lambda files, canary: files.update({name: pickle.dumps(Touch(canary))})


def saved_weights(name: str) -> Callable[[Files, Path], None]:
    """Put a hostile pickle in place of the weights, in a file of torch.save."""

    def apply(files: Files, canary: Path) -> None:
        del files[WEIGHTS]
        files["pytorch_model.bin"] = saved(PICKLES[name][0](canary))

    return apply


def both(*changes: Callable[[Files, Path], object]) -> Callable[[Files, Path], None]:
    """One change after another."""

    def apply(files: Files, canary: Path) -> None:
        for change in changes:
            change(files, canary)

    return apply


def sharded(**places: str) -> Callable[[Files, Path], None]:
    """The weights in two files with an index, in which some tensors are elsewhere."""

    def apply(files: Files, canary: Path) -> None:
        halves = {SHARDS[0]: {"a": torch.ones(2)}, SHARDS[1]: {"b": torch.ones(2)}}
        index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]} | places}
        del files[WEIGHTS]
        files.update({INDEX: json.dumps(index).encode(), **{name: save(half) for name, half in halves.items()}})

    return apply


def moved(old: str, new: str) -> Callable[[Files, Path], None]:
    """Give a file another name."""
    return lambda files, _: files.update({new: files.pop(old)})


INVALID, UNSUPPORTED = "checkpoint_invalid", "model_format_unsupported"
HUGE = {"hidden_size": 2**18, "intermediate_size": 2**18, "vocab_size": 2**20, "num_hidden_layers": 512}

FOLDER_ATTACKS: dict[str, FolderAttack] = {
    "code of its own": FolderAttack(
        config(auto_map={"AutoModel": "modeling.Evil"}), INVALID, "auto_map would load code"
    ),
    "code of its own beside it": FolderAttack(
        both(config(auto_map={"AutoModel": "modeling.Evil"}), added("modeling.py")), INVALID, "auto_map would load code"
    ),
    "code of the hub": FolderAttack(config(auto_map={"AutoModel": "owner/repo--m.Evil"}), INVALID, "would load code"),
    "pickled weights": FolderAttack(pickled("pytorch_model.bin"), None),
    "pickled weights alone": FolderAttack(
        both(pickled("pytorch_model.bin"), lambda files, _: files.pop(WEIGHTS)),
        "weights_invalid",
        "pytorch_model.bin: The archive has no end record",
    ),
    **{
        f"weights of torch.save with {name}": FolderAttack(
            saved_weights(name), "weights_invalid", f"pytorch_model.bin: The pickle in the file {answer}"
        )
        for name, answer in (
            ("os.system", "holds more than tensors, numbers, text, lists and dicts: b is an object of os.system"),
            ("a call among hooks", "holds more than tensors, numbers, text, lists and dicts: it names os.system"),
            ("a storage of exabytes", "claims a storage of"),
            ("a billion laughs", "holds more than 2000000 values"),
        )
    },
    "pickled arguments": FolderAttack(pickled("training_args.bin"), None),
    "code beside it": FolderAttack(both(added("modeling_bert.py"), added("handler.py"), added("1_Pooling/x.py")), None),
    "a setup that hides": FolderAttack(both(added(".git/hooks/post-checkout"), added(".cache/x")), None),
    "pooling by code": FolderAttack(
        added("modules.json", b'[{"idx": 0, "name": "0", "path": "", "type": "evil.Transformer"}]'), None
    ),
    "pooling from elsewhere": FolderAttack(
        added("modules.json", b'[{"path": "../../victim", "type": "sentence_transformers.models.Pooling"}]'), None
    ),
    "pooling that is deep": FolderAttack(added("modules.json", b"[" * 100_000), None),
    "a pickle called safetensors": FolderAttack(pickled(WEIGHTS), "weights_invalid", "not safetensors"),
    "an adapter of another model": FolderAttack(added("adapter_config.json"), UNSUPPORTED, "adapter_config.json"),
    "a link for weights": FolderAttack(added(WEIGHTS, Path("/etc/passwd")), INVALID, "model.safetensors is a link"),
    "a link for a config": FolderAttack(added(CONFIG, Path("../config.json")), INVALID, "config.json is a link"),
    "an index that leaves": FolderAttack(sharded(b="../victim/model.safetensors"), INVALID, "weight_map may map"),
    "an index to a pickle": FolderAttack(
        both(sharded(b="pytorch_model.bin"), pickled("pytorch_model.bin")), INVALID, "weight_map may map"
    ),
    "a shard that is missing": FolderAttack(
        both(sharded(), lambda files, _: files.pop(SHARDS[1])), INVALID, "not the ones that"
    ),
    "a shard that nobody names": FolderAttack(sharded(b=SHARDS[0]), INVALID, "not the ones that"),
    "a file above": FolderAttack(moved(CONFIG, "../config.json"), INVALID, "not in the folder"),
    "a file at the root": FolderAttack(moved(CONFIG, "/etc/config.json"), INVALID, "not in the folder"),
    "two folders": FolderAttack(
        both(moved(CONFIG, "a/config.json"), moved(WEIGHTS, "b/model.safetensors")), INVALID, "needs config.json and"
    ),
    "a key twice": FolderAttack(
        lambda files, _: files.update({CONFIG: b'{"model_type": "x", ' + _bytes(files[CONFIG])[1:]}),
        INVALID,
        "key twice",
    ),
    "a deep config": FolderAttack(added(CONFIG, b'{"a":' * 100_000), INVALID, "nested deeper"),
    "another quantizer": FolderAttack(
        config(quantization_config={"quant_method": "gptq", "bits": 4}), INVALID, "quantization_config would load code"
    ),
    "a kernel of the hub": FolderAttack(config(attn_implementation="owner/repo"), INVALID, "would load code"),
    "kernels": FolderAttack(config(use_kernels=True), INVALID, "use_kernels would load code"),
    "weights elsewhere": FolderAttack(config(transformers_weights="../victim"), INVALID, "would load code or files"),
    "a backbone of the hub": FolderAttack(config(backbone="owner/repo"), INVALID, "backbone would load code"),
    "a name of Python": FolderAttack(config(hidden_act="PAYLOAD"), INVALID, "hidden_act must be one of"),
    "a network of its own": FolderAttack(
        config(model_type="custom"), "architecture_unsupported", "not one that is built here"
    ),
    "a class of another module": FolderAttack(
        config(architectures=["os.system"]), "architecture_unsupported", "not one that is built here"
    ),
    "not a number": FolderAttack(
        added(WEIGHTS, save({"a": torch.tensor([float("nan")])})), "non_finite_weights", "'a' holds NaN or infinity"
    ),
    "a huge network": FolderAttack(config(**HUGE), "checkpoint_does_not_fit", "has shape", DESCRIPTION),
    "a tensor too many": FolderAttack(
        added(WEIGHTS, save({"evil.weight": torch.ones(2)})), "checkpoint_does_not_fit", "'evil.weight'", DESCRIPTION
    ),
    "a kernel of the hub, as transformers keeps it": FolderAttack(config(_attn_implementation="owner/repo"), None),
    "another folder's name": FolderAttack(config(_name_or_path="PAYLOAD"), None),
    "a tokenizer with code": FolderAttack(
        added("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["owner/repo--t.Evil", null]}}'), None
    ),
}


def pack(files: Files) -> bytes:
    """A tar of the files."""
    return tar(*map(_entry, files, files.values()))


def _entry(name: str, content: bytes | Path) -> tuple[tarfile.TarInfo, bytes]:
    if isinstance(content, bytes):
        return member(name, content)
    return member(name, type=tarfile.SYMTYPE, linkname=str(content))


def attacked(name: str, canary: Path) -> bytes:
    """The hostile archive."""
    files = honest_folder()
    FOLDER_ATTACKS[name].change(files, canary)
    return pack(files)


def _bytes(content: bytes | Path) -> bytes:
    assert isinstance(content, bytes)
    return content
