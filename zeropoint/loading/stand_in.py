"""A stand-in for a float module: it computes with quantized weights, and keeps everything else that the module has.

The rest of the network may read more of a module than its output: `hidden_size`, a factor that lies beside the weight,
a module inside it. Such names belong to the user, so the tensors of the stand-in take names that are free.
"""

from collections.abc import Collection
from typing import Any

from torch import nn

from zeropoint.schema.layer_names import free_name


class StandIn(nn.Module):
    """Has the parameters, buffers, modules and attributes of the float module, except its quantized weights."""

    _shell: tuple[nn.Module]
    """The float module, in a tuple so that it is no submodule: its parameters are not this module's."""

    def keep(self, shell: nn.Module, replaced: Collection[str]) -> None:
        """Take over whatever `shell` has; `replaced`: the names of its quantized weights."""
        self._parameters.update({name: value for name, value in shell._parameters.items() if name not in replaced})
        self._buffers.update(shell._buffers)
        self._modules.update(shell._modules)
        self._non_persistent_buffers_set |= shell._non_persistent_buffers_set
        self._shell = (shell,)

    def __getattr__(self, name: str) -> Any:
        """Return what the float module has under this name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            shell = self.__dict__.get("_shell")
            if shell is None:
                raise
            return getattr(shell[0], name)


def local_name(shell: nn.Module, stored: str, owner: str, taken: Collection[str] = ()) -> str:
    """Return the name for a stored tensor in the stand-in for `shell`: that of the file, unless `shell` has it.

    `owner`: the path, with its dot, of the module in which the file has it; it is another one for a tied weight.
    """
    held = {*vars(shell), *shell._buffers, *shell._modules, *(k for k, v in shell._parameters.items() if v is not None)}
    return free_name(stored.removeprefix(owner), held.union(taken))
