"""The allowed type and range of keys of config.json that many networks share; other values are never passed on.

Keys that are peculiar to some networks are in the table of networks, which a script writes.
"""

import re
from collections.abc import Mapping

from app.intake.huggingface.architectures import NETWORKS
from app.intake.huggingface.rules import (
    FLAG,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    NONE,
    Rule,
    either,
    many,
    number,
    only,
    table,
    whole,
    word,
)


def _words(text: str) -> list[str]:
    return text.split()


_ACTIVATIONS = _words(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_pytorch_tanh hardswish leaky_relu linear mish "
    "gelu_python_tanh laplace quick_gelu relu relu2 relu6 sigmoid silu sqrtsoftplus swish tanh xielu"
)
_WIDTH = whole(1, MAX_WIDTH)
_LAYERS = whole(0, MAX_LAYERS)
_HEADS = whole(1, 1024)
_POSITIONS = whole(1, MAX_POSITIONS)
_TOKEN = either(whole(-1, MAX_VOCABULARY), NONE)
_SHARE = either(number(0, 1), NONE)
_EPSILON = number(0, 1)
_ACTIVATION = word(*_ACTIVATIONS)
_LENGTH = number(0, 1e9)
_PIXELS = either(whole(1, 8192), many(whole(1, 8192), 2))

_ROPE_TYPE = word("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "axial")
_ROPE = table(
    {
        **dict.fromkeys(("rope_type", "type"), _ROPE_TYPE),
        "short_factor": many(_LENGTH, 4096),
        "long_factor": many(_LENGTH, 4096),
        **dict.fromkeys(("original_max_position_embeddings", "max_position_embeddings"), _POSITIONS),
        "mrope_section": many(whole(0, MAX_WIDTH), 8),
        **dict.fromkeys(("mrope_interleaved", "truncate"), FLAG),
        **dict.fromkeys(
            _words(
                "rope_theta factor attention_factor beta_fast beta_slow low_freq_factor high_freq_factor mscale "
                "mscale_all_dim partial_rotary_factor short_mscale long_mscale alpha llama_4_scaling_beta"
            ),
            _LENGTH,
        ),
    }
)


_STAGE = Rule(
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"stem|stage\d{1,3}|layer\d{1,3}", value)), "stage1"
)
_ROPES = Rule(
    lambda value: (
        isinstance(value, dict)
        and len(value) <= 8
        and all(re.fullmatch(r"[a-z_]{1,40}", key) and either(_ROPE, NONE).fits(rope) for key, rope in value.items())
    ),
    "an object of them by the kind of layer",
)


_ATTENTIONS = Rule(
    lambda value: (
        isinstance(value, list)
        and len(value) <= MAX_LAYERS
        and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        and all(many(word("global", "local"), 8).fits(kinds) and _LAYERS.fits(times) for kinds, times in value)
    ),
    'a list of pairs, such as [["global", "local"], 12]',
)


def _each(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(_words(names), rule)


SHARED: Mapping[str, Rule] = {
    **_each(_WIDTH, "hidden_size intermediate_size embedding_size d_model d_ff d_kv dim hidden_dim n_embd ffn_dim"),
    **_each(_WIDTH, "encoder_ffn_dim decoder_ffn_dim"),
    **_each(either(_WIDTH, NONE), "n_inner head_dim word_embed_proj_dim pooler_output_size"),
    **_each(either(whole(0, MAX_WIDTH), NONE), "sliding_window cross_attention_hidden_size"),
    **_each(_LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers max_window_layers"),
    **_each(either(_LAYERS, NONE), "num_decoder_layers"),
    **_each(_HEADS, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads"),
    **_each(either(_HEADS, NONE), "num_key_value_heads"),
    **_each(_POSITIONS, "max_position_embeddings n_positions relative_attention_max_distance"),
    **_each(whole(1, MAX_VOCABULARY), "vocab_size"),
    **_each(whole(0, 4096), "type_vocab_size"),
    **_each(whole(1, 4096), "relative_attention_num_buckets num_channels encoder_stride"),
    **_each(_PIXELS, "image_size patch_size"),
    **_each(either(many(_STAGE, 64), NONE), "out_features stage_names"),
    **_each(_TOKEN, "pad_token_id bos_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id"),
    **_each(either(_TOKEN, many(_TOKEN, 64)), "eos_token_id"),
    **_each(_SHARE, "hidden_dropout_prob attention_probs_dropout_prob classifier_dropout dropout attention_dropout"),
    **_each(
        _SHARE, "activation_dropout hidden_dropout qa_dropout seq_classif_dropout resid_pdrop embd_pdrop attn_pdrop"
    ),
    **_each(_SHARE, "dropout_rate layerdrop encoder_layerdrop decoder_layerdrop summary_last_dropout"),
    **_each(_SHARE, "summary_first_dropout rotary_pct partial_rotary_factor"),
    **_each(_EPSILON, "layer_norm_eps layer_norm_epsilon rms_norm_eps"),
    **_each(number(0, 100), "initializer_range init_std initializer_factor"),
    **_each(_LENGTH, "rope_theta rotary_emb_base"),
    **_each(either(_ROPE, _ROPES, NONE), "rope_scaling rope_parameters"),
    **_each(_ATTENTIONS, "attention_types"),
    **_each(_ACTIVATION, "hidden_act activation activation_function pooler_act"),
    **_each(either(word("tanh", "gelu"), NONE), "summary_activation"),
    **_each(word("last", "first", "mean", "cls_index"), "summary_type"),
    **_each(word("relu", "gelu", "silu", "gated-relu", "gated-gelu", "gated-silu"), "feed_forward_proj"),
    **_each(many(word("full_attention", "sliding_attention"), MAX_LAYERS), "layer_types"),
    **_each(FLAG, "is_decoder add_cross_attention tie_word_embeddings is_encoder_decoder scale_attn_weights qkv_bias"),
    **_each(FLAG, "scale_attn_by_inverse_layer_idx reorder_and_upcast_attn use_parallel_residual attention_bias"),
    **_each(FLAG, "mlp_bias do_layer_norm_before enable_bias layer_norm_elementwise_affine sinusoidal_pos_embds"),
    **_each(FLAG, "scale_decoder_outputs scale_embedding use_sliding_window summary_use_proj summary_proj_to_labels"),
}
"""Keys that are passed to the network, by hand."""

RULES: Mapping[str, Rule] = {
    key: either(*(rules[key] for rules in (SHARED, NETWORKS.rules) if key in rules))
    for key in (*NETWORKS.rules, *SHARED)
}
"""Keys that are passed to the network."""

NEUTRAL: Mapping[str, Rule] = {
    "position_embedding_type": only("absolute", "sine"),
    "_remove_final_layer_norm": only(False),
    "add_bias_logits": only(False),
    "add_final_layer_norm": only(False),
    "normalize_before": only(False),
    "normalize_embedding": only(True),
    "static_position_embeddings": only(False),
    "extra_pos_embeddings": only(2),
    "pruned_heads": only({}),
    "tie_encoder_decoder": only(False),
}
"""Keys of older versions that are dropped if they have the value that is built anyway."""

DROPPED = frozenset(
    _words(
        "transformers_version use_cache output_attentions output_hidden_states output_past return_dict torchscript "
        "gradient_checkpointing use_bfloat16 tokenizer_class finetuning_task problem_type chunk_size_feed_forward "
        "tf_legacy_loss tie_weights_ pretraining_tp directionality pooler_fc_size pooler_num_attention_heads "
        "pooler_num_fc_layers pooler_size_per_head pooler_type n_ctx n_special predict_special_tokens dense_act_fn "
        "is_gated_act classif_dropout num_beams num_beam_groups diversity_penalty do_sample early_stopping max_length "
        "min_length temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
        "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate "
        "forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty "
        "suppress_tokens begin_suppress_tokens prefix task_specific_params gradient_checkpointing_kwargs"
    )
)
"""Keys that don't affect the network: they describe its training, or text generation with it."""

CODE = re.compile(
    r"auto_map|custom_pipelines|.*(attn|experts)_implementation.*|quantization_config|compression_config"
    r"|transformers_weights|use_kernels|(.*_)?backbone(_config|_kwargs)?|trust_remote_code"
)
"""Keys that make transformers import, download or open other code or files."""
