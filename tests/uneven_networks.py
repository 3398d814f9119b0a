"""Pairs of layers whose channels between them have very different sizes, as folding and pruning leave them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tests.networks import BATCH, Example

CHANNELS = 8
SPREAD = torch.tensor([1.0, 3000.0, 0.02, 1.0, 40.0, 1e-3, 1.0, 700.0])


class Averaged(nn.Module):
    """The mean of every picture."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class ChannelsLast(nn.Module):
    """Channels as a linear reads them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Cast(nn.Module):
    """A cast to the dtype that the values have."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


FUNCTIONS: Mapping[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "prelu": lambda: nn.PReLU(CHANNELS),
    "dropout": nn.Dropout,
    "cast": Cast,
}
"""Functions of single values, which every pair can have between its layers."""

PAIRS: Mapping[str, Callable[[], tuple[nn.Module, list[nn.Module], nn.Module, Sequence[int]]]] = {
    "linear": lambda: (nn.Linear(6, CHANNELS), [], nn.Linear(CHANNELS, 4), [6]),
    "conv1d": lambda: (nn.Conv1d(2, CHANNELS, 3), [], nn.Conv1d(CHANNELS, 4, 3), [2, 12]),
    "conv2d": lambda: (nn.Conv2d(2, CHANNELS, 3), [], nn.Conv2d(CHANNELS, 4, 3), [2, 7, 7]),
    "conv3d": lambda: (nn.Conv3d(1, CHANNELS, 2), [], nn.Conv3d(CHANNELS, 4, 2), [1, 4, 4, 4]),
    "transposed": lambda: (
        nn.ConvTranspose2d(2, CHANNELS, 2),
        [],
        nn.ConvTranspose2d(CHANNELS, 4, 2, groups=2),
        [2, 5, 5],
    ),
    "depthwise": lambda: (
        nn.Conv2d(2, CHANNELS, 3, bias=False),
        [],
        nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS),
        [2, 7, 7],
    ),
    "grouped": lambda: (nn.Conv2d(2, CHANNELS, 3, groups=2), [], nn.Conv2d(CHANNELS, 4, 3, groups=2), [2, 7, 7]),
    "maximum": lambda: (nn.Conv2d(2, CHANNELS, 3), [nn.MaxPool2d(2)], nn.Conv2d(CHANNELS, 4, 2), [2, 8, 8]),
    "average": lambda: (nn.Conv2d(2, CHANNELS, 3), [nn.AvgPool2d(2)], nn.Conv2d(CHANNELS, 4, 2), [2, 8, 8]),
    "flattened": lambda: (
        nn.Conv2d(2, CHANNELS, 3),
        [nn.MaxPool2d(2), nn.Flatten()],
        nn.Linear(CHANNELS * 9, 4),
        [2, 8, 8],
    ),
    "pooled": lambda: (
        nn.Conv2d(2, CHANNELS, 3),
        [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        nn.Linear(CHANNELS, 4),
        [2, 8, 8],
    ),
    "mean": lambda: (nn.Conv2d(2, CHANNELS, 3), [Averaged()], nn.Linear(CHANNELS, 4), [2, 8, 8]),
    "last": lambda: (nn.Conv2d(2, CHANNELS, 3), [ChannelsLast()], nn.Linear(CHANNELS, 4), [2, 6, 6]),
}

UNPLAIN = (("last", True),)
"""Pairs whose second layer is a product of matrices, with a weight for each picture, once the program is decomposed."""


def pair(kind: str, function: str = "relu") -> Example:
    """Return two layers, `first` and `second`, with functions between them and uneven channels."""
    torch.manual_seed(0)
    first, between, second, shape = PAIRS[kind]()
    module = nn.Sequential()
    module.add_module("first", first)
    for name, step in zip("abc", [FUNCTIONS[function](), *between], strict=False):
        module.add_module(name, step)
    module.add_module("second", second)
    spread(first, second, SPREAD)
    return example(module, shape)


def chain() -> Example:
    """Return three linears, `first`, `second` and `third`, all of whose channels are uneven."""
    torch.manual_seed(0)
    module = nn.Sequential()
    layers = [nn.Linear(6, CHANNELS), nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, 4)]
    for name, layer in zip(("first", "second", "third"), layers, strict=True):
        module.add_module(name, layer)
        if name != "third":
            module.add_module(f"after_{name}", nn.ReLU())
    for (before, after), sizes in zip(pairwise(layers), (SPREAD, SPREAD.flip(0)), strict=True):
        spread(before, after, sizes)
    return example(module, [6])


def example(module: nn.Module, shape: Sequence[int]) -> Example:
    """Return the module with random samples of this shape."""
    samples = torch.randn(96, *shape)
    return Example(module.eval(), (samples[:4],), ({0: BATCH},), {"input": samples})


def spread(first: nn.Module, second: nn.Module, sizes: Tensor) -> None:
    """Multiply the outputs of `first` by `sizes`, and divide the inputs of `second` by them."""
    with torch.no_grad():
        weight, reader = first.get_parameter("weight"), second.get_parameter("weight")
        axis = 1 if isinstance(first, nn.modules.conv._ConvTransposeNd) else 0
        weight.mul_(sizes.reshape([-1 if dim == axis else 1 for dim in range(weight.dim())]))
        if first.bias is not None:
            first.get_parameter("bias").mul_(sizes)
        transposed = isinstance(second, nn.modules.conv._ConvTransposeNd)
        groups = getattr(second, "groups", 1)
        inputs = len(reader) if transposed else reader.shape[1] * groups
        columns = sizes.repeat_interleave(inputs // len(sizes))
        rest = [1] * (reader.dim() - 2)
        if transposed:
            reader.div_(columns.reshape(-1, 1, *rest))
        else:
            of_rows = columns.reshape(groups, 1, -1).expand(-1, len(reader) // groups, -1)
            reader.div_(of_rows.reshape(len(reader), -1, *rest))
