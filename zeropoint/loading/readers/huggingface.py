"""A Hugging Face folder, opened by the software that it is for: transformers with compressed-tensors.

The class is the one that config.json names; the config is our own. Nothing is fetched, no code of a folder runs.
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
    """A network of transformers, and what opened it."""

    network: Any
    loaded: tuple[Loaded, ...]

    def run(self, batch: Mapping[str, Tensor]) -> list[object]:
        """The network's outputs as a flat list, of its inputs by name."""
        values = [t.to(self.network.dtype) if t.is_floating_point() else t for t in batch.values()]
        return call_module(self.network, ModelInputs(values, list(batch)), "cpu")


def open_network(folder: Path) -> OpenedNetwork:
    """Load the folder. Raises ValueError on a missing, left-over or misshapen tensor, and what the libraries raise."""
    transformers: Any = import_module("transformers")  # an extra
    transformers.utils.logging.set_verbosity_error()
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    kind = getattr(transformers, config["architectures"][0])
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    told_how = ""
    if _opens_in_float_alone(config):
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
        told_how = "(quantization_config=CompressedTensorsConfig(dequantize=True))"
    with torch.no_grad():
        network, told = kind.from_pretrained(folder, **options)
    wrong = {key: sorted(map(str, told[key])) for key in _WRONG if told.get(key)}
    if wrong:
        raise ValueError(f"transformers does not find the folder whole: {wrong}")
    for part in network.modules():
        if hasattr(part, "config"):  # a decoder may keep a copy of its own
            part.config.use_cache = False
    versions = f"{version('transformers')}, compressed-tensors {version('compressed-tensors')}"
    files = sorted(path.name for path in folder.iterdir() if _is_read(path.name))
    loader = f"transformers.{kind.__name__}.from_pretrained{told_how}"
    return OpenedNetwork(network.eval(), tuple(Loaded(name=name, loader=loader, version=versions) for name in files))


def _opens_in_float_alone(config: Mapping[str, Any]) -> bool:
    """Whether transformers 5.17 with compressed-tensors 0.20 needs to be told to make float weights while it loads.

    Modules with packed weights have no place for zero points; and T5 looks for `weight` in modules that lack it then.
    """
    groups = config["quantization_config"]["config_groups"].values()
    packed = [group for group in groups if group["format"] == "pack-quantized"]
    return any(not group["weights"]["symmetric"] for group in packed) or bool(packed and config["model_type"] == "t5")


def _is_read(name: str) -> bool:
    return any(KINDS[kind].fullmatch(name) for kind in ("config", "generation_config", "weights", "index"))
