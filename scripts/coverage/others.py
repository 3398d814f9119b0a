"""Networks on points and grids, and those of rare kinds."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from scripts.coverage.architecture import Architecture, images, rows
from scripts.coverage.vision import normalized


class PointNet(nn.Module):
    """A learned rotation, shared linears over points, and the largest of each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.turns = nn.Linear(64, 9)
        self.body = nn.Sequential(nn.Conv1d(3, 48, 1), nn.BatchNorm1d(48), nn.ReLU(), nn.Conv1d(48, 96, 1))
        self.head = nn.Sequential(nn.Linear(96, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 8))

    def forward(self, points: Tensor) -> Tensor:
        turn = self.turns(torch.max(self.turn(points.transpose(1, 2)), 2)[0]).view(-1, 3, 3)
        points = torch.bmm(points, turn + torch.eye(3))
        logits: Tensor = self.head(torch.max(self.body(points.transpose(1, 2)), 2, keepdim=True)[0].squeeze(2))
        return logits


def pointnet() -> Architecture:
    return Architecture(PointNet(), {"points": rows(64, 3)})


class Siamese(nn.Module):
    """One network on two pictures, and their distance."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *normalized(1, 16, 3, 2), nn.ReLU(), *normalized(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32)
        )
        self.head = nn.Linear(32, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.sigmoid(self.head((self.body(left) - self.body(right)).abs()))


def siamese() -> Architecture:
    return Architecture(Siamese(), {"left": images(16, 1), "right": images(16, 1)})


class Crnn(nn.Module):
    """Text in pictures: columns of features, two LSTMs both ways, and scores for CTC, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *normalized(1, 16), nn.ReLU(True), nn.MaxPool2d(2), *normalized(16, 32), nn.ReLU(True),
            nn.MaxPool2d((2, 1)), nn.Conv2d(32, 48, (4, 1)), nn.ReLU(True),
        )  # fmt: skip
        self.first, self.between = nn.LSTM(48, 32, bidirectional=True), nn.Linear(64, 48)
        self.second, self.head = nn.LSTM(48, 32, bidirectional=True), nn.Linear(64, 27)

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(images).squeeze(2).permute(2, 0, 1)
        x = self.second(self.between(self.first(x)[0]))[0]
        return F.log_softmax(self.head(x), 2).transpose(0, 1)


def crnn() -> Architecture:
    return Architecture(Crnn(), {"images": images(32, 1)[:, :, :16]})


class Capsules(nn.Module):
    """Vectors that vote for vectors, by agreement in three rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.primary = nn.Conv2d(1, 32, 5, 2), nn.Conv2d(32, 32, 3, 2)
        self.votes = nn.Parameter(torch.randn(1, 36, 5, 8, 8) / 3)

    @staticmethod
    def _squash(x: Tensor) -> Tensor:
        size = x.square().sum(-1, keepdim=True)
        return size / (1 + size) * x / torch.sqrt(size + 1e-8)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.primary(F.relu(self.first(images)))
        x = self._squash(x.view(x.shape[0], 36, 8))
        votes = (self.votes @ x[:, :, None, :, None]).squeeze(-1)
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(3):
            weights = logits.softmax(2)
            out = self._squash((weights[..., None] * votes).sum(1))
            logits = logits + (votes * out[:, None]).sum(-1)
        return out.norm(dim=-1), out


def capsules() -> Architecture:
    return Architecture(Capsules(), {"images": images(18, 1)})


class Spline(nn.Module):
    """A layer of KAN: a linear of SiLU, and a linear of the B-splines of each input."""

    grid: Tensor

    def __init__(self, inputs: int, outputs: int, knots: int = 5, order: int = 3) -> None:
        super().__init__()
        self.order = order
        step = 2.0 / knots
        grid = torch.arange(-order, knots + order + 1) * step - 1
        self.register_buffer("grid", grid.expand(inputs, -1).contiguous())
        self.base = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.spline = nn.Parameter(torch.randn(outputs, inputs, knots + order) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        given, grid = x.unsqueeze(-1), self.grid
        bases = ((given >= grid[:, :-1]) & (given < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (given - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - given) / (grid[:, k + 1 :] - grid[:, 1:-k])
            bases = left * bases[..., :-1] + right * bases[..., 1:]
        splines = F.linear(bases.flatten(1), self.spline.flatten(1))
        return F.linear(F.silu(x), self.base) + splines


def kan() -> Architecture:
    return Architecture(
        nn.Sequential(Spline(8, 32), Spline(32, 16), Spline(16, 2)), {"input": torch.rand(256, 8) * 2 - 1}
    )


class Fourier(nn.Module):
    """A layer of FNO: complex weights for the lowest frequencies, and a pointwise convolution."""

    def __init__(self, channels: int = 16, modes: int = 6) -> None:
        super().__init__()
        self.modes, self.point = modes, nn.Conv2d(channels, channels, 1)
        weight = torch.randn(channels, channels, modes, modes, dtype=torch.cfloat) / channels
        self.low, self.high = nn.Parameter(weight), nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        spectrum, m = torch.fft.rfft2(x), self.modes
        out = torch.zeros_like(spectrum)
        out[:, :, :m, :m] = torch.einsum("nixy,ioxy->noxy", spectrum[:, :, :m, :m], self.low)
        out[:, :, -m:, :m] = torch.einsum("nixy,ioxy->noxy", spectrum[:, :, -m:, :m], self.high)
        return F.gelu(torch.fft.irfft2(out, s=x.shape[-2:]) + self.point(x))


def fno() -> Architecture:
    network = nn.Sequential(
        nn.Conv2d(1, 16, 1), Fourier(), Fourier(), nn.Conv2d(16, 64, 1), nn.GELU(), nn.Conv2d(64, 1, 1)
    )
    return Architecture(network, {"input": images(16, 1)})


class Normalizing(nn.Module):
    """Statistics of what it has seen, in buffers that every call changes (as in reinforcement learning)."""

    mean: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("count", torch.tensor(1.0))
        self.body = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, 4), nn.Linear(64, 1)

    def forward(self, observed: Tensor) -> dict[str, Tensor]:
        self.count += 1
        self.mean += (observed.mean(0) - self.mean) / self.count
        x = self.body(observed - self.mean)
        return {"action": torch.tanh(self.policy(x)), "value": self.value(x).squeeze(-1)}


def actor_critic() -> Architecture:
    return Architecture(Normalizing(), {"observed": rows(12)})


class Video(nn.Module):
    """Convolutions in space and time, and a recurrent cell of convolutions over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Sequential(nn.Conv3d(3, 12, (3, 3, 3), (1, 2, 2), 1), nn.BatchNorm3d(12), nn.ReLU())
        self.gates = nn.Conv2d(12 + 16, 4 * 16, 3, padding=1)
        self.head = nn.Linear(16, 6)

    def forward(self, clip: Tensor) -> Tensor:
        frames = self.space(clip)
        hidden = frames.new_zeros(frames.shape[0], 16, *frames.shape[-2:])
        cell = hidden
        for frame in frames.unbind(2):
            gates = self.gates(torch.cat([frame, hidden], 1))
            take, keep, give, value = gates.chunk(4, 1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(value)
            hidden = torch.sigmoid(give) * torch.tanh(cell)
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


def video() -> Architecture:
    clip = torch.stack([images(16, samples=48) for _ in range(4)], 2).cumsum(2) / 2
    return Architecture(Video(), {"clip": clip})


NETWORKS = {
    "pointnet": pointnet,
    "siamese": siamese,
    "crnn": crnn,
    "capsules": capsules,
    "kan": kan,
    "fno": fno,
    "actor_critic": actor_critic,
    "video": video,
}
