"""What a job on a decoder in a Hugging Face folder costs: peak resident set and time, as `weights_memory` says them;
a llama with random bfloat16 weights, grouped-query attention and a head of its own.

python -m benchmarks.decoder_memory [MIB]
"""

import json
import math
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.weights_memory import HIDDEN, INNER, KEY, VOCABULARY, measure, write_model
from zeropoint.simulation.processor import features

HEADS, KEY_HEADS, TOKENS, SAMPLES = 32, 4, 64, 48
RECIPES: dict[str, dict[str, object]] = {
    "static int8": {"calibration": {"samples": 32}},
    "weight-only int8": {"activations": None},
    "weight-only int4 in groups of 32": {"weights": {"dtype": "int4"}},
}


def sizes(mib: int) -> tuple[int, int]:
    """Vocabulary and layers of a network of about `mib` MiB."""
    vocabulary = min(VOCABULARY, max(256, mib * 2**20 // 8 // HIDDEN))
    layer = sum(math.prod(shape) for name, shape in shapes(vocabulary, 1) if ".layers.0." in name)
    return vocabulary, max(1, round((mib * 2**20 // 2 - 2 * vocabulary * HIDDEN) / layer))


def shapes(vocabulary: int, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of a llama."""
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(layers):
        for part, shape in (
            *(("self_attn.q_proj", (HIDDEN, HIDDEN)), ("self_attn.k_proj", (KEY, HIDDEN))),
            *(("self_attn.v_proj", (KEY, HIDDEN)), ("self_attn.o_proj", (HIDDEN, HIDDEN))),
            *(("mlp.gate_proj", (INNER, HIDDEN)), ("mlp.up_proj", (INNER, HIDDEN)), ("mlp.down_proj", (HIDDEN, INNER))),
            *(("input_layernorm", (HIDDEN,)), ("post_attention_layernorm", (HIDDEN,))),
        ):
            yield f"model.layers.{layer}.{part}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocabulary, HIDDEN)


def write_folder(folder: Path, mib: int) -> None:
    """The network, as save_pretrained names it."""
    vocabulary, layers = sizes(mib)
    folder.mkdir()
    write_model(folder / "model.safetensors", shapes(vocabulary, layers))
    config = {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": vocabulary},
        **{
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": layers,
            "tie_word_embeddings": False,
        },
        **{"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "max_position_embeddings": 2048},
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_samples(path: Path, vocabulary: int) -> None:
    """Random tokens, int64 [samples, tokens]."""
    data = b"".join(random.randrange(3, vocabulary).to_bytes(8, "little") for _ in range(SAMPLES * TOKENS))
    entry = {"dtype": "I64", "shape": [SAMPLES, TOKENS], "data_offsets": [0, len(data)]}
    header = json.dumps({"input_ids": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def main(mib: int) -> None:
    """Print one line for each recipe."""
    print(features(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder / "network", mib)
        write_samples(folder / "samples.safetensors", sizes(mib)[0])
        for recipe, settings in RECIPES.items():
            spec: dict[str, object] = {"model": "network", "format": "huggingface", "recipe": settings}
            static = {"dataset": "samples.safetensors"} if recipe.startswith("static") else {}
            measure(folder, folder / "network" / "model.safetensors", recipe, spec | static)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256)
