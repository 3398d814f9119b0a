"""The quantized module: the user's own module with its quantized layers replaced by leaves that hold integers.

A leaf's integers and scales have the names that the files use, so the module's state dict equals the files' tensors. It
computes the same as evaluation: the input is quantized with static qparams, the weight dequantized on the fly, then the
float layer's operator and the corrections of error compensation are applied. It needs only torch, on any device.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zeropoint.errors import InvalidModel
from zeropoint.layers.corrections import outlier_product, scaled
from zeropoint.layers.weights import WeightNames, as_stored, dequantize_weight, from_tensors
from zeropoint.loading.quantized_recurrent import QuantizedRecurrent
from zeropoint.loading.stand_in import StandIn, local_name
from zeropoint.loading.stored import Stored
from zeropoint.model.hooks import stay_visible
from zeropoint.primitives.qparams import QParams, QuantType, dequantize, quantize
from zeropoint.sources.module import copy_module
from zeropoint.sources.recurrent import forget_holders

WEIGHT = WeightNames.usual("weight")


class QuantizedLeaf(StandIn):
    """A quantized layer: `weight` holds values of a quantized dtype.

    It has `weight_scale` and `weight_zero_point` if its dtype needs them, `input_scale` and `input_zero_point` [] if
    its input is quantized, and those of `CORRECTIONS` that were stored; names that the float layer has are numbered.
    """

    bias: Tensor | None

    def __init__(self, shell: nn.Module, stored: Stored, name: str) -> None:
        """Replace the float layer `shell`, named `name`, whose weight is not read."""
        super().__init__()
        self._settings, self._axis, self._transposed = stored.settings(name), stored.axis(name), stored.transposed(name)
        self._dtype = shell.get_parameter("weight").dtype
        self._local: dict[str, str] = {}
        for key, own in zip(WEIGHT, stored.own_names(name), strict=True):
            if own is not None:
                self._hold(key, own, stored, shell, stored.weight_name(name).removesuffix("weight"))
        bias = shell._parameters.get("bias")
        if bias is None and (correction := stored.correction(name, "bias")) is not None:
            bias = nn.Parameter(correction, requires_grad=False)
        for part, own in stored.beside(name).items():
            self._hold(part, own, stored, shell, f"{name}.")
        self._multiplies = stored.scaled_by(name) is None
        qparams = stored.input(name)
        self._input_type: QuantType | None = None if qparams is None else qparams.quant_type
        self.register_parameter("bias", bias)
        self.keep(shell, {"weight", "bias"})
        # any hook disables torch's fused transformer layer, which would read `weight` without calling this forward
        self.register_forward_pre_hook(stay_visible)

    def _hold(self, part: str, own: str, stored: Stored, shell: nn.Module, owner: str) -> None:
        """Hold a tensor of the file: a part of the weight, of the input's qparams or of the corrections."""
        is_weight = part == WEIGHT.values
        self._local[part] = part if is_weight else local_name(shell, own, owner, self._local.values())
        self.register_buffer(self._local[part], stored.tensors[own])

    def _part(self, part: str) -> Tensor | None:
        return self._buffers[self._local[part]] if part in self._local else None

    def forward(self, input: Tensor, *arguments: Any, **options: Any) -> Any:
        """Return the float layer's output with the dequantized weight, in the float layer's dtype."""
        weight = self._weight()
        tensors = {"weight": weight} if self.bias is None else {"weight": weight, "bias": self.bias}
        output = functional_call(self._shell[0], tensors, (self._fake_quantize(input), *arguments), options)
        channels, columns = self._part("outlier_channels"), self._part("outlier_weight")
        return output if channels is None or columns is None else output + outlier_product(input, channels, columns)

    def _weight(self) -> Tensor:
        """Return the dequantized weight as the float layer reads it."""
        stored = {key: self.get_buffer(self._local[key]) for key in WEIGHT if key in self._local}
        axis = self._axis
        if self._transposed:
            stored = {key: as_stored(value) for key, value in stored.items()}
            axis = None if axis is None else 1 - axis
        weight = dequantize_weight(*from_tensors(WEIGHT, self._settings, axis, stored)).to(self._dtype)
        return weight.t() if self._transposed else weight

    def _fake_quantize(self, values: Tensor) -> Tensor:
        """Scale x, quantize and dequantize it with the static qparams; return x̂ in the dtype of x."""
        factor = self._part("pre_quant_scale")
        if factor is not None and self._multiplies:
            values = scaled(values, factor, self._shell[0].get_parameter("weight").dim() - 2)
        if self._input_type is None:
            return values
        scale, zero_point = (self.get_buffer(self._local[part]) for part in ("input_scale", "input_zero_point"))
        qparams = QParams(self._input_type, scale, zero_point)
        return dequantize(quantize(values, qparams), qparams).to(values.dtype)

    def extra_repr(self) -> str:
        """Return what `print(module)` shows of the leaf."""
        return f"{type(self._shell[0]).__name__}({self._shell[0].extra_repr()}), weight={self._settings.dtype}"


def quantized_module(model: nn.Module, stored: Stored) -> nn.Module:
    """Return a copy of the float `model` that computes with the saved tensors, on the model's own devices.

    Raises InvalidModel, naming the layer or tensor, when the model and the file don't fit each other.
    """
    quantized = {stored.weight_name(name): name for name in stored.layers}
    _require_layers(model, stored)
    originals = _distinct(model)
    _require_same_tensors(originals, model.state_dict(), stored, quantized)
    replacements: dict[int, Tensor] = {}
    for name, tensor in originals.items():
        if name in quantized:
            replacements[id(tensor)] = nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
        else:
            value = stored.tensors[name].clone().to(_device(tensor))
            is_parameter = isinstance(tensor, nn.Parameter)
            replacements[id(tensor)] = nn.Parameter(value, requires_grad=False) if is_parameter else value
    recurrent = _recurrent(stored)
    plain = [
        name for name in stored.layers if name not in {n for layers in recurrent.values() for n in layers.values()}
    ]
    devices = {name: _device(model.get_submodule(name).get_parameter("weight")) for name in plain}
    devices |= {path: _device(model.get_submodule(path).get_parameter(min(names))) for path, names in recurrent.items()}
    module = copy_module(model, replacements)
    forget_holders(module)
    leaves: dict[int, nn.Module] = {}
    for path, device in devices.items():
        shell = module.get_submodule(path)
        several = recurrent.get(path)
        leaf = QuantizedLeaf(shell, stored, path) if several is None else QuantizedRecurrent(shell, stored, several)
        leaves[id(shell)] = leaf.to(device)
    for path, owner in list(module.named_modules(remove_duplicate=False)):
        if id(owner) in leaves:
            parent, _, child = path.rpartition(".")
            setattr(module.get_submodule(parent), child, leaves[id(owner)])
    return module.eval()


def _recurrent(stored: Stored) -> dict[str, dict[str, str]]:
    """Return path -> parameter -> layer of the modules of which several parameters are weights."""
    modules: dict[str, dict[str, str]] = {}
    for layer in stored.layers:
        path, _, leaf = stored.weight_name(layer).rpartition(".")
        if leaf != "weight":
            modules.setdefault(path, {})[leaf] = layer
    return modules


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and persistent buffer once, under its first name."""
    state = model.state_dict()
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if name in state}


def _device(tensor: Tensor) -> torch.device:
    """Return the device for the quantized module's tensor: the CPU for a model on the meta device."""
    return torch.device("cpu") if tensor.is_meta else tensor.device


def _require_layers(model: nn.Module, stored: Stored) -> None:
    modules = dict(model.named_modules())
    owners = {layer: path for path, layers in _recurrent(stored).items() for layer in layers.values()}
    for name, metadata in stored.layers.items():
        owner = owners.get(name, name)
        model_type = type(modules[owner]).__name__ if owner in modules else "no module"
        if model_type != metadata["type"]:
            raise _misfit(f"Layer {name!r} was saved as {metadata['type']}; the model has {model_type} of that name.")


def _require_same_tensors(
    tensors: Mapping[str, Tensor], state: Mapping[str, object], stored: Stored, quantized: Mapping[str, str]
) -> None:
    added = {name for layer in stored.layers for name in stored.own_tensors(layer)}
    for name, tensor in tensors.items():
        if name not in stored.tensors:
            raise _misfit(f"Tensor {name!r} of the model is not in the file.")
        saved = _saved(stored, quantized[name]) if name in quantized else stored.tensors[name]
        if saved.shape != tensor.shape or (name not in quantized and saved.dtype != tensor.dtype):
            raise _misfit(
                f"Tensor {name!r}: saved as {saved.dtype} {list(saved.shape)}, "
                f"the model has {tensor.dtype} {list(tensor.shape)}."
            )
    for name in sorted(set(stored.tensors) - set(state) - added):
        raise _misfit(f"Tensor {name!r} of the file has no place in the model.")


def _saved(stored: Stored, layer: str) -> Tensor:
    """Return a layer's quantized values in the shape of the model's weight."""
    values = stored.weight(layer)[0]
    return values.t() if stored.transposed(layer) else values


def _misfit(detail: str) -> InvalidModel:
    return InvalidModel(
        "module_does_not_fit",
        detail,
        "Build the float model that was quantized: same class, arguments and dtype.",
    )
