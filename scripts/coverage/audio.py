"""Networks that hear and make sounds."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it
from torch.nn.utils.parametrizations import weight_norm

from scripts.coverage.architecture import Architecture, sounds
from scripts.coverage.pretrained import pretrained


def wav2vec2() -> Architecture:
    return pretrained(
        "Wav2Vec2ForCTC", {"input_values": sounds(800, 48)},
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=32,
        conv_dim=[32, 32, 32], conv_kernel=[10, 3, 3], conv_stride=[5, 2, 2], num_feat_extract_layers=3,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip


class WhisperEncoder(nn.Module):
    """Two convolutions, fixed sinusoids, and pre-norm blocks whose keys have no bias."""

    places: Tensor

    def __init__(self, width: int = 64, frames: int = 40) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(40, width, 3, padding=1), nn.Conv1d(width, width, 3, 2, 1)
        angles = torch.arange(frames)[:, None] * torch.exp(-torch.arange(width // 2) * math.log(10000) / (width // 2))
        self.register_buffer("places", torch.cat([angles.sin(), angles.cos()], 1))
        layers = [nn.TransformerEncoderLayer(width, 4, 128, 0.0, F.gelu, norm_first=True, batch_first=True)]
        self.blocks, self.norm = nn.Sequential(*layers * 2), nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        x = F.gelu(self.second(F.gelu(self.first(features)))).permute(0, 2, 1)
        result: Tensor = self.norm(self.blocks((x + self.places).to(x.dtype)))
        return result


def spectrogram(waves: Tensor, size: int) -> Tensor:
    """Return log magnitudes, [n, size/2 + 1, frames]."""
    spectrum = torch.stft(waves, size, size // 4, window=torch.hann_window(size), return_complex=True)
    return spectrum.abs().clamp(min=1e-3).log()


def whisper_encoder() -> Architecture:
    features = spectrogram(sounds(79 * 20 + 1), 78)
    return Architecture(WhisperEncoder(), {"features": features[:, :40, :80].contiguous()})


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, a gated depthwise convolution, and half a feed-forward."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.before, self.after = self._half(width), self._half(width)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.gate, self.point = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 1)
        self.depth, self.batch = nn.Conv1d(width, width, 7, padding=3, groups=width), nn.BatchNorm1d(width)

    @staticmethod
    def _half(width: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 96), nn.SiLU(), nn.Linear(96, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, key_padding_mask=mask, need_weights=False)[0]
        y = self.norms[1](x).transpose(1, 2)
        y = self.point(F.silu(self.batch(self.depth(F.glu(self.gate(y), 1)))))
        x = x + y.transpose(1, 2)
        result: Tensor = self.norms[2](x + 0.5 * self.after(x))
        return result


class Conformer(nn.Module):
    """Spectrograms are halved by convolutions; padded frames are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.halve = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.project = nn.Linear(8 * 9, 48)
        self.blocks = nn.ModuleList([ConformerBlock(), ConformerBlock()])
        self.head = nn.Linear(48, 20)

    def forward(self, features: Tensor, padded: Tensor) -> Tensor:
        x = self.halve(features.unsqueeze(1))
        x = self.project(x.transpose(1, 2).flatten(2))
        for block in self.blocks:
            x = block(x, padded)
        return F.log_softmax(self.head(x), -1)


def conformer() -> Architecture:
    features = spectrogram(sounds(1300), 66).transpose(1, 2)[:, :64]
    padded = torch.arange(16) >= torch.randint(8, 17, (features.shape[0], 1))
    return Architecture(Conformer(), {"features": features.contiguous(), "padded": padded})


class Spectral(nn.Module):
    """Waves in: a short-time Fourier transform and mel filters are part of the model."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(128))
        self.register_buffer("filters", torch.rand(32, 65).softmax(1))
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(32, 8)

    def forward(self, waves: Tensor) -> Tensor:
        spectrum = torch.stft(waves, 128, 32, window=self.window, return_complex=True)
        mel = torch.log1p(self.filters @ spectrum.abs().square())
        logits: Tensor = self.head(self.body(mel.unsqueeze(1)).flatten(1))
        return logits


def stft_classifier() -> Architecture:
    return Architecture(Spectral(), {"waves": sounds(1024)})


class Crepe(nn.Module):
    """Wide kernels over raw frames, normalized, padded by hand, and a sigmoid over pitches."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(1, 64, 64, 4), (64, 32, 32, 1), (32, 32, 32, 1)]
        self.convolutions = nn.ModuleList([nn.Conv2d(i, o, (k, 1), (s, 1)) for i, o, k, s in sizes])
        self.norms = nn.ModuleList([nn.BatchNorm2d(o, eps=0.001) for _, o, _, _ in sizes])
        self.head = nn.Linear(32 * 16, 90)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for size, convolution, norm in zip((64, 32, 32), self.convolutions, self.norms, strict=True):
            x = F.pad(x, (0, 0, size // 2 - 1, size // 2))
            x = F.max_pool2d(norm(F.relu(convolution(x))), (2, 1), (2, 1))
        return torch.sigmoid(self.head(x.permute(0, 2, 1, 3).reshape(x.shape[0], -1)))


def crepe() -> Architecture:
    frames = sounds(512)
    return Architecture(Crepe(), {"frames": (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)})


class WaveNet(nn.Module):
    """Causal convolutions at growing dilations, gated, with sums of what each skips; weights are normalized."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(1, channels, 1))
        self.gates = nn.ModuleList(
            [weight_norm(nn.Conv1d(channels, 2 * channels, 2, dilation=2**layer)) for layer in range(5)]
        )
        self.residuals = nn.ModuleList([weight_norm(nn.Conv1d(channels, channels, 1)) for _ in range(5)])
        self.skips = nn.ModuleList([weight_norm(nn.Conv1d(channels, channels, 1)) for _ in range(5)])
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, 64, 1))

    def forward(self, waves: Tensor) -> Tensor:
        x = self.first(waves.unsqueeze(1))
        total = torch.zeros_like(x)
        for layer, (gate, residual, skip) in enumerate(zip(self.gates, self.residuals, self.skips, strict=True)):
            value, opening = gate(F.pad(x, (2**layer, 0))).chunk(2, 1)
            y = torch.tanh(value) * torch.sigmoid(opening)
            total = total + skip(y)
            x = x + residual(y)
        logits: Tensor = self.last(total)
        return logits


def wavenet() -> Architecture:
    return Architecture(WaveNet(), {"waves": sounds(256)})


class Codec(nn.Module):
    """Strided convolutions down, a codebook whose nearest entry is taken, transposed convolutions up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv1d(1, 16, 7, padding=3), nn.ELU(), nn.Conv1d(16, 32, 4, 2, 1), nn.ELU(), nn.Conv1d(32, 16, 8, 4, 2)
        )
        self.codebook = nn.Embedding(64, 16)
        self.up = nn.Sequential(
            nn.ConvTranspose1d(16, 32, 8, 4, 2), nn.ELU(), nn.ConvTranspose1d(32, 16, 4, 2, 1), nn.ELU(),
            nn.Conv1d(16, 1, 7, padding=3), nn.Tanh(),
        )  # fmt: skip

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.down(waves.unsqueeze(1)).transpose(1, 2)
        entries = self.codebook.weight
        distances = latent.pow(2).sum(-1, keepdim=True) - 2 * latent @ entries.t() + entries.pow(2).sum(-1)
        codes = distances.argmin(-1)
        return self.up(self.codebook(codes).transpose(1, 2)).squeeze(1), codes


def codec() -> Architecture:
    return Architecture(Codec(), {"waves": sounds(256)})


class Speaker(nn.Module):
    """A TDNN with squeezed channels, attention over time, and mean and deviation as the vector (ECAPA)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(33, 48, 5, padding=2), nn.ReLU(), nn.BatchNorm1d(48))
        self.parts = nn.ModuleList([nn.Conv1d(12, 12, 3, padding=2, dilation=2) for _ in range(3)])
        self.attention = nn.Sequential(nn.Conv1d(48, 24, 1), nn.Tanh(), nn.Conv1d(24, 48, 1))
        self.norm, self.vector = nn.BatchNorm1d(96), nn.Linear(96, 32)

    def forward(self, features: Tensor) -> Tensor:
        first, *others = self.first(features).split(12, 1)
        parts = [first]
        for part, convolution in zip(others, self.parts, strict=True):
            parts.append(F.relu(convolution(part + parts[-1])))
        x = torch.cat(parts, 1)
        weights = self.attention(x).softmax(-1)
        mean = (x * weights).sum(-1)
        deviation = ((x.square() * weights).sum(-1) - mean.square()).clamp(min=1e-5).sqrt()
        return F.normalize(self.vector(self.norm(torch.cat([mean, deviation], 1))), dim=-1)


def speaker() -> Architecture:
    features = spectrogram(sounds(800), 64)
    return Architecture(Speaker(), {"features": features - features.mean(-1, keepdim=True)})


NETWORKS = {
    "wav2vec2": wav2vec2,
    "whisper_encoder": whisper_encoder,
    "conformer": conformer,
    "stft_classifier": stft_classifier,
    "crepe": crepe,
    "wavenet": wavenet,
    "codec": codec,
    "speaker": speaker,
}
