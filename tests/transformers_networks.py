"""Tiny networks of every family of transformers that is taken, with random weights, packed as save_pretrained does."""

import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

_BERT = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"vocab_size": 64, "max_position_embeddings": 40},
}
_LLAMA = _BERT | {"num_key_value_heads": 2}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 64}
_BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 64, "max_position_embeddings": 40},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
}
_VIT = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"image_size": 8, "patch_size": 4, "num_channels": 3},
}
_MIXTURE = _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
_QWEN_MOE = _LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 8}
_LLAMA4 = _MIXTURE | {
    "intermediate_size_mlp": 64,
    "num_experts_per_tok": 1,
    "attention_chunk_size": 32,
    "pad_token_id": 0,
}
_DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 64, "max_position_embeddings": 40}

CONFIGS: Mapping[str, dict[str, Any]] = {
    "BertModel": _BERT,
    "BertForSequenceClassification": _BERT,
    "BertForMaskedLM": _BERT,
    "DistilBertForQuestionAnswering": _DISTIL,
    "ElectraForTokenClassification": _BERT | {"embedding_size": 16},
    "MPNetModel": _BERT,
    "RobertaForMaskedLM": _BERT,
    "XLMRobertaModel": _BERT,
    "GPTNeoXForCausalLM": _BERT,
    "LlamaForCausalLM": _LLAMA,
    "LlamaModel": _LLAMA,
    "MistralForCausalLM": _LLAMA | {"sliding_window": 4},
    "OPTForCausalLM": _BERT | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Qwen2ForCausalLM": _LLAMA | {"tie_word_embeddings": True},
    "BartForConditionalGeneration": _BART,
    "BartModel": _BART,
    "T5ForConditionalGeneration": _T5,
    "T5EncoderModel": _T5,
    "DeiTForImageClassification": _VIT,
    "Dinov2Model": _VIT,
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 40},
    "Llama4ForCausalLM": _LLAMA4,
    "MixtralForCausalLM": _MIXTURE,
    "Qwen3MoeForCausalLM": _QWEN_MOE,
    "ViTModel": _VIT,
    "ViTForImageClassification": _VIT,
}
"""By class."""


@dataclass(frozen=True)
class Network:
    """A network in a folder that save_pretrained wrote."""

    folder: Path
    model: Any
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def pack(self, path: Path, form: str = "tar") -> Path:
        """Write a tar of the folder, as the documentation tells users to; or a tar.gz, or a zip."""
        files = sorted(self.folder.iterdir())
        if form == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in files:
                    packed.write(file, file.name)
            return path
        with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as archive:
            for file in files:
                archive.add(file, file.name)
        return path


def network(
    name: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    samples: int = 12,
    max_shard_size: str = "5GB",
    **config: Any,
) -> Network:
    """Make a network of a class of transformers; weights and samples are random and always the same."""
    kind: Any = getattr(transformers, name)
    torch.manual_seed(0)
    settings = kind.config_class(**(CONFIGS[name] | config))
    model = kind(settings).to(dtype).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:  # as wide as in a trained network, where the initial ones are near zero
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    return Network(folder, model, inputs_for(model, samples))


def inputs_for(model: Any, samples: int) -> dict[str, Tensor]:
    """Random tokens or pixels; the last tokens of some texts are padding."""
    torch.manual_seed(1)
    config = model.config
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(samples, config.num_channels, config.image_size, config.image_size)}
    ids = torch.randint(3, config.vocab_size, (samples, 12))
    mask = torch.ones_like(ids)
    mask[::3, 9:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(3, config.vocab_size, (samples, 6))
    return inputs
