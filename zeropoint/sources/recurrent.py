"""torch's recurrent modules: read their weights from holders, so that the weights can be quantized one by one.

`nn.LSTM` and its siblings hand all their weights to one operator, and the cells read theirs as attributes. A hook puts
what the holders return in their place for the length of a call, but only while a holder has something to say: otherwise
the module runs, and is exported, as the user wrote it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from zeropoint.model.layer import LayerKind
from zeropoint.model.weight_holder import Layout, WeightHolder

RECURRENT: Mapping[type[nn.Module], LayerKind] = {
    nn.LSTM: "LSTM",
    nn.GRU: "GRU",
    nn.RNN: "RNN",
    nn.LSTMCell: "LSTMCell",
    nn.GRUCell: "GRUCell",
    nn.RNNCell: "RNNCell",
}

FLAT = "_flat_weights"
"""The attribute of `nn.RNNBase` with the list of all its weights and biases, which its operator reads."""

Holders = Mapping[int, Mapping[str, WeightHolder]]
"""By the id of a module with several weights: their holders, by the name of the parameter in it."""


def recurrent_kind(owner: nn.Module) -> LayerKind | None:
    """Return what a recurrent module computes; None for any other, and for a subclass with a `forward` of its own."""
    return next((kind for type_, kind in RECURRENT.items() if type(owner).forward is type_.forward), None)


def hold_weights(module: nn.Module) -> Holders:
    """Let every recurrent module in `module` read its matrices from holders, and return these."""
    held: dict[int, Mapping[str, WeightHolder]] = {}
    for owner in module.modules():
        if recurrent_kind(owner) is not None:
            holders = {
                leaf: WeightHolder(parameter, Layout(tuple(parameter.shape), (0, 1)))
                for leaf, parameter in _matrices(owner)
            }
            hold(owner, holders)
            held[id(owner)] = holders
    return held


def hold(owner: nn.Module, holders: Mapping[str, WeightHolder]) -> None:
    """Let a module read some of its parameters from holders, by name."""
    replacement = _Replacement(holders)
    owner.register_forward_pre_hook(replacement)
    owner.register_forward_hook(replacement.undo, always_call=True)


def forget_holders(module: nn.Module) -> None:
    """Remove the hooks of `hold_weights` from a copy of the module."""
    for owner in module.modules():
        for hooks in (owner._forward_pre_hooks, owner._forward_hooks):
            for key in [key for key, hook in hooks.items() if _is_replacement(hook)]:
                hooks.pop(key)


def with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a recurrent module that computes with other weights, by name; it shares all else with `module`."""
    other: nn.Module = object.__new__(type(module))
    other.__dict__ = {**module.__dict__, **changed_attributes(module, weights)}
    return other


def changed_attributes(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the attributes that make a recurrent module compute with other weights."""
    flat = module.__dict__.get(FLAT)
    if flat is None:
        return dict(weights)
    names: list[str] = module.__dict__["_flat_weights_names"]
    return {FLAT: [weights.get(name, value) for name, value in zip(names, flat, strict=True)]}


def _matrices(owner: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the weights of a recurrent module by name; what a parametrization computes is no parameter."""
    for leaf, parameter in owner._parameters.items():
        if parameter is not None and leaf.startswith("weight_") and parameter.dim() == 2 and parameter.numel():
            yield leaf, parameter


class _Replacement:
    """The hook of a recurrent module, before and after its forward."""

    def __init__(self, holders: Mapping[str, WeightHolder]) -> None:
        self.holders = holders
        self._before: dict[str, Any] = {}

    def __call__(self, module: nn.Module, _: object) -> None:
        """Put what the holders return in place of the weights, if any holder is simulated or watched."""
        self._before = {}
        if any(_has_something_to_say(holder) for holder in self.holders.values()):
            changed = changed_attributes(module, {leaf: holder() for leaf, holder in self.holders.items()})
            self._before = {name: module.__dict__.get(name) for name in changed}
            module.__dict__.update(changed)

    def undo(self, module: nn.Module, _: object, __: object) -> None:
        """Put the weights back."""
        for name, value in self._before.items():
            if value is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = value
        self._before = {}


def _has_something_to_say(holder: WeightHolder) -> bool:
    return "forward" in holder.__dict__ or bool(holder._forward_hooks)


def _is_replacement(hook: object) -> bool:
    return isinstance(getattr(hook, "__self__", hook), _Replacement)
