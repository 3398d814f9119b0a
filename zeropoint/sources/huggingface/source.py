"""A Hugging Face folder becomes a source: the network is built from its config, its tensors stay in their files."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zeropoint.data.batches import Input, ModelInputs, ModelOutputs
from zeropoint.files.block_reader import StoredTensor
from zeropoint.files.mapped import MappedFile, release_after_use, trim
from zeropoint.model.layer import Layer, distinct_bytes
from zeropoint.sources.huggingface.conversions import Conversion
from zeropoint.sources.huggingface.folder import ModelFolder, open_folder, read_tar_headers
from zeropoint.sources.huggingface.inputs import inputs_of
from zeropoint.sources.huggingface.network import build, build_empty
from zeropoint.sources.huggingface.plain_linears import put_plain_linears
from zeropoint.sources.huggingface.tensor_names import match, tied_names
from zeropoint.sources.module import ModuleSource, call_module, list_layers


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSource(ModuleSource):
    """A transformers network; its inputs are passed by name."""

    inputs: tuple[Input, ...]
    folder: ModelFolder
    dtype: torch.dtype
    files: Mapping[str, StoredTensor]
    """Tensors that stay in the folder's files, by their name in the network."""
    stored_names: Mapping[str, str]
    """Name in the network -> name in the folder's files."""

    def blocks(self, name: str) -> Iterator[Tensor]:
        return self.files[name].blocks() if name in self.files else super().blocks(name)

    def forward(self, batch: Sequence[Tensor]) -> ModelOutputs:
        """Run one forward pass, with floating inputs cast to the network's dtype."""
        assert isinstance(batch, ModelInputs)
        cast = [tensor.to(self.dtype) if tensor.is_floating_point() else tensor for tensor in batch]
        outputs = call_module(self.module, ModelInputs(cast, batch.keywords), self.device)
        trim()
        return outputs


def open_huggingface(path: Path, device: str) -> HuggingFaceSource:
    """Open a folder, or a tar of one. Raises InvalidModel or Unsupported."""
    folder = open_folder(path)
    names, conversions = match(build_empty(folder.config), folder.shapes)
    network = build(folder.config)
    folder.require_finite()
    trim()
    dtype, mapped = folder.dtype(), folder.mapped()
    made = _converted(conversions, mapped)
    tensors = {
        name: made[stored] if stored in made else mapped[stored].tensors[stored] for name, stored in names.items()
    }
    cast = {name: t.to(dtype) for name, t in tensors.items() if t.is_floating_point() and t.dtype != dtype}
    tensors |= cast  # as from_pretrained does
    _assign(network, tensors)
    put_plain_linears(network)
    module = network.to(device)
    in_files = {n for n in tensors.keys() - cast.keys() if names[n] not in made} if device == "cpu" else set()
    files = {name: mapped[names[name]] for name in in_files}
    stored = {name: folder.stored[names[name]] for name in in_files}
    layers = tuple(_layers(module, stored, files))  # before any hook: a module with hooks is no plain layer
    release_after_use(module.modules(), {id(p): files[n] for n, p in module.named_parameters() if n in files})
    return HuggingFaceSource(
        module=module,
        layers=layers,
        tensors=tensors,
        original_bytes=distinct_bytes(tensors.values()),
        dead_bytes=0,
        device=device,
        changing={name: tensor.clone() for name, tensor in module.named_buffers()},
        inputs=inputs_of(network),
        folder=folder,
        dtype=dtype,
        files=stored,
        stored_names=names,
        fixed=True,
        structure=json.dumps(folder.config, sort_keys=True, default=str),
        libraries=("transformers", "compressed-tensors"),
    )


def describe(path: Path) -> tuple[tuple[Input, ...], Iterator[Layer], dict[str, Tensor]]:
    """Return inputs, layers and meta parameters of a folder in a tar, without unpacking it."""
    config, shapes = read_tar_headers(path)
    network = build_empty(config)
    match(network, shapes)
    put_plain_linears(network)
    return inputs_of(network), _layers(network, {}, {}), dict(network.named_parameters(remove_duplicate=False))


def _converted(conversions: Iterable[Conversion], mapped: Mapping[str, MappedFile]) -> dict[str, Tensor]:
    """Return the tensors that are made of stored ones, by their names in the network."""
    tensors = {stored: mapped[stored].tensors[stored] for conversion in conversions for stored, _ in conversion.sources}
    return {name: tensor for conversion in conversions for name, tensor in conversion.run(tensors).items()}


def _assign(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Assign each tensor to its parameter or buffer, under all its names."""
    parameters = dict(network.named_parameters())
    for first, names in tied_names(network).items():
        value: Any = tensors[first]
        if first in parameters:
            value = nn.Parameter(value, requires_grad=False)
        for name in names:
            owner, _, leaf = name.rpartition(".")
            module = network.get_submodule(owner)
            (module._parameters if first in parameters else module._buffers)[leaf] = value


def _layers(network: nn.Module, stored: Mapping[str, StoredTensor], files: Mapping[str, MappedFile]) -> Iterator[Layer]:
    """Yield the network's layers; only Linear layers whose weight no other layer shares can be quantized."""
    layers = list(list_layers(network))
    not_linear = {
        id(parameter)
        for module in network.modules()
        for parameter in module._parameters.values()
        if type(module) is not nn.Linear
    }
    for layer in layers:
        if layer.module is None:
            yield layer
        elif layer.type != "Linear":
            yield replace(layer, module=None, weight_name=None, reason="format_unsupported")
        elif id(layer.module._parameters["weight"]) in not_linear:
            yield replace(layer, module=None, weight_name=None, reason="shared_weight_conflict")
        else:
            name = str(layer.weight_name)
            yield replace(layer, scale_dtype=layer.weight.dtype, stored=stored.get(name), file=files.get(name))
