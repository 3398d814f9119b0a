import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.intake.huggingface.architectures import ARCHITECTURES, NETWORKS, TABLE, read_table
from app.intake.huggingface.config import Config, read_config
from app.intake.huggingface.config_rules import CODE, DROPPED, NEUTRAL, RULES
from tests.app.intake.mutations import SETTINGS, damaged, damaged_json

BERT: dict[str, Any] = {
    "_name_or_path": "someone/bert",
    "architectures": ["BertForSequenceClassification"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.40.0",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}

HONEST: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "clip": {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 512,
        "text_config": {
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "hidden_act": "quick_gelu",
            "hidden_size": 512,
            "intermediate_size": 2048,
            "max_position_embeddings": 77,
            "model_type": "clip_text_model",
            "num_attention_heads": 8,
            "num_hidden_layers": 12,
            "vocab_size": 49408,
        },
        "vision_config": {
            "hidden_size": 768,
            "image_size": 224,
            "model_type": "clip_vision_model",
            "num_attention_heads": 12,
            "num_channels": 3,
            "num_hidden_layers": 12,
            "patch_size": 32,
        },
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 128256,
    },
    "t5": {
        "architectures": ["T5ForConditionalGeneration"],
        "classifier_dropout": 0.0,
        "d_ff": 2048,
        "d_kv": 64,
        "d_model": 512,
        "decoder_start_token_id": 0,
        "dense_act_fn": "relu",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "relu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": False,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "n_positions": 512,
        "num_decoder_layers": 6,
        "num_heads": 8,
        "num_layers": 6,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "vocab_size": 32128,
    },
    "opt": {
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 3072,
        "hidden_size": 768,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "prefix": "</s>",
        "vocab_size": 50272,
        "word_embed_proj_dim": 768,
    },
    "vit": {
        "architectures": ["ViTForImageClassification"],
        "attention_probs_dropout_prob": 0.0,
        "encoder_stride": 16,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": 768,
        "image_size": 224,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "model_type": "vit",
        "num_attention_heads": 12,
        "num_channels": 3,
        "num_hidden_layers": 12,
        "patch_size": 16,
        "qkv_bias": True,
    },
}


def read(changed: dict[str, Any] | None = None) -> Config:
    return read_config(json.dumps(BERT | (changed or {})).encode())


def refusal_of(data: bytes) -> Invalid:
    with pytest.raises(Invalid) as refusal:
        read_config(data)
    assert refusal.value.detail.isprintable()
    return refusal.value


@pytest.mark.parametrize("document", HONEST.values(), ids=HONEST.keys())
def test_what_save_pretrained_wrote_is_read(document: dict[str, Any]) -> None:
    config = read_config(json.dumps(document).encode())
    assert (config.model_type, config.architecture) == (document["model_type"], document["architectures"][0])
    kept = {key: value for key, value in document.items() if key in RULES}
    added = {key: config.values[key] for key in ("dtype", "id2label", "label2id") if key in config.values}
    assert config.values == kept | added
    assert added.get("dtype") == document.get("torch_dtype")


def test_labels_are_made_anew() -> None:
    values = read({"label2id": {"x": 7}, "num_labels": 2}).values
    assert values["id2label"] == {"0": "NEGATIVE", "1": "POSITIVE"}
    assert values["label2id"] == {"NEGATIVE": 0, "POSITIVE": 1}
    assert read({"id2label": None, "num_labels": 5}).values["num_labels"] == 5


def test_no_key_that_begins_with_an_underscore_is_kept() -> None:
    config = read({"_anything": {"auto_map": 1}, "_attn_implementation": "owner/repo", "_x\0": 1})
    assert config.values == read().values


def test_what_no_network_has_is_dropped_and_told() -> None:
    config = read({"new_key": 1, "another": "../x", "x\u2028y": True, "use_timm_backbone": False, "backbone": None})
    assert config.values == read().values
    assert config.dropped == ("a key", "another", "new_key")


def nested(**keys: Any) -> bytes:
    """CLIP's config with other keys in that of its text part."""
    return json.dumps(HONEST["clip"] | {"text_config": HONEST["clip"]["text_config"] | keys}).encode()


def test_a_config_within_the_config_is_read_by_the_same_rules() -> None:
    values = read_config(nested(_name_or_path="x", torch_dtype="float32", id2label={"0": "A"}, num_labels=1)).values
    assert values["text_config"] == HONEST["clip"]["text_config"] | {"id2label": {"0": "A"}, "label2id": {"A": 0}}
    without = HONEST["clip"]["text_config"].copy()
    without.pop("model_type")
    document = json.dumps(HONEST["clip"] | {"text_config": without}).encode()
    assert read_config(document).values["text_config"]["model_type"] == "clip_text_model"


NESTED: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": ({"auto_map": {"AutoModel": "modeling.Evil"}}, "auto_map would load code"),
    "another type": ({"model_type": "bert"}, "text_config.model_type must be one of clip_text_model"),
    "a type that is a list": ({"model_type": ["clip_text_model"]}, "text_config.model_type must be"),
    "a quantizer": ({"quantization_config": {}}, "would load code"),
    "a kernel": ({"attn_implementation": "owner/repo"}, "would load code"),
    "very wide": ({"hidden_size": 2**40}, "hidden_size must be"),
    "very deep": ({"num_hidden_layers": 10**6}, "num_hidden_layers must be"),
    "an activation that is a path": ({"hidden_act": "os.system"}, "hidden_act must be one of"),
    "a dtype that is a path": ({"dtype": "os.system"}, "dtype must be one of"),
    "a config within": ({"vision_config": {"model_type": "clip_vision_model"}}, "vision_config"),
    "very many labels": ({"num_labels": 10**9}, "num_labels must be"),
}


@pytest.mark.parametrize(("changed", "why"), NESTED.values(), ids=NESTED.keys())
def test_nothing_hides_in_a_config_within(changed: dict[str, Any], why: str) -> None:
    assert why in refusal_of(nested(**changed)).detail


def test_the_table_is_one_that_the_script_wrote() -> None:
    table = json.loads(TABLE.read_bytes())
    assert read_table(table).classes == ARCHITECTURES
    assert len(ARCHITECTURES) >= 80
    assert {kind for parts in NETWORKS.nested.values() for kinds in parts.values() for kind in kinds}
    for kinds in table["keys"].values():
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", word) for kind in kinds for word in words_of(kind))
    broken = table | {"keys": {"x": [["regex", ".*"]]}}
    with pytest.raises(ValueError, match="no kind"):
        read_table(broken)


def words_of(kind: list[Any]) -> list[str]:
    """The words that a kind of the table allows."""
    if kind[0] == "many":
        return words_of(kind[1])
    return kind[1:] if kind[0] == "word" else []


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": ({"auto_map": {"AutoModel": "modeling.Evil"}}, "auto_map would load code"),
    "pipelines": ({"custom_pipelines": {}}, "would load code"),
    "a kernel of the hub": ({"attn_implementation": "owner/repo"}, "attn_implementation would load code"),
    "a kernel of the hub, deeper": ({"experts_implementation": "owner/repo"}, "would load code"),
    "kernels": ({"use_kernels": True}, "would load code"),
    "a quantizer": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config would load code"),
    "weights elsewhere": ({"transformers_weights": "../victim/model.safetensors"}, "would load code or files"),
    "a backbone": ({"backbone": "timm/resnet"}, "would load code or files"),
    "a backbone's settings": ({"use_timm_backbone": True}, "would load code or files"),
    "a key that some network reads": ({min(NETWORKS.read): True}, "is not a supported key"),
    "an unknown object": ({"new_key": {"a": 1}}, "new_key is not a supported key"),
    "a key that is no word": ({"x\u2028y": {}}, "a key is not a supported key"),
    "a network in another": ({"text_config": {"model_type": "bert"}}, "text_config"),
    "very many layers": ({"num_hidden_layers": 10**7}, "num_hidden_layers must be a whole number from 0 to 512"),
    "a wide network": ({"hidden_size": 2**30}, "hidden_size must be"),
    "many words": ({"vocab_size": 2**24}, "vocab_size must be"),
    "no words": ({"vocab_size": 0}, "vocab_size must be"),
    "a number as text": ({"hidden_size": "768"}, "hidden_size must be"),
    "a number with a fraction": ({"hidden_size": 768.0}, "hidden_size must be"),
    "true for a number": ({"hidden_size": True}, "hidden_size must be"),
    "a list for a number": ({"hidden_size": [768]}, "hidden_size must be"),
    "a share over one": ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must be"),
    "infinity": ({"initializer_range": 1e999}, "is not a JSON number"),
    "a huge number": ({"initializer_range": 10**400}, "initializer_range must be"),
    "an activation that is a path": ({"hidden_act": "os.system"}, "hidden_act must be one of"),
    "a dtype that is a path": ({"torch_dtype": "os.system"}, "dtype must be one of float32"),
    "a dtype that is a list": ({"dtype": ["float32"]}, "dtype must be one of"),
    "other positions": ({"position_embedding_type": "relative_key"}, "position_embedding_type must be absolute"),
    "removed heads": ({"pruned_heads": {"0": [1]}}, "pruned_heads must be"),
    "one for true": ({"normalize_embedding": 1}, "normalize_embedding must be"),
    "a network without its last norm": ({"_remove_final_layer_norm": True}, "must be False"),
    "very many labels": ({"num_labels": 5 * 10**7, "id2label": None}, "num_labels must be"),
    "another number of labels": ({"num_labels": 3}, "num_labels must be"),
    "labels with a gap": ({"id2label": {"0": "a", "2": "b"}}, "id2label must be"),
    "labels that are no text": ({"id2label": {"0": 1}}, "id2label must be"),
    "labels with line breaks": ({"id2label": {"0": "a\nb"}}, "id2label must be"),
    "labels in a list": ({"id2label": ["a"]}, "id2label must be"),
    "no labels": ({"id2label": {}}, "id2label must be"),
    "a rope of code": ({"rope_scaling": {"rope_type": "os.system"}}, "rope_scaling must be"),
    "a rope with other keys": ({"rope_scaling": {"auto_map": 1}}, "rope_scaling must be"),
    "a rope of lists": ({"rope_scaling": {"short_factor": [1.0] * 5000}}, "rope_scaling must be"),
    "many layer types": ({"layer_types": ["full_attention"] * 513}, "layer_types must be"),
    "an image of three sides": ({"image_size": [1, 2, 3]}, "image_size must be"),
}


@pytest.mark.parametrize(("changed", "why"), HOSTILE.values(), ids=HOSTILE.keys())
def test_keys_out_of_range_or_for_code_are_refused(changed: dict[str, Any], why: str) -> None:
    refusal = refusal_of(json.dumps(BERT | changed).encode())
    assert refusal.code == "checkpoint_invalid"
    assert why in refusal.detail


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "custom"}, ["BertForSequenceClassification of model_type custom is not one that is built"]),
        ({"model_type": None}, ["name no network"]),
        ({"model_type": ["bert"]}, ["name no network"]),
        ({"model_type": "llama"}, ["those of this type are", "LlamaForCausalLM"]),
        ({"architectures": []}, ["name no network"]),
        ({"architectures": "BertModel"}, ["name no network"]),
        ({"architectures": ["os.system"]}, ["the network os.system of model_type bert", "BertModel"]),
        ({"architectures": ["LlamaModel"]}, ["LlamaModel of model_type bert", "those of this type are", "BertModel"]),
        ({"model_type": "bertt"}, ["types of a similar name are", "bert,"]),
        ({"architectures": [["BertModel"]]}, ["name no network"]),
        ({"architectures": None}, ["name no network"]),
        ({"architectures": ["<b>/etc/passwd"]}, ["the network of another name of model_type bert"]),
        ({"model_type": "x" * 10_000}, ["model_type of another name"]),
        ({"model_type": "resnet", "architectures": ["ResNetModel"]}, ["ResNetModel of model_type resnet"]),
    ],
)
def test_networks_that_are_not_listed_are_refused(changed: dict[str, Any], words: list[str]) -> None:
    refusal = refusal_of(json.dumps(BERT | changed).encode())
    assert refusal.code == "architecture_unsupported"
    assert all(part in refusal.detail for part in words), refusal.detail
    assert len(refusal.detail) < 1000
    assert "passwd" not in refusal.detail
    assert "torch.export.export" in refusal.remedy


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not an object"),
        (b'{"model_type": "bert", "model_type": "bert"}', "key twice"),
        (b"[" * 10_000, "nested"),
        (b'{"x": [' + b"1," * 500_000 + b"1]}", "more than 400000 values"),
    ],
)
def test_what_is_no_config_is_refused(data: bytes, why: str) -> None:
    assert why in refusal_of(data).detail


def test_the_tables_do_not_contradict_one_another() -> None:
    assert not RULES.keys() & NEUTRAL.keys()
    assert not RULES.keys() & DROPPED
    assert not NEUTRAL.keys() & DROPPED
    assert not [key for key in (*RULES, *NEUTRAL, *DROPPED) if CODE.fullmatch(key)]
    names = {name for names in ARCHITECTURES.values() for name in names}
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9_]+", name) for name in names)
    assert not [name for name in names if name.startswith("Auto")]


INERT = re.compile(r"[A-Za-z0-9_-]*")


def inert(value: Any) -> bool:
    """Whether no string of it could be code, a path or an address; labels are text for people."""
    if isinstance(value, dict):
        return all(INERT.fullmatch(key) and inert(item) for key, item in value.items())
    return (
        all(map(inert, value))
        if isinstance(value, list)
        else not isinstance(value, str) or bool(INERT.fullmatch(value))
    )


def without_labels(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: without_labels(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if "label" not in key
    }


@SETTINGS
@given(data=st.one_of(*(damaged_json(document) for document in HONEST.values())))
def test_damaged_configs_are_refused_or_harmless(data: bytes) -> None:
    try:
        values = read_config(data).values
    except Invalid as refusal:
        assert refusal.detail.isprintable()  # noqa: PT017 - either end is fine
        return
    assert values.keys() <= RULES.keys() | {"dtype", "num_labels", "id2label", "label2id"}
    assert inert(without_labels(values))


@SETTINGS
@given(data=damaged(json.dumps(BERT).encode()))
def test_damaged_bytes_are_taken_or_refused(data: bytes) -> None:
    try:
        read_config(data)
    except Invalid as refusal:
        assert refusal.detail.isprintable()  # noqa: PT017 - either end is fine
