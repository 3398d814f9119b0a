"""Tiny configs of whatever class transformers has, made from the class's own defaults: small widths, two layers."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING

from tests.transformers_networks import Network
from zeropoint.data.batches import Dim, Input
from zeropoint.sources.huggingface.source import open_huggingface

VOCABULARY = 64
_SMALL: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), size)
    for pattern, size in (
        (r".*(vocab_size|num_embeddings|codebook_size|n_vocab).*", VOCABULARY),
        (r".*(kv_heads|key_value_heads|num_kv|n_head_kv).*", 2),
        (r".*(num_attention_heads|n_heads?|num_heads|attention_heads)", 4),
        (r".*(layers|layer|depth|num_blocks|num_stages)", 2),
        (r".*(experts_per_tok|experts_per_token|top_k|topk|moe_k|topk_group)", 2),
        (r".*n_group|full_attention_interval|attn_layer_period", 2),
        (r"attn_layer_offset", 1),
        (r".*experts.*", 4),
        (r".*(intermediate|ffn|inner|d_ff|mlp_dim|hidden_dim|feedforward).*", 64),
        (r".*patch_(size|stride)", 4),
        (r".*(image_size|img_size|input_size).*", 32),
        (r".*(head_dim|d_kv|attention_head_size|lora_rank|rope_dim|rotary_dim)", 8),
        (r".*(max_position|n_positions|max_source_positions|max_target_positions|n_ctx|max_seq).*", 64),
        (r".*(hidden_size|d_model|embed_dim|dim|n_embd|embedding_size|width|channels?|units|_size)", 32),
    )
)
_KEPT = {
    *("num_channels", "in_channels", "in_chans", "num_mel_bins", "n_mels", "out_channels", "input_channels"),
    *("window_size", "kernel_size", "conv_kernel_size", "type_vocab_size", "max_relative_positions"),
}
_TOKEN = re.compile(r".*(_token_id|_token_index|_idx|_token)")
_IGNORED = {
    *("transformers_version", "architectures", "id2label", "label2id", "dtype", "chunk_size_feed_forward"),
    *("is_encoder_decoder", "return_dict", "output_hidden_states", "problem_type"),
}


def tiny(config_class: Any, overrides: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return arguments of a config class, small versions of its defaults; `overrides` may nest.

    What the class computes from other values, lists with an entry for each layer above all, is left to it.
    """
    default: Any = config_class()
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if field.name in _IGNORED or field.name.startswith("_"):
            continue
        value = value_of(default, field.name)
        if hasattr(value, "model_type"):
            inner = overrides.get(field.name, {})
            named = inner.get("model_type", value.model_type)
            kind = CONFIG_MAPPING[named] if named else type(value)
            values[field.name] = tiny(kind, inner) | {"model_type": kind.model_type}
            continue
        is_computed = field.default is dataclasses.MISSING or field.default is None
        if (
            not (is_computed and isinstance(value, list | tuple | dict))
            and (small := _small(field.name, value)) != value
        ):
            values[field.name] = small
    if "kv_lora_rank" in values:  # its heads have keys of their own
        values["num_key_value_heads"] = values["num_attention_heads"]
    return values | {key: value for key, value in overrides.items() if not isinstance(values.get(key), dict)}


def value_of(config: Any, name: str) -> Any:
    """Return the value of a field, or None; some configs refuse to name a value that differs between layers."""
    try:
        return getattr(config, name, None)
    except Exception:
        return vars(config).get(name)


def _small(name: str, value: Any) -> Any:
    if type(value) is int:
        return _small_number(name, value)
    if isinstance(value, list | tuple) and value and all(type(item) is int for item in value):
        return _small_list(name, list(value))
    return value


def _small_number(name: str, value: int) -> int:
    if _TOKEN.fullmatch(name):
        return min(value, 3)
    if name in _KEPT or value <= 0:
        return value
    size = next((size for names, size in _SMALL if names.fullmatch(name)), 512)
    return min(value, size)


def _small_list(name: str, values: list[int]) -> list[int]:
    if "image_size" in name:
        return [min(value, 32) for value in values]
    if re.search(r"depth|layers|blocks", name):
        return [1] * len(values)
    if "head" in name:
        return [min(value, 2) for value in values]
    if re.search(r"hidden_size|dims?$|channels|embed|sizes|conv_dim", name) and not re.search(r"kernel|patch", name):
        return [16 if position == 0 else 32 for position in range(len(values))]
    return values


_RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 32, 32],
    "out_features": ["stage4"],
}
_SWIN: Mapping[str, Any] = MappingProxyType(
    {"image_size": 32, "window_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
)
_GLM_TEXT: Mapping[str, Any] = MappingProxyType(
    {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}}
)
_QWEN_TEXT: Mapping[str, Any] = MappingProxyType(
    {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
)
_FOUR_LAYERS: Mapping[str, Any] = MappingProxyType({"num_hidden_layers": 4})
"""Of which the last attends; the others are linear."""
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "detr": {"backbone_config": _RESNET},
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin"), _SWIN),
    "deepseek_v3": {"first_k_dense_replace": 1},
    "deepseek_v2": {"first_k_dense_replace": 1, "num_experts_per_tok": 2},
    **{f"{name}_text": _QWEN_TEXT for name in ("qwen2_vl", "qwen2_5_vl", "paddleocr_vl")},
    **{name: {"text_config": _QWEN_TEXT} for name in ("qwen2_vl", "qwen2_5_vl", "paddleocr_vl")},
    **{f"{name}_text": _GLM_TEXT for name in ("glm4v", "glm4v_moe", "glm_image", "glm_ocr")},
    **{name: {"text_config": _GLM_TEXT} for name in ("glm4v", "glm4v_moe", "glm46v", "glm_image", "glm_ocr")},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "kimi_linear", "bailing_hybrid"), _FOUR_LAYERS),
    **{name: {"text_config": _FOUR_LAYERS} for name in ("qwen3_5", "qwen3_5_moe")},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "hidden_size": 32, "num_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "esmc": {"num_key_value_heads": 4},
    **{key: {"num_windows": 4} for key in ("lw_detr", "lw_detr_vit")},
    "conditional_detr": {"backbone_config": _RESNET},
    "deformable_detr": {"backbone_config": _RESNET | {"out_features": ["stage2", "stage3", "stage4"]}},
    "table-transformer": {"backbone_config": _RESNET},
    "dab-detr": {"backbone_config": _RESNET},
}
"""By model type: what the defaults can't say."""


def tiny_config(network_class: Any) -> dict[str, Any]:
    """Return arguments of the config of a network's class."""
    config = network_class.config_class
    padded: Mapping[str, Any] = (
        {"pad_token_id": 0} if "pad_token_id" in {field.name for field in dataclasses.fields(config)} else {}
    )
    return tiny(config, {**padded, **OVERRIDES.get(config.model_type, {})})


def tiny_network(name: str, folder: Path) -> Network:
    """Save a tiny network of a class of transformers, with weights as wide as in a trained one."""
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**tiny_config(kind))).eval()
    widen(model)
    model.save_pretrained(folder)
    return Network(folder, model, inputs_for(open_huggingface(folder, "cpu").inputs, model.config))


def widen(network: Any) -> None:
    """Draw weights as wide as in a trained network, where the initial ones are near zero."""
    for parameter in network.parameters():
        if parameter.dim() > 1 and parameter.is_floating_point():
            torch.nn.init.normal_(parameter, std=0.1)


def inputs_for(inputs: Sequence[Input], config: Any, samples: int = 4) -> dict[str, Tensor]:
    """Return random samples for the inputs that a network needs, and masks of ones."""
    torch.manual_seed(1)
    words = getattr(getattr(config, "text_config", None) or config, "vocab_size", None)
    made: dict[str, Tensor] = {}
    for entry in inputs:
        shape = [samples, *(_length(entry, size) for size in entry.shape[1:])]
        if entry.name.endswith("attention_mask"):
            made[entry.name] = torch.ones(shape, dtype=torch.int64)
        elif not entry.optional:
            high = min(words, VOCABULARY) if isinstance(words, int) else VOCABULARY
            is_float = entry.dtype.is_floating_point
            made[entry.name] = torch.randn(shape) if is_float else torch.randint(min(4, high - 1), high, shape)
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < VOCABULARY and "input_ids" in made:
        made["input_ids"][..., -1] = end  # some heads read the vector of the last token
    return made


def _length(entry: Input, size: int | Dim) -> int:
    if isinstance(size, int):
        return size
    usual = {"pixel_values": 64, "input_values": 4000, "input_features": 80}.get(entry.name, 12)
    return usual if size.maximum is None else min(usual, size.maximum)
