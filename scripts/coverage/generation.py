"""Networks that make pictures, and those that turn one picture into another."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it
from torch.nn.utils.parametrizations import spectral_norm

from scripts.coverage.architecture import SAMPLES, Architecture, images, rows


def time_embedding(steps: Tensor, width: int) -> Tensor:
    """Return sines and cosines of steps, [n, width]."""
    angles = steps[:, None].float() * torch.exp(-torch.arange(width // 2) * math.log(1000) / (width // 2))
    return torch.cat([angles.sin(), angles.cos()], -1)


class TimeBlock(nn.Module):
    """Two normalized convolutions; a vector of the time is added between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)])
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(64, outputs)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.first(F.silu(self.norms[0](x))) + self.time(time)[:, :, None, None]
        result: Tensor = self.short(x) + self.second(F.silu(self.norms[1](y)))
        return result


class DiffusionUNet(nn.Module):
    """A UNet that predicts noise, with attention in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.down, self.shrink = TimeBlock(32, 32), nn.Conv2d(32, 32, 3, 2, 1)
        self.middle, self.norm = TimeBlock(32, 48), nn.GroupNorm(4, 48)
        self.joint, self.out = nn.Conv2d(48, 144, 1), nn.Conv2d(48, 48, 1)
        self.up, self.wide = TimeBlock(80, 32), nn.Conv2d(48, 48, 3, padding=1)
        self.last = nn.Sequential(nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))

    def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
        time = self.time(time_embedding(step, 32))
        kept = self.down(self.first(noisy), time)
        x = self.middle(self.shrink(kept), time)
        n, c, h, w = x.shape
        query, key, value = self.joint(self.norm(x)).view(n, 3, c, h * w).unbind(1)
        attention = torch.softmax(query.transpose(1, 2) @ key * c**-0.5, -1)
        x = x + self.out((value @ attention.transpose(1, 2)).view(n, c, h, w))
        x = torch.cat([self.wide(F.interpolate(x, scale_factor=2.0)), kept], 1)
        noise: Tensor = self.last(self.up(x, time))
        return noise


def diffusion_unet() -> Architecture:
    steps = torch.randint(0, 1000, (SAMPLES,))
    return Architecture(DiffusionUNet(), {"noisy": images(16) + rows(3, 16, 16), "step": steps})


class DitBlock(nn.Module):
    """A transformer block whose normalizations are shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.condition(condition).unsqueeze(1).chunk(6, -1)
        n, length, width = x.shape
        joint = self.joint(self.norm(x) * (1 + scale) + shift).view(n, length, 3, 4, width // 4)
        query, key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, length, width)
        x = x + gate * self.out(y)
        result: Tensor = x + gate2 * self.feed(self.norm(x) * (1 + scale2) + shift2)
        return result


class Dit(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(4, width, 2, 2), nn.Parameter(torch.randn(1, 16, width) / 4)
        self.time, self.labels = nn.Linear(width, width), nn.Embedding(11, width)
        self.blocks = nn.ModuleList([DitBlock(width), DitBlock(width)])
        self.last = nn.Linear(width, 2 * 2 * 8)

    def forward(self, latent: Tensor, step: Tensor, label: Tensor) -> Tensor:
        x = self.patches(latent).flatten(2).transpose(1, 2) + self.places
        condition = self.time(time_embedding(step, x.shape[-1])) + self.labels(label)
        for block in self.blocks:
            x = block(x, condition)
        return torch.einsum("nhwpqc->nchpwq", self.last(x).view(-1, 4, 4, 2, 2, 8)).reshape(-1, 8, 8, 8)


def dit() -> Architecture:
    steps, labels = torch.rand(SAMPLES), torch.randint(0, 11, (SAMPLES,))
    return Architecture(Dit(), {"latent": rows(4, 8, 8), "step": steps, "label": labels})


class Vae(nn.Module):
    """Mean and deviation; the noise is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.mean, self.spread, self.start = nn.Linear(512, 12), nn.Linear(512, 12), nn.Linear(12, 512)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (32, 4, 4)), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encoder(images)
        mean, spread = self.mean(x), self.spread(x)
        return self.decoder(self.start(mean + noise * torch.exp(0.5 * spread))), mean, spread


def vae() -> Architecture:
    return Architecture(Vae(), {"images": images(16), "noise": rows(12)})


class Autoencoder(nn.Module):
    """The decoder's weights are the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(192, 96), nn.Linear(96, 24)
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(96)), nn.Parameter(torch.zeros(192))])

    def forward(self, rows: Tensor) -> Tensor:
        code = F.elu(self.second(F.elu(self.first(rows))))
        hidden = F.elu(F.linear(code, self.second.weight.t(), self.biases[0]))
        return F.linear(hidden, self.first.weight.t(), self.biases[1])


def tied_autoencoder() -> Architecture:
    return Architecture(Autoencoder(), {"rows": images(8).flatten(1)})


class Coupling(nn.Module):
    """An affine coupling of RealNVP: one half scales and shifts the other."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width // 2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = x.chunk(2, -1)
        scale, shift = self.net(left).chunk(2, -1)
        scale = torch.tanh(scale)
        return torch.cat([right * scale.exp() + shift, left], -1), scale.sum(-1)


class Flow(nn.Module):
    """Couplings with permutations between them, and the density of what comes out."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([Coupling() for _ in range(4)])
        self.register_buffer("order", torch.randperm(16))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        total = x.new_zeros(x.shape[0])
        for step in self.steps:
            x, volume = step(x)
            x, total = x[:, self.order], total + volume
        return {"z": x, "log_density": total - 0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)}


def flow() -> Architecture:
    return Architecture(Flow(), {"x": rows(16)})


def super_resolution() -> Architecture:
    network = nn.Sequential(
        nn.Conv2d(3, 48, 5, padding=2), nn.Tanh(), nn.Conv2d(48, 32, 3, padding=1), nn.Tanh(),
        nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip
    return Architecture(network, {"input": images(16)})


class Styled(nn.Module):
    """Style transfer: reflected borders, instance normalization, residuals, and resizing before convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.ReflectionPad2d(2), nn.Conv2d(3, 16, 5), nn.InstanceNorm2d(16, affine=True), nn.ReLU(True),
            nn.ReflectionPad2d(1), nn.Conv2d(16, 32, 3, 2), nn.InstanceNorm2d(32, affine=True), nn.ReLU(True),
        )  # fmt: skip
        self.residual = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32, affine=True), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), nn.InstanceNorm2d(32, affine=True),
        )  # fmt: skip
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(32, 16, 3),
            nn.InstanceNorm2d(16, affine=True), nn.ReLU(True), nn.ReflectionPad2d(2), nn.Conv2d(16, 3, 5),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        x = self.down(images)
        x = x + self.residual(x)
        result: Tensor = self.up(x)
        return result


def style_transfer() -> Architecture:
    return Architecture(Styled(), {"images": images(24)})


def gan_generator() -> Architecture:
    network = nn.Sequential(
        nn.Linear(32, 64 * 16), nn.Unflatten(1, (64, 4, 4)), nn.BatchNorm2d(64), nn.ReLU(True),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    return Architecture(network, {"input": rows(32)})


def gan_discriminator() -> Architecture:
    network = nn.Sequential(
        spectral_norm(nn.Conv2d(3, 32, 4, 2, 1)), nn.LeakyReLU(0.2, True),
        spectral_norm(nn.Conv2d(32, 64, 4, 2, 1)), nn.LeakyReLU(0.2, True), nn.Flatten(),
        spectral_norm(nn.Linear(64 * 64, 1)),
    )  # fmt: skip
    return Architecture(network, {"input": images()})


class Nerf(nn.Module):
    """Places and directions as sines, a deep body that sees its input again, density and color."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(39, width), nn.Linear(width, width)])
        self.again = nn.Linear(width + 39, width)
        self.density, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
        self.color = nn.Sequential(nn.Linear(width + 15, 32), nn.ReLU(), nn.Linear(32, 3), nn.Sigmoid())

    @staticmethod
    def _waves(x: Tensor, octaves: int) -> Tensor:
        parts = [f(x * 2.0**octave) for octave in range(octaves) for f in (torch.sin, torch.cos)]
        return torch.cat([x, *parts], -1)

    def forward(self, places: Tensor, directions: Tensor) -> Tensor:
        given = self._waves(places, 6)
        x = given
        for layer in self.first:
            x = F.relu(layer(x))
        x = F.relu(self.again(torch.cat([x, given], -1)))
        seen = torch.cat([self.feature(x), self._waves(directions, 2)], -1)
        return torch.cat([self.color(seen), F.relu(self.density(x))], -1)


def nerf() -> Architecture:
    directions = F.normalize(rows(3, samples=256), dim=-1)
    return Architecture(Nerf(), {"places": torch.rand(256, 3) * 2 - 1, "directions": directions})


DIFFUSION = {"diffusion_unet": diffusion_unet, "dit": dit}
NETWORKS = {
    "vae": vae,
    "tied_autoencoder": tied_autoencoder,
    "flow": flow,
    "super_resolution": super_resolution,
    "style_transfer": style_transfer,
    "gan_generator": gan_generator,
    "gan_discriminator": gan_discriminator,
    "nerf": nerf,
}
