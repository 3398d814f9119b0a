"""Forward hooks on layers: registered for the length of a block, and removed whatever happens in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from zeropoint.data.padding import mask_of, visible

BeforeForward = Callable[[nn.Module, tuple[Tensor, ...]], Any]
"""Called with a module and its positional arguments; a tuple that it returns replaces these."""
AfterForward = Callable[[nn.Module, tuple[Tensor, ...], Any], Any]
"""Called with a module, its arguments and its output; what it returns, unless None, replaces the output."""
Observe = Callable[[Tensor], None]


@contextmanager
def hooked(
    *, before: Iterable[tuple[nn.Module, BeforeForward]] = (), after: Iterable[tuple[nn.Module, AfterForward]] = ()
) -> Iterator[None]:
    """Call each hook before or after its module's forward, until the block ends. Hooks of a module run in order."""
    with ExitStack() as handles:
        for module, enter in before:
            handles.callback(module.register_forward_pre_hook(enter).remove)
        for module, leave in after:
            handles.callback(module.register_forward_hook(leave).remove)
        yield


def stay_visible(module: nn.Module, arguments: object) -> None:
    """Change nothing. Torch's fused transformer layer reads the weights of modules itself, unless these have hooks."""


class CurrentMask:
    """The mask of the batch that runs now: observers see only the positions that it lets count."""

    mask: Tensor | None = None

    def start(self, batch: Sequence[Tensor]) -> None:
        """Note which batch runs next."""
        self.mask = mask_of(batch)


@contextmanager
def watched(modules: Mapping[str, nn.Module], observers: Mapping[str, Observe]) -> Iterator[CurrentMask]:
    """Show each module's input to its observer, without padding, until the block ends."""
    current = CurrentMask()

    def show(observe: Observe, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        observe(visible(arguments[0], current.mask))

    with hooked(before=((module, partial(show, observers[name])) for name, module in modules.items())):
        yield current
