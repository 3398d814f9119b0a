"""Open a Hugging Face folder with transformers and compressed-tensors, the software that it is for.

The class is the one that config.json names, and Zeropoint wrote that config. Nothing is downloaded, and no code from
the folder runs.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from zeropoint.sources.huggingface.conversions import split_conversions
from zeropoint.sources.huggingface.network import build_empty
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
    split = split_conversions(build_empty(config))
    with torch.no_grad(), _without_conversions(split):
        network, loading_info = kind.from_pretrained(folder, **options)
    wrong = {key: sorted(map(str, loading_info[key])) for key in _WRONG if loading_info.get(key)}
    if wrong:
        raise ValueError(f"tensors in the folder don't match the network: {wrong}")
    for part in network.modules():
        if hasattr(part, "config"):  # a decoder may keep a copy of its own
            part.config.use_cache = False
    versions = f"{version('transformers')}, compressed-tensors {version('compressed-tensors')}"
    files = sorted(path.name for path in folder.iterdir() if _is_read(path.name))
    loader = f"transformers.{kind.__name__}.from_pretrained"
    loader += "".join(f" after register_checkpoint_conversion_mapping({key!r}, [], overwrite=True)" for key in split)
    return OpenedNetwork(network.eval(), tuple(Loaded(name=name, loader=loader, version=versions) for name in files))


@contextmanager
def _without_conversions(keys: Iterable[str]) -> Iterator[None]:
    """Let transformers open networks of these classes by their own names of tensors, within a `with` block."""
    library: Any = import_module("transformers.conversion_mapping")
    before = {key: library.get_checkpoint_conversion_mapping(key) for key in keys}
    try:
        for key in before:
            library.register_checkpoint_conversion_mapping(key, [], overwrite=True)
        yield
    finally:
        for key, mapping in before.items():
            library.register_checkpoint_conversion_mapping(key, mapping, overwrite=True)


def _is_read(name: str) -> bool:
    return any(KINDS[kind].fullmatch(name) for kind in ("config", "generation_config", "weights", "index"))
