"""Networks on graphs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from scripts.coverage.architecture import SAMPLES, Architecture, rows


def edges(nodes: int, count: int) -> Tensor:
    """Return sources and targets, [samples, 2, count]."""
    return torch.randint(0, nodes, (SAMPLES, 2, count))


class Gcn(nn.Module):
    """One large graph: nodes are rows, and the edges are part of the model."""

    source: Tensor
    target: Tensor
    weight: Tensor

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(24, 64), nn.Linear(64, 32), nn.Linear(32, 6)
        pairs = torch.randint(0, nodes, (2, 4 * nodes))
        loops = torch.arange(nodes).expand(2, -1)
        source, target = torch.cat([pairs, loops], 1)
        degree = torch.zeros(nodes).index_add(0, target, torch.ones(len(target)))
        self.register_buffer("source", source)
        self.register_buffer("target", target)
        self.register_buffer("weight", (degree[source] * degree[target]).rsqrt()[:, None])

    def _spread(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_add_(0, self.target, x[self.source] * self.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self._spread(self.first(x)))
        x = F.relu(self._spread(self.second(x)))
        return F.log_softmax(self.head(x), -1)


def gcn() -> Architecture:
    return Architecture(Gcn(48), {"x": rows(24, samples=48 * 4)}, batch=False, rows=48)


class Gat(nn.Module):
    """Graphs of a batch with edges of their own; attention over neighbours by scattered maxima and sums."""

    def __init__(self, heads: int = 2, width: int = 24) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.project = nn.Linear(16, heads * width, bias=False)
        self.left, self.right = nn.Parameter(torch.randn(heads, width) / 5), nn.Parameter(torch.randn(heads, width) / 5)
        self.head = nn.Linear(heads * width, 5)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        n, count, _ = nodes.shape
        x = self.project(nodes).view(n, count, self.heads, self.width)
        source, target = edges.unbind(1)
        of_heads = target[..., None].expand(-1, -1, self.heads)
        near = x.gather(1, source[..., None, None].expand(-1, -1, self.heads, self.width))
        left, right = (near * self.left).sum(-1), (x * self.right).sum(-1).gather(1, of_heads)
        scores = F.leaky_relu(left + right, 0.2)
        most = scores.new_full((n, count, self.heads), -1e4).scatter_reduce(1, of_heads, scores, "amax")
        scores = torch.exp(scores - most.gather(1, of_heads))
        total = torch.zeros_like(most).scatter_add(1, of_heads, scores)
        weighted = near * (scores / (total.gather(1, of_heads) + 1e-6))[..., None]
        index = target[..., None, None].expand_as(near)
        summed = torch.zeros_like(x).scatter_add(1, index, weighted)
        logits: Tensor = self.head(F.elu(summed.flatten(2)))
        return logits


def gat() -> Architecture:
    return Architecture(Gat(), {"nodes": rows(12, 16), "edges": edges(12, 30)})


class MessagePassing(nn.Module):
    """Messages from both ends of an edge, means at nodes, a GRU cell that updates, and a sum over the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 24)
        self.message = nn.Sequential(nn.Linear(48 + 4, 48), nn.ReLU(), nn.Linear(48, 24))
        self.update, self.head = nn.GRUCell(24, 24), nn.Linear(24, 1)

    def forward(self, graph: dict[str, Tensor]) -> Tensor:
        x = self.embed(graph["atoms"])
        n, count, width = x.shape
        source, target = (graph["bonds"][:, end, :, None].expand(-1, -1, width) for end in (0, 1))
        for _ in range(2):
            ends = torch.cat([x.gather(1, source), x.gather(1, target), graph["kinds"]], -1)
            mean = torch.zeros_like(x).scatter_reduce(1, target, self.message(ends), "mean", include_self=False)
            x = self.update(mean.reshape(-1, width), x.reshape(-1, width)).view(n, count, width)
        energy: Tensor = self.head(x * graph["real"].unsqueeze(-1)).sum((1, 2))
        return energy


def message_passing() -> Architecture:
    graph = {
        "atoms": torch.randint(0, 10, (SAMPLES, 9)),
        "bonds": edges(9, 20),
        "kinds": F.one_hot(torch.randint(0, 4, (SAMPLES, 20)), 4).float(),
        "real": torch.rand(SAMPLES, 9) > 0.2,
    }
    return Architecture(MessagePassing(), {"graph": graph})


NETWORKS = {"gcn": gcn, "gat": gat, "message_passing": message_passing}
