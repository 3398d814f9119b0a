"""Networks for tables: recommenders, columns of numbers, and time series."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from scripts.coverage.architecture import SAMPLES, Architecture, rows, words
from scripts.coverage.pretrained import pretrained


def layers(*sizes: int) -> nn.Sequential:
    """Return linears with ReLU between them."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts[:-1])


class Dlrm(nn.Module):
    """Bags of embeddings, dense features, and products of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList([nn.EmbeddingBag(100, 16, mode=mode) for mode in ("sum", "mean", "sum")])
        self.bottom, self.top = layers(13, 64, 16), layers(16 + 6, 64, 32, 1)

    def forward(self, dense: Tensor, sparse: list[Tensor]) -> Tensor:
        x = self.bottom(dense)
        vectors = torch.stack([x, *(bag(ids) for bag, ids in zip(self.bags, sparse, strict=True))], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        left, right = torch.tril_indices(4, 4, -1)
        return torch.sigmoid(self.top(torch.cat([x, products[:, left, right]], 1))).squeeze(1)


def dlrm() -> Architecture:
    return Architecture(Dlrm(), {"dense": rows(13), "sparse": [words(5, 100) for _ in range(3)]})


class TwoTower(nn.Module):
    """Users and items as vectors of unit length; their likeness, by a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(100, 32), nn.Embedding(80, 32)
        self.user, self.item = layers(40, 64, 32), layers(44, 64, 32)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, user: dict[str, Tensor], item: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        left = F.normalize(self.user(torch.cat([self.users(user["id"]), user["features"]], -1)), dim=-1)
        right = F.normalize(self.item(torch.cat([self.items(item["id"]), item["features"]], -1)), dim=-1)
        return (left * right).sum(-1) * self.temperature.exp(), left, right


def two_tower() -> Architecture:
    user = {"id": words(1, 100)[:, 0], "features": rows(8)}
    return Architecture(TwoTower(), {"user": user, "item": {"id": words(1, 80)[:, 0], "features": rows(12)}})


class WideDeep(nn.Module):
    """Crossed columns by one sparse linear, and a deep part beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.embed = nn.Embedding(200, 1), nn.Embedding(50, 12)
        self.deep = nn.Sequential(nn.Linear(54, 128), nn.ReLU(), nn.BatchNorm1d(128), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64, 1)

    def forward(self, crossed: Tensor, columns: Tensor, numbers: Tensor) -> Tensor:
        deep = self.deep(torch.cat([self.embed(columns).flatten(1), numbers], 1))
        return torch.sigmoid(self.wide(crossed).sum(1) + self.head(deep))


def wide_deep() -> Architecture:
    samples = {"crossed": words(3, 200), "columns": words(4, 50), "numbers": rows(6)}
    return Architecture(WideDeep(), samples)


class DeepFm(nn.Module):
    """A factorization machine beside a deep part, of one table whose rows have offsets."""

    offsets: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, 50, 100, 150]))
        self.embed, self.linear = nn.Embedding(200, 16), nn.Embedding(200, 1)
        self.deep = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 1))

    def forward(self, columns: Tensor) -> Tensor:
        ids = columns.to(torch.int64) + self.offsets
        vectors = self.embed(ids)
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.linear(ids).sum(1) + pairs / 16 + self.deep(vectors.flatten(1)))


def deepfm() -> Architecture:
    return Architecture(DeepFm(), {"columns": words(4, 50).int()})


class SasRec(nn.Module):
    """A causal transformer over what was bought; scores for all things by their own embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(120, 48, padding_idx=0), nn.Embedding(10, 48)
        layer = nn.TransformerEncoderLayer(48, 2, 96, 0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(48)

    def forward(self, bought: Tensor) -> Tensor:
        causal = torch.ones(10, 10, dtype=torch.bool).triu(1)
        x = self.items(bought) * 48**0.5 + self.places.weight
        x = self.norm(self.blocks(x, mask=causal, is_causal=True))
        return F.linear(x[:, -1], self.items.weight)


def sasrec() -> Architecture:
    return Architecture(SasRec(), {"bought": words(10, 120)})


class Unscaled(nn.Module):
    """Columns as they are in a table: years, money, shares; the model scales them itself."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.body = nn.Sequential(nn.Linear(8, 64), nn.SELU(inplace=True), nn.AlphaDropout(0.1), layers(64, 64, 3))

    def forward(self, columns: Tensor) -> Tensor:
        logits: Tensor = self.body((columns - self.mean) / self.deviation)
        return logits


def mlp_unscaled() -> Architecture:
    sizes = torch.tensor([1.0, 1e4, 0.01, 30.0, 2000.0, 1.0, 5e5, 0.1])
    columns = (rows(8) * 0.5 + 1) * sizes
    return Architecture(Unscaled(columns.mean(0), columns.std(0)), {"columns": columns})


class TabTransformer(nn.Module):
    """Attention over columns of categories; numbers join behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embeds = nn.ModuleList([nn.Embedding(size, 32) for size in (10, 20, 5, 40)])
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, F.gelu, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(6), layers(4 * 32 + 6, 96, 3)

    def forward(self, columns: Tensor, numbers: Tensor) -> Tensor:
        x = torch.stack([embed(columns[:, place]) for place, embed in enumerate(self.embeds)], 1)
        logits: Tensor = self.head(torch.cat([self.blocks(x).flatten(1), self.norm(numbers)], 1))
        return logits


def tab_transformer() -> Architecture:
    columns = torch.stack([words(1, size)[:, 0] for size in (10, 20, 5, 40)], 1)
    return Architecture(TabTransformer(), {"columns": columns, "numbers": rows(6)})


class FtTransformer(nn.Module):
    """Each number times a vector of its own, a token that gathers, attention over all."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors, self.biases = nn.Parameter(torch.randn(7, 32)), nn.Parameter(torch.randn(7, 32))
        self.gathers = nn.Parameter(torch.randn(1, 1, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm, self.wide, self.narrow = nn.LayerNorm(32), nn.Linear(32, 128), nn.Linear(64, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, numbers: Tensor) -> Tensor:
        x = numbers.unsqueeze(-1) * self.vectors + self.biases
        x = torch.cat([self.gathers.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.attention(x, x, x)[0]
        value, gate = self.wide(self.norm(x)).chunk(2, -1)
        logits: Tensor = self.head(F.relu(self.norm(x + self.narrow(value * F.relu(gate)))[:, 0]))
        return logits


def ft_transformer() -> Architecture:
    return Architecture(FtTransformer(), {"numbers": rows(7)})


def series(length: int, channels: int = 1) -> Tensor:
    """Return walks with a season, [samples, length, channels]."""
    time = torch.arange(length)[:, None] / 6.0
    season = torch.sin(time + 6 * torch.rand(SAMPLES, 1, channels)) * torch.rand(SAMPLES, 1, channels)
    return season + 0.2 * torch.randn(SAMPLES, length, channels).cumsum(1)


class Tcn(nn.Module):
    """Padded on both sides and chomped, as the first implementation does, with normalized weights."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        sizes = [3, channels, channels, channels]
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(
            [norm(nn.Conv1d(sizes[i], sizes[i + 1], 3, padding=2 * 2**i, dilation=2**i)) for i in range(3)]
        )
        self.short, self.head = nn.Conv1d(3, channels, 1), nn.Linear(channels, 4)

    def forward(self, series: Tensor) -> Tensor:
        given = series.transpose(1, 2)
        x = given
        for place, layer in enumerate(self.layers):
            x = F.relu(layer(x)[:, :, : -2 * 2**place].contiguous())
        result: Tensor = self.head(F.relu(x + self.short(given))[:, :, -1])
        return result


def tcn() -> Architecture:
    return Architecture(Tcn(), {"series": series(32, 3)})


class NBeats(nn.Module):
    """Blocks that subtract what they explain; trends by powers of time in a buffer."""

    powers: Tensor

    def __init__(self, length: int = 24, ahead: int = 6) -> None:
        super().__init__()
        self.length = length
        self.blocks = nn.ModuleList([layers(length, 64, 64, 64) for _ in range(3)])
        self.back = nn.ModuleList([nn.Linear(64, length, bias=False) for _ in range(3)])
        self.ahead = nn.ModuleList([nn.Linear(64, 3, bias=False) for _ in range(3)])
        self.register_buffer("powers", torch.stack([(torch.arange(ahead) / ahead) ** p for p in range(3)]))

    def forward(self, series: Tensor) -> Tensor:
        total = series[:, -1:].expand(-1, self.powers.shape[1]).clone()
        for block, back, ahead in zip(self.blocks, self.back, self.ahead, strict=True):
            hidden = F.relu(block(series))
            series = series - back(hidden)
            total += ahead(hidden) @ self.powers
        return total


def nbeats() -> Architecture:
    return Architecture(NBeats(), {"series": series(24)[..., 0]})


def patchtst() -> Architecture:
    return pretrained(
        "PatchTSTForPrediction", {"past_values": series(32, 3)},
        num_input_channels=3, context_length=32, patch_length=8, patch_stride=8, prediction_length=6, d_model=64,
        num_attention_heads=4, num_hidden_layers=2, ffn_dim=128,
    )  # fmt: skip


class DeepAr(nn.Module):
    """An LSTM over values and their calendar, scaled by the mean of each series; a distribution comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.lstm = nn.LSTM(9, 40, num_layers=2, batch_first=True)
        self.mean, self.deviation = nn.Linear(40, 1), nn.Linear(40, 1)

    def forward(self, values: Tensor, months: Tensor) -> tuple[Tensor, Tensor]:
        scale = values.abs().mean(1, keepdim=True) + 1
        hidden, _ = self.lstm(torch.cat([values / scale, self.embed(months)], -1))
        return self.mean(hidden) * scale, F.softplus(self.deviation(hidden)) * scale


def deepar() -> Architecture:
    months = (torch.arange(20) + torch.randint(0, 12, (SAMPLES, 1))) % 12
    return Architecture(DeepAr(), {"values": series(20) * 30 + 100, "months": months})


RECOMMENDERS = {"dlrm": dlrm, "two_tower": two_tower, "wide_deep": wide_deep, "deepfm": deepfm, "sasrec": sasrec}
TABULAR = {"mlp_unscaled": mlp_unscaled, "tab_transformer": tab_transformer, "ft_transformer": ft_transformer}
SERIES = {"tcn": tcn, "nbeats": nbeats, "patchtst": patchtst, "deepar": deepar}
