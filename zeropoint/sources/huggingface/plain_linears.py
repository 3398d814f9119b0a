"""Linear layers under other names: Falcon's subclass of `nn.Linear` computes the same."""

from torch import nn

SUBCLASSES = ("FalconLinear",)
"""Subclasses that override `forward` and compute the same."""


def put_plain_linears(network: nn.Module) -> None:
    """Replace such layers by `nn.Linear` with the same parameters."""
    for name, module in list(network.named_modules()):
        if type(module).__name__ in SUBCLASSES and isinstance(module, nn.Linear):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            plain.weight, plain.bias = module.weight, module.bias
            network.set_submodule(name, plain.train(module.training))
