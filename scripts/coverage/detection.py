"""Networks that find, outline and place things in pictures."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from scripts.coverage.architecture import Architecture, images
from scripts.coverage.pretrained import pretrained
from scripts.coverage.vision import normalized, residual_body


class Ssd(nn.Module):
    """Two scales, three anchors each; boxes are decoded from anchors in a buffer."""

    anchors: Tensor

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.classes = classes
        self.first = nn.Sequential(*normalized(3, 32, 3, 2), nn.ReLU6(), *normalized(32, 64, 3, 2), nn.ReLU6())
        self.second = nn.Sequential(*normalized(64, 64, 3, 2), nn.ReLU6(inplace=True))
        self.boxes = nn.ModuleList([nn.Conv2d(64, 12, 3, padding=1), nn.Conv2d(64, 12, 3, padding=1)])
        self.scores = nn.ModuleList([nn.Conv2d(64, 3 * classes, 3, padding=1) for _ in range(2)])
        self.register_buffer("anchors", torch.rand(3 * (64 + 16), 4) * 0.5 + 0.25)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = [self.first(images)]
        features.append(self.second(features[0]))
        n = images.shape[0]
        boxes = [head(x).permute(0, 2, 3, 1).reshape(n, -1, 4) for head, x in zip(self.boxes, features, strict=True)]
        scores = [
            head(x).permute(0, 2, 3, 1).reshape(n, -1, self.classes)
            for head, x in zip(self.scores, features, strict=True)
        ]
        moved = torch.cat(boxes, 1)
        center = self.anchors[:, :2] + moved[..., :2] * 0.1 * self.anchors[:, 2:]
        size = self.anchors[:, 2:] * torch.exp(moved[..., 2:] * 0.2)
        found = torch.cat([center - size / 2, center + size / 2], -1).clamp(0, 1)
        return {"boxes": found, "scores": torch.cat(scores, 1).softmax(-1)}


def ssd() -> Architecture:
    return Architecture(Ssd(), {"images": images()})


class Fcos(nn.Module):
    """A pyramid, heads shared by all levels, a scale for each, and coordinates from the places of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(*normalized(3, 32, 3, 2), nn.ReLU(), *normalized(32, 64, 3, 2), nn.ReLU())
        self.high = nn.Sequential(*normalized(64, 96, 3, 2), nn.ReLU())
        self.lateral = nn.ModuleList([nn.Conv2d(64, 48, 1), nn.Conv2d(96, 48, 1)])
        self.tower = nn.Sequential(nn.Conv2d(48, 48, 3, padding=1), nn.GroupNorm(8, 48), nn.ReLU())
        self.sides, self.scores, self.centers = nn.Conv2d(48, 4, 1), nn.Conv2d(48, 5, 1), nn.Conv2d(48, 1, 1)
        self.scales = nn.Parameter(torch.tensor([1.0, 1.5]))

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        low = self.low(images)
        high = self.lateral[1](self.high(low))
        low = self.lateral[0](low) + F.interpolate(high, scale_factor=2.0, mode="nearest")
        return [self._level(x, stride, place) for place, (x, stride) in enumerate(((low, 4), (high, 8)))]

    def _level(self, x: Tensor, stride: int, place: int) -> tuple[Tensor, Tensor]:
        x = self.tower(x)
        sides = F.relu(self.sides(x) * self.scales[place]) * stride
        steps = (torch.arange(x.shape[-1]) + 0.5) * stride
        ys, xs = torch.meshgrid(steps, steps, indexing="ij")
        left, top, right, bottom = sides.unbind(1)
        boxes = torch.stack([xs - left, ys - top, xs + right, ys + bottom], -1)
        return boxes, torch.sigmoid(self.scores(x)) * torch.sigmoid(self.centers(x))


def fcos() -> Architecture:
    return Architecture(Fcos(), {"images": images()})


class Bottleneck(nn.Module):
    """The C2f block of YOLO: halves, and each step's result beside the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.first = nn.Sequential(*normalized(channels, channels, 1), nn.SiLU(inplace=True))
        self.step = nn.Sequential(*normalized(half, half), nn.SiLU(inplace=True), *normalized(half, half), nn.SiLU())
        self.last = nn.Sequential(*normalized(channels + half, channels, 1), nn.SiLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        parts.append(parts[-1] + self.step(parts[-1]))
        y: Tensor = self.last(torch.cat(parts, 1))
        return y


class Yolo(nn.Module):
    """Pools of several sizes, a path up, and distances as expectations over bins (DFL)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*normalized(3, 32, 3, 2), nn.SiLU(inplace=True), Bottleneck(32))
        self.down = nn.Sequential(*normalized(32, 64, 3, 2), nn.SiLU(inplace=True), Bottleneck(64))
        self.pool, self.pooled = nn.MaxPool2d(5, 1, 2), nn.Conv2d(256, 64, 1)
        self.up = nn.Upsample(scale_factor=2)
        self.mixed = nn.Sequential(*normalized(96, 48, 1), nn.SiLU(), Bottleneck(48))
        self.boxes, self.scores = nn.Conv2d(48, 4 * 8, 1), nn.Conv2d(48, 6, 1)
        self.register_buffer("bins", torch.arange(8.0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        low = self.stem(images)
        pools = [self.down(low)]
        for _ in range(3):
            pools.append(self.pool(pools[-1]))
        x = self.mixed(torch.cat([self.up(self.pooled(torch.cat(pools, 1))), low], 1))
        n, _, h, w = x.shape
        sides = self.boxes(x).view(n, 4, 8, h * w).softmax(2)
        distances = torch.einsum("nkbp,b->nkp", sides, self.bins)
        return torch.cat([distances, self.scores(x).flatten(2).sigmoid()], 1)


def yolo() -> Architecture:
    return Architecture(Yolo(), {"images": images()})


def detr() -> Architecture:
    backbone = {
        "model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1],
        "out_features": ["stage4"], "layer_type": "basic",
    }  # fmt: skip
    return pretrained("DetrForObjectDetection", {"pixel_values": images(64, samples=48)}, backbone_config=backbone)


class UNet(nn.Module):
    """Down, up by transposed convolutions, and shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*normalized(3, 16), nn.ReLU(inplace=True), *normalized(16, 16), nn.ReLU())
        self.second = nn.Sequential(*normalized(16, 32), nn.ReLU(inplace=True), *normalized(32, 32), nn.ReLU())
        self.middle = nn.Sequential(*normalized(32, 64), nn.ReLU(inplace=True))
        self.wide, self.wider = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.low = nn.Sequential(*normalized(64, 32), nn.LeakyReLU(0.1, inplace=True))
        self.high = nn.Sequential(*normalized(32, 16), nn.LeakyReLU(0.1, inplace=True))
        self.mask = nn.Conv2d(16, 3, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(images)
        second = self.second(F.max_pool2d(first, 2))
        x = self.wide(self.middle(F.max_pool2d(second, 2)))
        x = self.wider(self.low(torch.cat([x, second], 1)))
        mask: Tensor = self.mask(self.high(torch.cat([x, first], 1)))
        return mask, mask.argmax(1)


def unet() -> Architecture:
    return Architecture(UNet(), {"images": images()})


class DeepLab(nn.Module):
    """Convolutions at several dilations beside a pooled branch (ASPP), resized to the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = residual_body(16)
        self.branches = nn.ModuleList(
            [nn.Sequential(*normalized(64, 32, 1)), *(nn.Conv2d(64, 32, 3, padding=d, dilation=d) for d in (2, 4, 6))]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 32, 1), nn.ReLU())
        self.project, self.head = nn.Sequential(*normalized(160, 48, 1), nn.ReLU()), nn.Conv2d(48, 6, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.body(images)
        size = x.shape[-2:]
        parts = [F.relu(branch(x)) for branch in self.branches]
        parts.append(F.interpolate(self.pooled(x), size, mode="bilinear", align_corners=False))
        y = self.head(self.project(torch.cat(parts, 1)))
        return {"out": F.interpolate(y, images.shape[-2:], mode="bilinear", align_corners=False)}


def deeplab() -> Architecture:
    return Architecture(DeepLab(), {"images": images(48)})


def segformer() -> Architecture:
    return pretrained(
        "SegformerForSemanticSegmentation", {"pixel_values": images(64, samples=48)},
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[16, 32], strides=[4, 2],
        patch_sizes=[7, 3], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=32, num_labels=5,
    )  # fmt: skip


class Pose(nn.Module):
    """Heat maps, and the expected place of each joint in them (integral pose)."""

    def __init__(self, joints: int = 8) -> None:
        super().__init__()
        self.body = residual_body(16)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(64, 48, 4, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(48, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.maps = nn.Conv2d(32, joints, 1)

    def forward(self, images: Tensor) -> dict[str, Any]:
        maps = self.maps(self.up(self.body(images)))
        n, joints, h, w = maps.shape
        likely = maps.flatten(2).softmax(-1).view(n, joints, h, w)
        x = (likely.sum(2) * torch.linspace(-1, 1, w)).sum(-1)
        y = (likely.sum(3) * torch.linspace(-1, 1, h)).sum(-1)
        return {"maps": maps, "joints": {"expected": torch.stack([x, y], -1), "peak": maps.flatten(2).argmax(-1)}}


def pose() -> Architecture:
    return Architecture(Pose(), {"images": images()})


class Landmarks(nn.Module):
    """PReLU, convolutions without padding, and three heads of one vector (as in MTCNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(32, 64, 3), nn.PReLU(64), nn.MaxPool2d(2, 2, ceil_mode=True), nn.Flatten(),
            nn.Linear(64 * 49, 64), nn.PReLU(64),
        )  # fmt: skip
        self.face, self.box, self.points = nn.Linear(64, 2), nn.Linear(64, 4), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.body(images)
        return self.face(x).softmax(-1), self.box(x), self.points(x).view(-1, 5, 2)


def landmarks() -> Architecture:
    return Architecture(Landmarks(), {"images": images()})


NETWORKS = {
    "ssd": ssd,
    "fcos": fcos,
    "yolo": yolo,
    "detr": detr,
    "unet": unet,
    "deeplab": deeplab,
    "segformer": segformer,
    "pose": pose,
    "landmarks": landmarks,
}
