"""An `nn.Module` in memory becomes a source; its layers are `nn` modules already.

The source copies the module's structure and buffers and shares its parameters: the user's module keeps its mode, its
hooks and its buffers, and no weight is in memory twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from zeropoint.data.batches import ModelInputs, ModelOutputs, own_copies
from zeropoint.errors import Unsupported
from zeropoint.model.layer import Layer, LayerKind, distinct_bytes, with_free_names
from zeropoint.model.source import Source
from zeropoint.model.weight_holder import WeightHolder
from zeropoint.schema.layer_names import layer_name, weight_layer_name
from zeropoint.schema.report import SkipReason
from zeropoint.sources.finite import require_finite
from zeropoint.sources.recurrent import Holders, hold_weights, recurrent_kind

KINDS: dict[type[nn.Module], LayerKind] = {
    nn.Linear: "Linear",
    nn.Conv1d: "Conv1d",
    nn.Conv2d: "Conv2d",
    nn.Conv3d: "Conv3d",
    nn.ConvTranspose1d: "ConvTranspose1d",
    nn.ConvTranspose2d: "ConvTranspose2d",
    nn.ConvTranspose3d: "ConvTranspose3d",
    nn.Embedding: "Embedding",
}


@dataclass(frozen=True, kw_only=True)
class ModuleSource(Source):
    """A module in memory; batches may name their tensors, and outputs may be nested."""

    def forward(self, batch: Sequence[Tensor]) -> ModelOutputs:
        """Run one forward pass. Raises Unsupported when it returns no tensor, and whatever the module raises."""
        return call_module(self.module, batch, self.device)

    def put(self, buffers: Mapping[str, Tensor]) -> None:
        """Replace these buffers; a forward pass may have assigned others, of other shapes."""
        for name, value in buffers.items():
            owner, _, leaf = name.rpartition(".")
            self.module.get_submodule(owner)._buffers[leaf] = value.clone()


def module_source(model: nn.Module) -> ModuleSource:
    """Return a module's source. Raises InvalidModel on NaN or infinity in weights."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    require_finite(parameters | dict(model.named_buffers(remove_duplicate=False)))
    module = copy_module(model, {id(tensor): tensor for tensor in parameters.values()})
    buffers = {name: tensor.clone() for name, tensor in module.named_buffers(remove_duplicate=False)}
    layers = tuple(with_free_names(list_layers(module, hold_weights(module)), _names(module)))
    stored = {n: buffers.get(n, t) for n, t in module.state_dict().items() if isinstance(t, Tensor)}
    for alias in _aliases(module, layers):
        stored.pop(alias, None)
    return ModuleSource(
        module=module,
        layers=layers,
        tensors=stored,
        original_bytes=distinct_bytes(stored.values()),
        dead_bytes=0,
        device=str(next(iter([*parameters.values(), *buffers.values()]), torch.empty(0)).device),
        changing=buffers,
        structure="\n".join(f"{name} {type(owner).__qualname__}" for name, owner in module.named_modules()),
    )


def require_named(model: nn.Module) -> None:
    """Raise Unsupported when the model is a single layer, which has no name in it, and so no place for a stand-in."""
    if _kind(model) is not None or recurrent_kind(model) is not None:
        raise Unsupported(
            "unsupported_module",
            f"The model is a single {type(model).__name__}, so its layer has no name.",
            "Give calibration samples with the batch first, with which it is exported and quantized as a program, or "
            "wrap it: nn.Sequential(model).",
        )


def _names(module: nn.Module) -> set[str]:
    """Return the names that the module's tensors and its submodules have."""
    parts = (module.named_parameters, module.named_buffers, module.named_modules)
    return {*module.state_dict(), *(name for part in parts for name, _ in part(remove_duplicate=False))}


def copy_module(model: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """Copy a module in evaluation mode, replacing tensors by the id of the original; tied tensors stay tied.

    Raises Unsupported when Python can't copy the module.
    """
    try:
        copied = deepcopy(model, dict(tensors))
    except Exception as error:
        raise Unsupported(
            "unsupported_module",
            f"The module can't be copied: {error}",
            "Make copy.deepcopy(model) work, or export the model with torch.export and quantize the program.",
        ) from error
    return copied.eval()


def call_module(module: nn.Module, batch: Sequence[Tensor], device: str) -> ModelOutputs:
    """Return the module's outputs as a flat list. Raises Unsupported when they hold no tensor."""
    keywords = batch.keywords if isinstance(batch, ModelInputs) else ()
    tensors = own_copies(batch, device)
    first = len(tensors) - len(keywords)
    output = module(*tensors[:first], **dict(zip(keywords, tensors[first:], strict=True)))
    flat = list(_flat(output))
    if not any(isinstance(value, Tensor) for _, value in flat):
        raise Unsupported(
            "unsupported_output",
            f"The model returns {type(output).__name__} without a tensor in it.",
            "Return a tensor, or a tuple, list, dict or dataclass of tensors.",
        )
    return ModelOutputs((value for _, value in flat), [path or "0" for path, _ in flat])


def _flat(output: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the path and the value of each leaf of tuples, lists, dicts and dataclasses, in order."""
    if isinstance(output, Mapping):
        parts = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, tuple | list):
        parts = [(str(position), value) for position, value in enumerate(output)]
    elif is_dataclass(output) and not isinstance(output, type):
        parts = [(field.name, getattr(output, field.name)) for field in fields(output)]
    else:
        yield path, output
        return
    for step, part in parts:
        yield from _flat(part, f"{path}.{step}" if path else step)


def list_layers(module: nn.Module, holders: Holders = MappingProxyType({})) -> Iterator[Layer]:
    """Yield every layer that owns parameters; a module used under two names is one layer, under the first.

    `holders`: from where modules with several weights read them, each of which is a layer.
    """
    first_names = {id(parameter): name for name, parameter in module.named_parameters()}
    conflicts = _conflicts(module, holders)
    for prefix, owner in module.named_modules():
        # a single layer has no name in it, and so no place for a stand-in
        held = holders.get(id(owner), {}) if prefix else {}
        layer_parameters: dict[str, dict[str, Tensor]] = {}
        for leaf, parameter in owner._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{leaf}".lstrip(".")
                layer = weight_layer_name(name) if leaf in held else layer_name(name)
                layer_parameters.setdefault(layer, {})[name] = parameter
        reason: SkipReason | None = None if _is_leaf(owner) and prefix else "unsupported"
        if reason is None and id(owner._parameters["weight"]) in conflicts:
            reason = "shared_weight_conflict"
        bias = owner._parameters.get("bias")
        whole = layer_name(f"{prefix}.weight".lstrip("."))
        for name, parameters in layer_parameters.items():
            leaf = next((key for key in held if weight_layer_name(f"{prefix}.{key}") == name), None)
            if leaf is not None:
                key = id(held[leaf].weight)
                weight_name = None if key in conflicts else first_names[key]
                yield _held_layer(name, owner, parameters, held[leaf], weight_name)
                continue
            if name != whole:  # a parameter of the user's own beside the weight
                yield _beside(name, owner, parameters)
                continue
            yield Layer(
                name=name,
                type=type(owner).__name__,
                bytes=distinct_bytes(parameters.values()),
                kind=_kind(owner),
                module=None if reason else owner,
                weight_name=None if reason else first_names[id(owner._parameters["weight"])],
                bias_name=None if reason or bias is None else first_names[id(bias)],
                reason=reason,
                parameters=tuple(parameters),
                transposed=reason is None and is_conv1d(owner),
            )


def _beside(name: str, owner: nn.Module, parameters: Mapping[str, Tensor]) -> Layer:
    """Return the layer of parameters of which only the owner's class knows what they do."""
    size = distinct_bytes(parameters.values())
    return Layer(
        name=name,
        type=type(owner).__name__,
        bytes=size,
        kind=_kind(owner),
        reason="unsupported",
        parameters=tuple(parameters),
    )


def _held_layer(
    name: str, owner: nn.Module, parameters: Mapping[str, Tensor], holder: WeightHolder, weight_name: str | None
) -> Layer:
    """Return the layer of one of a module's weights; without its name, other code reads it too."""
    conflict = weight_name is None
    return Layer(
        name=name,
        type=type(owner).__name__,
        bytes=distinct_bytes(parameters.values()),
        kind=recurrent_kind(owner) or "Matmul",
        module=None if conflict else holder,
        weight_name=weight_name,
        reason="shared_weight_conflict" if conflict else None,
        parameters=tuple(parameters),
    )


def _conflicts(module: nn.Module, holders: Holders) -> set[int]:
    """Return ids of parameters that other code also reads: quantizing them would change its results."""
    readers: dict[int, set[object]] = {}
    for owner in module.modules():
        held = holders.get(id(owner), {})
        for leaf, parameter in owner._parameters.items():
            # each weight of a recurrent module is stored for that module alone
            reader = (id(owner), leaf) if leaf in held else leaf == "weight" and _is_leaf(owner)
            readers.setdefault(id(parameter), set()).add(reader)
    return {parameter for parameter, kinds in readers.items() if len(kinds) > 1 or kinds == {False}}


def is_conv1d(owner: nn.Module) -> bool:
    """Return whether the module is the linear layer of GPT-2 in transformers: y = x · W + b with W [in, out]."""
    forward = type(owner).forward
    return (forward.__module__, forward.__qualname__) == ("transformers.pytorch_utils", "Conv1D.forward")


def _kind(owner: nn.Module) -> LayerKind | None:
    """Return what the module computes; None if a subclass overrides `forward`."""
    if is_conv1d(owner):
        return "Linear"
    return next((kind for type_, kind in KINDS.items() if type(owner).forward is type_.forward), None)


def _is_leaf(owner: nn.Module) -> bool:
    """Return whether the module only applies its operator to its weight, and so can be replaced."""
    weight = owner._parameters.get("weight")
    # attention reads the weight of its output projection directly; hooks and parametrizations recompute a weight
    if _kind(owner) is None or weight is None or isinstance(owner, NonDynamicallyQuantizableLinear):
        return False
    return (
        weight.is_floating_point() and weight.numel() > 0 and not owner._forward_pre_hooks and not owner._forward_hooks
    )


def _aliases(module: nn.Module, layers: Sequence[Layer]) -> Iterator[str]:
    """Yield further names of the tensors of quantizable layers: files store each tensor under one name."""
    quantizable = {id(layer.module): layer for layer in layers if layer.module is not None}
    for name, owner in module.named_modules(remove_duplicate=False):
        layer = quantizable.get(id(owner))
        if layer is not None:
            names = {f"{name}.{leaf}" for leaf in owner._parameters}
            yield from names - ({layer.weight_name, *(names - {f"{name}.weight"})} if layer.name == name else set())
