"""A quantized recurrent module: it holds integers under the names of the files, and dequantizes them when it runs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zeropoint.layers.weights import WeightNames, dequantize_weight, from_tensors
from zeropoint.loading.stand_in import StandIn, local_name
from zeropoint.loading.stored import Stored
from zeropoint.sources.recurrent import with_weights

WEIGHT = WeightNames.usual("weight")


class QuantizedRecurrent(StandIn):
    """`weight_ih_l0`, … hold values of a quantized dtype, with `weight_ih_l0_scale`, …; biases stay in float."""

    def __init__(self, shell: nn.Module, stored: Stored, layers: Mapping[str, str]) -> None:
        """Replace the float module `shell`; `layers`: the layer of each quantized parameter, by the latter's name."""
        super().__init__()
        self._weights: dict[str, tuple[Any, ...]] = {}
        for leaf, layer in layers.items():
            prefix = stored.weight_name(layer).removesuffix(leaf)
            own = {key: name for key, name in zip(WEIGHT, stored.own_names(layer), strict=True) if name}
            used = {name for *_, names in self._weights.values() for name in names.values()}
            local = {
                key: leaf if key == WEIGHT.values else local_name(shell, name, prefix, used)
                for key, name in own.items()
            }
            dtype = shell.get_parameter(leaf).dtype
            self._weights[leaf] = (stored.settings(layer), stored.axis(layer), dtype, local)
            for key, name in own.items():
                self.register_buffer(local[key], stored.tensors[name])
        self.keep(shell, layers)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Return the float module's outputs with the dequantized weights, in the float module's dtype."""
        shell = self._shell[0]
        weights: dict[str, Tensor] = {name: value for name, value in self._parameters.items() if value is not None}
        for leaf, (settings, axis, dtype, local) in self._weights.items():
            stored = {key: self.get_buffer(name) for key, name in local.items()}
            weights[leaf] = dequantize_weight(*from_tensors(WEIGHT, settings, axis, stored)).to(dtype)
        return with_weights(shell, weights).forward(*arguments, **options)

    def extra_repr(self) -> str:
        """Return what `print(module)` shows of the module."""
        dtypes = sorted({settings.dtype for settings, *_ in self._weights.values()})
        return f"{type(self._shell[0]).__name__}({self._shell[0].extra_repr()}), weights={', '.join(dtypes)}"
