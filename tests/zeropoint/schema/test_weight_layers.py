"""Layers of a file without a graph: what names and shapes suggest."""

import pytest

from zeropoint.schema.weight_layers import NamedLayer, layers_in


@pytest.mark.parametrize(
    ("tensor", "shape", "kind"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (8, 8), "Linear"),
        ("lm_head.weight", (100, 8), "Linear"),
        ("embed_out.weight", (100, 8), "Linear"),
        ("patch_embed.proj.weight", (8, 8), "Linear"),
        ("mlp.shared_expert.gate_proj.weight", (8, 8), "Linear"),
        ("attn.in_proj_weight", (24, 8), "Linear"),
        ("lstm.weight_ih_l0", (32, 8), "Linear"),
        ("model.embed_tokens.weight", (100, 8), "Embedding"),
        ("bert.embeddings.word_embeddings.weight", (100, 8), "Embedding"),
        ("transformer.wte.weight", (100, 8), "Embedding"),
        ("transformer.wpe.weight", (100, 8), "Embedding"),
        ("shared.weight", (100, 8), "Embedding"),
        ("tok_embeddings.weight", (100, 8), "Embedding"),
        ("embed_positions.weight", (100, 8), "Embedding"),
        ("a.weight", (8, 4, 3), "Conv1d"),
        ("a.weight", (8, 4, 3, 3), "Conv2d"),
        ("a.weight", (8, 4, 3, 3, 3), "Conv3d"),
        ("norm.weight", (8,), "Module"),
        ("a.weight", (1, 1, 1, 1, 1, 1), "Module"),
        ("a.bias", (8, 8), "Module"),
        ("a.weight_v", (8, 8), "Module"),
        ("pos_embed", (1, 9, 8), "Module"),
    ],
)
def test_the_type_is_guessed(tensor: str, shape: tuple[int, ...], kind: str) -> None:
    (layer,) = layers_in({tensor: shape})
    assert layer.type == kind


def test_tensors_of_one_layer_are_one_entry() -> None:
    found = layers_in({"b.bias": (4,), "a.weight": (4,), "b.weight": (4, 3), "scale": (), "weight": (2, 2)})
    assert found == [
        NamedLayer("b", "Linear", "b.weight", ("b.bias", "b.weight")),
        NamedLayer("a", "Module", "a.weight", ("a.weight",)),
        NamedLayer("scale", "Module", None, ("scale",)),
        NamedLayer("weight", "Linear", "weight", ("weight",)),
    ]
