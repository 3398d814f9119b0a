"""Networks that classify pictures."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from scripts.coverage.architecture import Architecture, images
from scripts.coverage.pretrained import pretrained


def normalized(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without a bias, and its normalization."""
    padding = kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """The basic block of ResNet, with activations in place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *normalized(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *normalized(outputs, outputs)
        )
        self.shortcut = nn.Sequential(*normalized(inputs, outputs, 1, stride)) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.shortcut(x)
        result: Tensor = self.relu(y)
        return result


def residual_body(width: int = 32) -> nn.Sequential:
    """Return stem and stages of a small ResNet: [n, 3, h, w] to [n, 4·width, h/8, w/8]."""
    return nn.Sequential(
        *normalized(3, width, 3, 1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
    )


def resnet() -> Architecture:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return Architecture(nn.Sequential(residual_body(), *head), {"input": images()})


class Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        scale = F.hardsigmoid(self.up(F.relu(self.down(scale), inplace=True)), inplace=True)
        return x * scale


class Inverted(nn.Module):
    """The inverted residual of MobileNet: wide in the middle, with a depthwise convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.block = nn.Sequential(
            *normalized(inputs, wide, 1),
            nn.Hardswish(inplace=True),
            *normalized(wide, wide, 5, stride, groups=wide),
            Squeeze(wide),
            nn.Hardswish(inplace=True),
            *normalized(wide, outputs, 1),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.adds else y


def mobilenet() -> Architecture:
    network = nn.Sequential(
        *normalized(3, 16, 3, 2),
        nn.Hardswish(inplace=True),
        Inverted(16, 16, 1),
        Inverted(16, 24, 2),
        Inverted(24, 24, 1),
        *normalized(24, 96, 1),
        nn.Hardswish(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 128),
        nn.Hardswish(inplace=True),
        nn.Dropout(0.2, inplace=True),
        nn.Linear(128, 10),
    )
    memory: Tensor = images().to(memory_format=torch.channels_last)
    return Architecture(network.to(memory_format=torch.channels_last), {"input": memory})  # type: ignore[call-overload]


class Dense(nn.Module):
    """A layer of DenseNet: normalization first, and its result beside its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x), inplace=True))], 1)


def densenet() -> Architecture:
    layers = [Dense(24 + 12 * position, 12) for position in range(6)]
    network = nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1, bias=False),
        *layers[:3],
        nn.BatchNorm2d(60),
        nn.ReLU(inplace=True),
        nn.Conv2d(60, 60, 1, bias=False),
        nn.AvgPool2d(2),
        *layers[3:],
        nn.BatchNorm2d(96),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    return Architecture(network, {"input": images()})


class Shuffle(nn.Module):
    """ShuffleNet v2: one half of the channels passes through, then both are mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            *normalized(half, half, 1), nn.ReLU(), *normalized(half, half, 3, groups=half), *normalized(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        y = torch.cat([left, F.relu(self.branch(right))], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> Architecture:
    body = [*normalized(3, 48, 3, 2), nn.ReLU(), *(Shuffle(48) for _ in range(3))]
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))
    return Architecture(network, {"input": images(samples=24)}, batch=False, rows=1)


class Mixer(nn.Module):
    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])
        self.tokens = nn.Sequential(nn.Linear(tokens, 64), nn.GELU(), nn.Linear(64, tokens))
        self.channels = nn.Sequential(nn.Linear(channels, 128), nn.GELU(), nn.Linear(128, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = x + self.channels(self.norms[1](x))
        return y


class MlpMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, 4)
        self.blocks = nn.Sequential(*(Mixer(64, 64) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        logits: Tensor = self.head(self.norm(y).mean(1))
        return logits


def mlp_mixer() -> Architecture:
    return Architecture(MlpMixer(), {"x": images()}, layout="decomposed")


class Inception(nn.Module):
    """Branches of several sizes, separable kernels, and a pool beside them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, 16, 1)
        self.three = nn.Sequential(nn.Conv2d(channels, 16, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1))
        self.wide = nn.Sequential(
            nn.Conv2d(channels, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, (1, 7), padding=(0, 3)),
            nn.Conv2d(16, 16, (7, 1), padding=(3, 0)),
        )  # fmt: skip
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(channels, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.cat([self.one(x), self.three(x), self.wide(x), self.pooled(x)], 1))


def inception() -> Architecture:
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), Inception(32), nn.LocalResponseNorm(5), Inception(64),
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(256, 10), nn.LogSoftmax(1),
    )  # fmt: skip
    return Architecture(network, {"input": images()})


def efficientnet() -> Architecture:
    return pretrained(
        "EfficientNetForImageClassification", {"pixel_values": images()},
        image_size=32, width_coefficient=0.25, hidden_dim=320, num_labels=10,
        in_channels=[32, 16], out_channels=[16, 24], kernel_sizes=[3, 5], strides=[1, 2], num_block_repeats=[1, 2],
        expand_ratios=[1, 4], depthwise_padding=[], pooling_type="mean",
    )  # fmt: skip


def convnext() -> Architecture:
    return pretrained(
        "ConvNextForImageClassification", {"pixel_values": images()},
        image_size=32, hidden_sizes=[32, 64], depths=[1, 2], num_stages=2, patch_size=2, num_labels=10,
        layer_scale_init_value=0.5,
    )  # fmt: skip


def vit() -> Architecture:
    return pretrained(
        "ViTForImageClassification", {"pixel_values": images()},
        image_size=32, patch_size=8, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_labels=10,
    )  # fmt: skip


def swin() -> Architecture:
    return pretrained(
        "SwinForImageClassification", {"pixel_values": images()},
        image_size=32, patch_size=2, window_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], num_labels=10,
    )  # fmt: skip


NETWORKS = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "efficientnet": efficientnet,
    "densenet": densenet,
    "shufflenet": shufflenet,
    "inception": inception,
    "convnext": convnext,
    "mlp_mixer": mlp_mixer,
    "vit": vit,
    "swin": swin,
}
