"""An `nn.Module` in memory becomes a source: its layers are leaves already.

The source is a copy of the module's structure and buffers that shares the parameters: the user's module keeps its mode,
its hooks and its buffers, and no weight is in memory twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from zeropoint.data.batches import ModelInputs
from zeropoint.errors import Unsupported
from zeropoint.model.layer import Layer, LayerKind, distinct_bytes
from zeropoint.model.source import Source
from zeropoint.schema.layer_names import layer_name
from zeropoint.schema.report import SkipReason
from zeropoint.sources.finite import require_finite

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
    """A module; its calls may name their tensors, its outputs may nest."""

    def run(self, batch: Sequence[Tensor]) -> list[object]:
        """One forward pass. Raises Unsupported when no tensor comes out; what the module raises goes through."""
        return call_module(self.module, batch, self.device)

    def put(self, buffers: Mapping[str, Tensor]) -> None:
        """A module may have put others in their place, of other shapes."""
        for name, value in buffers.items():
            owner, _, leaf = name.rpartition(".")
            self.module.get_submodule(owner)._buffers[leaf] = value.clone()


def module_source(model: nn.Module) -> ModuleSource:
    """Find the layers of a module. Raises InvalidModel on weights that are not finite, Unsupported on lone leaves."""
    if type(model) in KINDS:
        raise Unsupported(
            "unsupported_module",
            f"The model is a single {type(model).__name__}, so its layer has no name.",
            "Wrap it: nn.Sequential(model).",
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    require_finite(parameters | dict(model.named_buffers(remove_duplicate=False)))
    module = copy_module(model, {id(tensor): tensor for tensor in parameters.values()})
    buffers = {name: tensor.clone() for name, tensor in module.named_buffers(remove_duplicate=False)}
    layers = tuple(list_layers(module))
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
    )


def copy_module(model: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """A copy in evaluation mode whose tensors are those given by the id of the original; what is tied stays tied.

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


def call_module(module: nn.Module, batch: Sequence[Tensor], device: str) -> list[object]:
    """The module's outputs as a flat list. Raises Unsupported when it holds no tensor."""
    keywords = batch.keywords if isinstance(batch, ModelInputs) else ()
    tensors = [tensor.to(device) for tensor in batch]
    first = len(tensors) - len(keywords)
    output = module(*tensors[:first], **dict(zip(keywords, tensors[first:], strict=True)))
    flat = list(_flat(output))
    if not any(isinstance(value, Tensor) for value in flat):
        raise Unsupported(
            "unsupported_output",
            f"The model gives {type(output).__name__} without a tensor in it.",
            "Return a tensor, or a tuple, list, dict or dataclass of tensors.",
        )
    return flat


def _flat(output: object) -> Iterator[object]:
    """Leaves in their order, of tuples, lists, dicts and dataclasses."""
    if isinstance(output, Mapping):
        parts: Sequence[object] = list(output.values())
    elif isinstance(output, tuple | list):
        parts = output
    elif is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name) for field in fields(output)]
    else:
        yield output
        return
    for part in parts:
        yield from _flat(part)


def list_layers(module: nn.Module) -> Iterator[Layer]:
    """Every layer that owns parameters; a module that is used under two names is one layer, under the first."""
    first_names = {id(parameter): name for name, parameter in module.named_parameters()}
    conflicts = _conflicts(module)
    for prefix, owner in module.named_modules():
        own: dict[str, dict[str, Tensor]] = {}
        for leaf, parameter in owner._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{leaf}".lstrip(".")
                own.setdefault(layer_name(name), {})[name] = parameter
        reason: SkipReason | None = None if _is_leaf(owner) else "unsupported"
        if reason is None and id(owner._parameters["weight"]) in conflicts:
            reason = "shared_weight_conflict"
        bias = owner._parameters.get("bias")
        for name, parameters in own.items():
            yield Layer(
                name=name,
                type=type(owner).__name__,
                bytes=distinct_bytes(parameters.values()),
                kind=_kind(owner),
                module=None if reason else owner,
                weight_name=None if reason else first_names[id(owner._parameters["weight"])],
                bias_name=None if reason or bias is None else first_names[id(bias)],
                reason=reason,
            )


def _conflicts(module: nn.Module) -> set[int]:
    """Ids of parameters that something else than leaves reads too: quantizing them would change what that computes."""
    readers: dict[int, set[bool]] = {}
    for owner in module.modules():
        for leaf, parameter in owner._parameters.items():
            readers.setdefault(id(parameter), set()).add(leaf == "weight" and _is_leaf(owner))
    return {parameter for parameter, kinds in readers.items() if kinds != {True}}


def _kind(owner: nn.Module) -> LayerKind | None:
    """What the module computes; a subclass with a forward of its own computes something else."""
    return next((kind for type_, kind in KINDS.items() if type(owner).forward is type_.forward), None)


def _is_leaf(owner: nn.Module) -> bool:
    """Whether the module is nothing but its operator on its weight, and so can be replaced."""
    weight = owner._parameters.get("weight")
    # attention reads its output projection's weight by itself; hooks and parametrizations compute a weight anew
    if _kind(owner) is None or weight is None or isinstance(owner, NonDynamicallyQuantizableLinear):
        return False
    return weight.is_floating_point() and not owner._forward_pre_hooks and not owner._forward_hooks


def _aliases(module: nn.Module, layers: Sequence[Layer]) -> Iterator[str]:
    """Further names of the tensors of layers that can be quantized: what is stored has one name."""
    own = {id(layer.module): layer for layer in layers if layer.module is not None}
    for name, owner in module.named_modules(remove_duplicate=False):
        layer = own.get(id(owner))
        if layer is not None:
            names = {f"{name}.{leaf}" for leaf in owner._parameters}
            yield from names - ({layer.weight_name, f"{name}.bias"} if layer.name == name else set())
