"""Open a Hugging Face folder with transformers and compressed-tensors, the software that it is for.

The class is the one that config.json names, and Zeropoint wrote that config. Nothing is downloaded, and no code from
the folder runs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.data.batches import ModelInputs
from zeropoint.schema.checkpoint_files import CONFIG_FILE, KINDS
from zeropoint.schema.report import Loaded
from zeropoint.sources.module import call_module

_WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


@dataclass(frozen=True)
class OpenedNetwork:
    """A transformers network, and what opened it."""

    network: Any
    loaded: tuple[Loaded, ...]

    def run(self, batch: Mapping[str, Tensor]) -> list[object]:
        """Return the network's outputs as a flat list; inputs go by name."""
        values = [t.to(self.network.dtype) if t.is_floating_point() else t for t in batch.values()]
        return call_module(self.network, ModelInputs(values, list(batch)), "cpu")


def open_network(folder: Path) -> OpenedNetwork:
    """Load the folder. Raises ValueError on a missing, left-over or misshapen tensor, and what the libraries raise."""
    transformers: Any = import_module("transformers")  # an extra
    transformers.utils.logging.set_verbosity_error()
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    kind = getattr(transformers, config["architectures"][0])
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    arguments = ""
    if _must_dequantize(config):
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
        arguments = "(quantization_config=CompressedTensorsConfig(dequantize=True))"
    with torch.no_grad():
        network, loading_info = kind.from_pretrained(folder, **options)
    wrong = {key: sorted(map(str, loading_info[key])) for key in _WRONG if loading_info.get(key)}
    if wrong:
        raise ValueError(f"tensors in the folder don't match the network: {wrong}")
    for part in network.modules():
        if hasattr(part, "config"):  # a decoder may keep a copy of its own
            part.config.use_cache = False
    versions = f"{version('transformers')}, compressed-tensors {version('compressed-tensors')}"
    files = sorted(path.name for path in folder.iterdir() if _is_read(path.name))
    loader = f"transformers.{kind.__name__}.from_pretrained{arguments}"
    return OpenedNetwork(network.eval(), tuple(Loaded(name=name, loader=loader, version=versions) for name in files))


def _must_dequantize(config: Mapping[str, Any]) -> bool:
    """Return whether transformers 5.17 (compressed-tensors 0.20) can load the folder only by dequantizing it.

    Modules with packed weights have no zero points, and T5 then reads `weight` from modules that lack it.
    """
    groups = config["quantization_config"]["config_groups"].values()
    packed = [group for group in groups if group["format"] == "pack-quantized"]
    return any(not group["weights"]["symmetric"] for group in packed) or bool(packed and config["model_type"] == "t5")


def _is_read(name: str) -> bool:
    return any(KINDS[kind].fullmatch(name) for kind in ("config", "generation_config", "weights", "index"))
