"""Small networks whose weights an operator reads as they are: recurrent ones, experts, and other products."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import bilinear

from tests.spelled_networks import Written, weight

ROWS = Dim("rows", min=2, max=1024)
STEPS, IN, HIDDEN, OUT, EXPERTS = 5, 12, 16, 8, 3


@dataclass(frozen=True)
class Held:
    """A network, how to draw its input, and the layers that its weights must give."""

    module: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    layers: frozenset[str]
    """Those whose weight is read as it is."""

    def program(self, *, decompose: bool = False) -> ExportedProgram:
        """Export it with a batch of any size."""
        inputs = self.inputs(3, 0)
        program = torch.export.export(self.module().eval(), inputs, dynamic_shapes=tuple({0: ROWS} for _ in inputs))
        return program.run_decompositions() if decompose else program

    def samples(self, calls: int = 8) -> list[tuple[Tensor, ...]]:
        """Draw calls of four rows."""
        return [self.inputs(4, seed) for seed in range(1, calls + 1)]


class Sequences(nn.Module):
    """A recurrent network over sequences, and a head over all that it returns."""

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.net, self.head = network, nn.Linear(width, OUT)
        self.first = bool(getattr(network, "batch_first", True))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.first else x.transpose(0, 1)
        values, state = self.net(x)
        values = values if self.first else values.transpose(0, 1)
        last = state[1] if isinstance(state, tuple) else state
        head: Tensor = self.head(values)
        mean: Tensor = last.mean()
        return head + mean


class Steps(nn.Module):
    """A cell that is called for each step."""

    def __init__(self, cell: nn.Module, *, two_states: bool) -> None:
        super().__init__()
        self.cell, self.head, self._two = cell, nn.Linear(HIDDEN, OUT), two_states

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], HIDDEN)
        state: Any = (zeros, zeros) if self._two else zeros
        for step in range(STEPS):
            state = self.cell(x[:, step], state)
        head: Tensor = self.head(state[0] if self._two else state)
        return head


def sequences(rows: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(rows, STEPS, IN, generator=torch.Generator().manual_seed(seed)),)


def vectors(rows: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(rows, IN, generator=torch.Generator().manual_seed(seed)),)


def pairs(rows: int, seed: int) -> tuple[Tensor, ...]:
    return (*vectors(rows, seed), *vectors(rows, seed + 1000))


def bags(rows: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 20, (rows, STEPS), generator=torch.Generator().manual_seed(seed)),)


class Pairs(nn.Module):
    """A bilinear form of two inputs."""

    def __init__(self, w: nn.Parameter) -> None:
        super().__init__()
        self.w = w

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return bilinear(x, y, self.w)


NETWORKS: Mapping[str, type[nn.Module]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
CELLS: Mapping[str, type[nn.Module]] = {"LSTMCell": nn.LSTMCell, "GRUCell": nn.GRUCell, "RNNCell": nn.RNNCell}


def _recurrent() -> Iterator[tuple[str, Held]]:
    for kind, layers, both, bias in product(NETWORKS, (1, 2), (False, True), (False, True)):
        words = [kind, f"{layers} layers", *["both ways"] * both, *["no bias"] * (not bias)]
        options = {"num_layers": layers, "bidirectional": both, "bias": bias, "batch_first": layers == 1}
        yield " ".join(words), _network(kind, **options)
    yield "LSTM with projections", _network("LSTM", proj_size=6, batch_first=True)
    yield "RNN of relu", _network("RNN", nonlinearity="relu")
    for kind, bias in product(CELLS, (False, True)):
        name = f"{kind}{'' if bias else ' no bias'}"
        yield name, Held(_steps(kind, bias=bias), sequences, frozenset({"cell.ih", "cell.hh"}))


def _network(kind: str, **options: Any) -> Held:
    ways = 2 if options.get("bidirectional") else 1
    width = ways * (options.get("proj_size") or HIDDEN)
    parts = ("ih", "hh", "hr") if options.get("proj_size") else ("ih", "hh")
    names = {
        f"net.{part}_l{layer}{'_reverse' * way}"
        for part, layer, way in product(parts, range(options.get("num_layers", 1)), range(ways))
    }

    def build() -> nn.Module:
        torch.manual_seed(0)
        return Sequences(NETWORKS[kind](IN, HIDDEN, **options), width)

    return Held(build, sequences, frozenset(names))


def _steps(kind: str, *, bias: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Steps(CELLS[kind](IN, HIDDEN, bias=bias), two_states=kind == "LSTMCell")

    return build


RECURRENT: Mapping[str, Held] = dict(_recurrent())


def _spread(x: Tensor) -> Tensor:
    """Return x for each expert, [E, rows, in]."""
    return x[None].expand(EXPERTS, -1, -1)


def _chosen(x: Tensor) -> Tensor:
    """Return an expert for each row."""
    return (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def _experts(forward: Any, *shape: int, inputs: Any = vectors) -> Held:
    return Held(lambda: Written(forward, {"w": weight(*shape)}), inputs, frozenset({"w"}))


IN_OUT, OUT_IN = (EXPERTS, IN, OUT), (EXPERTS, OUT, IN)

EXPERT_PRODUCTS: Mapping[str, Held] = {
    "bmm": _experts(lambda m, x: torch.bmm(_spread(x), m.w).sum(0), *IN_OUT),
    "bmm of a transpose": _experts(lambda m, x: torch.bmm(_spread(x), m.w.transpose(1, 2)).sum(0), *OUT_IN),
    "baddbmm": _experts(lambda m, x: torch.baddbmm(x.new_zeros(1, 1, 1), _spread(x), m.w).sum(0), *IN_OUT),
    "matmul": _experts(lambda m, x: (x[:, None, None] @ m.w)[:, :, 0].sum(1), *IN_OUT),
    "matmul of a transpose": _experts(lambda m, x: (x[:, None, None] @ m.w.mT)[:, :, 0].sum(1), *OUT_IN),
    "weight first": _experts(lambda m, x: (m.w @ x[:, None, :, None])[..., 0].sum(1), *OUT_IN),
    "einsum": _experts(lambda m, x: torch.einsum("ebi,eio->beo", _spread(x), m.w).sum(1), *IN_OUT),
    "einsum of a transpose": _experts(lambda m, x: torch.einsum("ebi,eoi->beo", _spread(x), m.w).sum(1), *OUT_IN),
    "einsum in another order": _experts(
        lambda m, x: torch.einsum("ebi,ioe->beo", _spread(x), m.w).sum(1), IN, OUT, EXPERTS
    ),
    "chosen by the row": _experts(lambda m, x: (m.w[_chosen(x)] @ x[..., None])[..., 0], *OUT_IN),
    "chosen by the row, transposed": _experts(
        lambda m, x: torch.bmm(x[:, None], m.w.index_select(0, _chosen(x)))[:, 0], *IN_OUT
    ),
    "heads": _experts(lambda m, x: (x.reshape(-1, 3, 1, IN // 3) @ m.w)[:, :, 0].flatten(1), 3, IN // 3, OUT),
    "halves": _experts(lambda m, x: sum(torch.bmm(_spread(x), half).sum(0) for half in m.w.chunk(2, dim=-1)), *IN_OUT),
    "scaled, beside a sum that varies": _experts(
        lambda m, x: torch.addmm(x[:, :OUT], x.tanh(), m.w, beta=0.5, alpha=2), IN, OUT
    ),
    "read twice": _experts(
        lambda m, x: (torch.bmm(_spread(x), m.w) + torch.bmm(_spread(x.tanh()), m.w).tanh()).sum(0), *IN_OUT
    ),
    "every expert for every row": Held(
        lambda: Written(lambda m, x: torch.einsum("bi,eio->beo", x, m.w).sum(1), {"w": weight(*IN_OUT)}),
        vectors,
        frozenset(),
    ),
    "one by one": Held(
        lambda: Written(lambda m, x: sum(x @ m.w[expert] for expert in range(EXPERTS)), {"w": weight(*IN_OUT)}),
        vectors,
        frozenset(),
    ),
    "bilinear": Held(lambda: Pairs(weight(OUT, IN, IN)), pairs, frozenset({"w"})),
}


class Tables(Written):
    """Tables that are no weights: added, normalized, compared, or multiplied in one place and added in another."""

    def __init__(self) -> None:
        def forward(m: Any, x: Tensor) -> Tensor:
            added = m.first(x) + m.added[: x.shape[0]].mean(0)
            compared = (added[:, None] - m.compared).abs().sum(-1)
            mixed = torch.bmm(_spread(x), m.mixed).sum(0) + m.mixed.mean()
            return torch.cat([compared, mixed, torch.nn.functional.layer_norm(m.normed, (IN,)).mean(0) * added], -1)

        tables = {"added": (2048, IN), "compared": (7, IN), "mixed": (EXPERTS, IN, OUT), "normed": (9, IN)}
        super().__init__(forward, {name: weight(*shape) for name, shape in tables.items()})
        self.first = nn.Linear(IN, IN)


class Bag(nn.Module):
    """A head over sums of a table's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(20, IN), nn.Linear(IN, OUT)

    def forward(self, ids: Tensor) -> Tensor:
        head: Tensor = self.head(self.table(ids))
        return head
