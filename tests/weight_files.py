"""Files of weights as people have them: many layers, several dtypes, names of a transformer."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zeropoint.schema.job import JOB_FILE, JobSpec


def transformer(dtype: torch.dtype = torch.bfloat16, layers: int = 2) -> dict[str, Tensor]:
    """A small llama: embeddings, projections, norms, a head."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (100, 64), "lm_head.weight": (100, 64)}
    for layer in range(layers):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (64, 64)
        shapes[f"model.layers.{layer}.self_attn.q_proj.bias"] = (64,)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (64, 96)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (64,)
    tensors = {name: torch.randn(shape, generator=generator).mul(0.02).to(dtype) for name, shape in shapes.items()}
    return tensors | {"model.step": torch.tensor(7), "model.mask.weight": torch.ones(4, 4, dtype=torch.bool)}


PROJECTIONS = [f"model.layers.{layer}.{name}" for layer in range(2) for name in ("mlp.down_proj", "self_attn.q_proj")]
"""The layers of `transformer` that are no embedding, head or norm."""


def prepare(folder: Path, tensors: dict[str, Tensor], recipe: dict[str, Any], **spec: object) -> Path:
    """Write the folder of a job."""
    save_file(tensors, folder / "model.safetensors")
    said = {"model": "model.safetensors", "format": "safetensors", "recipe": recipe, **spec}
    (folder / JOB_FILE).write_text(JobSpec.model_validate(said).model_dump_json())
    return folder
