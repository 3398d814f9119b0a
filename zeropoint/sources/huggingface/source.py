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
from zeropoint.model.layer import Layer, StoredAlike, distinct_bytes
from zeropoint.schema.recipe import WeightSettings
from zeropoint.sources.huggingface.conversions import Conversion, split_conversions
from zeropoint.sources.huggingface.experts import Pieces, find_experts, hold_experts, put_single_experts
from zeropoint.sources.huggingface.folder import ModelFolder, open_folder, read_tar_headers
from zeropoint.sources.huggingface.inputs import inputs_of
from zeropoint.sources.huggingface.network import build, build_empty, initializes_weights
from zeropoint.sources.huggingface.plain_linears import put_plain_linears
from zeropoint.sources.huggingface.tensor_names import match, tied_names
from zeropoint.sources.module import ModuleSource, call_module, is_conv1d, list_layers

LINEAR = ("Linear", "Conv1D")
"""The types of layers that a folder has a place for."""


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
    experts: Mapping[str, Pieces]
    """Merged experts by their name in the network, with the weights that the folder's files have of each of them."""

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
    single, experts = put_single_experts(network), find_experts(conversions)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in single.merged} | {**single.tensors}
    names = names | {name: _beside(names[merged], leaf) for name, (merged, leaf) in single.names.items()}
    module = network.to(device)
    in_memory = {*cast, *single.tensors, *(name for name in tensors if names[name] in made)}
    in_files = tensors.keys() - in_memory if device == "cpu" else set()
    files = {name: mapped[names[name]] for name in in_files}
    stored = {name: folder.stored[names[name]] for name in in_files}
    alike: StoredAlike = "packed" if initializes_weights(folder.config) else "packed_asymmetric"
    layers = tuple(_layers(module, experts, stored, files, alike))  # before any hook, with which a layer is not plain
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
        stored_names=names if not split_conversions(module) else {name: name for name in names},
        experts=experts,
        fixed=True,
        structure=json.dumps(folder.config, sort_keys=True, default=str),
        libraries=("transformers", "compressed-tensors"),
    )


def describe(path: Path) -> tuple[tuple[Input, ...], Iterator[Layer], dict[str, Tensor]]:
    """Return inputs, layers and meta parameters of a folder in a tar, without unpacking it."""
    config, shapes = read_tar_headers(path)
    network = build_empty(config)
    _, conversions = match(network, shapes)
    put_plain_linears(network)
    put_single_experts(network)
    return (
        inputs_of(network),
        _layers(network, find_experts(conversions), {}, {}),
        dict(network.named_parameters(remove_duplicate=False)),
    )


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


def _beside(merged: str, leaf: str) -> str:
    """Return the name of an expert's weight beside the one that its merged weight has."""
    return f"{merged.rpartition('.')[0]}.{leaf}"


def _layers(
    network: nn.Module,
    experts: Iterable[str],
    stored: Mapping[str, StoredTensor],
    files: Mapping[str, MappedFile],
    alike: StoredAlike = "packed_asymmetric",
) -> Iterator[Layer]:
    """Yield the network's layers. A linear layer can be quantized if no other kind of layer shares its weight.

    Merged experts can, if the checkpoint stores them one by one. `alike`: which linear layers must be stored alike.
    """
    layers = list(list_layers(network, hold_experts(network, experts)))
    transposed = any(layer.transposed for layer in layers)
    not_linear = {
        id(parameter)
        for module in network.modules()
        for parameter in module._parameters.values()
        if type(module) is not nn.Linear and not is_conv1d(module)
    }
    for layer in layers:
        if layer.module is None:
            yield _with_reason(layer, network)
        elif layer.is_held:
            yield replace(layer, scale_dtype=layer.weight.dtype, can_store=is_mergeable, stored_alike="experts")
        elif layer.kind != "Linear" or layer.type not in LINEAR:
            yield replace(layer, module=None, weight_name=None, reason="format_unsupported")
        elif id(layer.module._parameters["weight"]) in not_linear:
            yield replace(layer, module=None, weight_name=None, reason="shared_weight_conflict")
        elif transposed:
            yield replace(layer, scale_dtype=layer.weight.dtype, input_in_float=True, can_store=is_plain)
        else:
            name = str(layer.weight_name)
            layer = replace(layer, scale_dtype=layer.weight.dtype, stored_alike=alike)
            yield replace(layer, stored=stored.get(name), file=files.get(name))


def is_plain(weights: WeightSettings) -> bool:
    """Return whether each value of a weight has a byte, and its scales broadcast: no int4, and no groups."""
    return weights.dtype != "int4" and weights.granularity != "per_group"


def is_mergeable(weights: WeightSettings) -> bool:
    """Return whether transformers can merge experts with these settings: it reads no zero points of theirs."""
    return weights.scheme == "symmetric"


def _with_reason(layer: Layer, network: nn.Module) -> Layer:
    """Return a layer that can't be quantized; experts that are stored merged can be, in a program."""
    merged = any(network.get_parameter(name).dim() == 3 for name in layer.parameters)
    if layer.reason == "unsupported" and merged and "experts" in layer.type.lower():
        return replace(layer, kind="Matmul", reason="format_unsupported")
    return layer
