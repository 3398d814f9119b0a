"""Networks whose modules, tensors, inputs and outputs have names that are no identifiers."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

WIDTH = 8
BATCH = Dim("batch", min=2, max=64)

MODULES = (
    *(
        "my-layer",
        "0",
        "a b",
        "größe",
        "conv1-2",
        "a/b",
        "a:b",
        "class",
        "lambda",
        "None",
        "日本語",
        "self",
        "a{b}",
        "a$b",
    ),
    *(
        "😀",
        "50%",
        "e\u0301",
        "ﬁne",
        "__x__",
        "class_",
        "weight",
        "a(b",
        "x" * 90,
        "import",
        "𝐱",
        "#1",
        " a ",
        "a,b",
        "c;d",
    ),
)
"""Words of which a path may consist; some are Python's own, and some it would read as others."""
FEW = ("my-layer", "a b", "größe", "class", "日本語", "a,b", "class_")
"""One of each kind, for what takes long."""
KEYS = (*MODULES, "conv.1-2", "../../x", "", "a=b")
"""Keys of dicts."""


class Named(nn.Module):
    """A linear, a parameter, and three kinds of buffers under each of these names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})
        self.weights = nn.ParameterDict(
            {name: torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for name in names}
        )
        self.buffers_ = nn.Module()
        for name in names:
            held = nn.Module()
            held.register_buffer(name, torch.randn(WIDTH, generator=generator))
            held.register_buffer(f"{name}!", torch.randn(WIDTH, generator=generator), persistent=False)
            self.buffers_.add_module(name, held)
            for parameter in self.layers[name].parameters():
                nn.init.normal_(parameter, std=WIDTH**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            held = getattr(self.buffers_, name)
            x = x + self.layers[name](x).relu() / 8
            x = x + torch.sin(nn.functional.linear(x, self.weights[name])) / 8
            x = x + getattr(held, name) * getattr(held, f"{name}!") / 8
        return x


class Counting(nn.Module):
    """A buffer under a name of Python's own, which every call changes in place."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.register_buffer(name, torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        getattr(self, self.name).add_(1)
        x = x.clone()
        x.mul_(2)
        output: Tensor = self.linear(x) + getattr(self, self.name)
        return output


class Keyed(nn.Module):
    """A dict for its input and its output."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__()
        self.keys = keys
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, größe: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: self.linear(größe[key]) for key in self.keys}


class Called(nn.Module):
    """Arguments whose names Python takes and ASCII lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, größe: Tensor, *, 名前: Tensor) -> Tensor:  # noqa: N803 - that is what it tests
        output: Tensor = self.linear(größe) * 名前
        return output


def named(names: tuple[str, ...] = MODULES) -> ExportedProgram:
    return torch.export.export(Named(names).eval(), (torch.randn(4, WIDTH),), dynamic_shapes=({0: BATCH},))


def keyed(keys: tuple[str, ...] = KEYS) -> ExportedProgram:
    given = {key: torch.randn(4, WIDTH) for key in keys}
    return torch.export.export(Keyed(keys).eval(), (given,), dynamic_shapes=({key: {0: BATCH} for key in keys},))


def called() -> ExportedProgram:
    x, scale = torch.randn(4, WIDTH), torch.randn(4, WIDTH)
    shapes = {"größe": {0: BATCH}, "名前": {0: BATCH}}
    return torch.export.export(Called().eval(), (x,), {"名前": scale}, dynamic_shapes=shapes)
