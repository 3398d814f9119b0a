"""Watching layers: hooks that show what a module is given to whoever wants to know, padding left out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from zeropoint.data.padding import mask_of, visible

Observe = Callable[[Tensor], None]


class Look:
    """What is being run: watchers see the positions that its mask lets count."""

    mask: Tensor | None = None

    def at(self, batch: Sequence[Tensor]) -> None:
        """This batch comes next."""
        self.mask = mask_of(batch)


@contextmanager
def watched(modules: Mapping[str, nn.Module], observers: Mapping[str, Observe]) -> Iterator[Look]:
    """Show each module's input to its observer, as long as the block lasts."""
    look = Look()

    def hook_for(observe: Observe) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def show(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            observe(visible(arguments[0], look.mask))

        return show

    handles = [module.register_forward_pre_hook(hook_for(observers[name])) for name, module in modules.items()]
    try:
        yield look
    finally:
        for handle in handles:
            handle.remove()
