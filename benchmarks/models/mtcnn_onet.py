"""mtcnn_onet: the last network of the face detector MTCNN (0.39 million parameters): PReLU, three outputs.

Weights: the Python package facenet-pytorch. Data: scikit-image's subset of Labeled Faces in the Wild (100 crops of
faces, then 100 of something else), and its photographs.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.models.files import package_file
from benchmarks.models.model import Call, Model, Tensors, outputs
from benchmarks.models.pictures import crop, photograph

SIDE = 48
FACES = 100  # the first rows
CALIBRATING = 40  # of 200 crops
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SMALLEST, LARGEST = 40, 200  # squares cut out of photographs
DIM, NOISE = 0.5, 14.0  # of the hard crops: contrast, and deviation of what is added


class ONet(nn.Module):
    """faces [N, 3, 48, 48] in −1..1 -> no face or face [N, 2], box [N, 4], landmarks [N, 10]"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)
        self.pool, self.small_pool = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.pool(self.prelu1(self.conv1(faces)))
        x = self.pool(self.prelu2(self.conv2(x)))
        x = self.small_pool(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)  # as the weights were made: width first
        x = self.prelu5(self.dense5(x))
        return self.dense6_1(x), self.dense6_2(x), self.dense6_3(x)


def load() -> nn.Module:
    """The pretrained network."""
    network = ONet()
    path = package_file("facenet_pytorch", "data/onet.pt")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def calibration(count: int) -> Tensors:
    """In turn crops that are kept for it and squares cut out of photographs."""
    random, kept = np.random.default_rng(1), _crops()[_order()[:CALIBRATING]]
    photographs = [photograph(name) for name in PHOTOGRAPHS]
    drawn = [
        _fit(kept[random.integers(CALIBRATING)])
        if at % 2
        else _fit(crop(photographs[random.integers(4)], int(random.integers(SMALLEST, LARGEST)), random))
        for at in range(count)
    ]
    return {"faces": torch.stack(drawn)}


def evaluation(count: int) -> Tensors:
    """Crops of those that `quality` asks about, as they are and mirrored."""
    return {"faces": torch.stack([_fit(picture) for picture in _tested()[:count]])}


def quality(call: Call) -> dict[str, float]:
    """Faces among dim and noisy crops: clean ones are no task for this network."""
    random = np.random.default_rng(3)
    hard = [_spoil(picture, random) for picture in _tested()]
    logits = outputs(call, {"faces": torch.stack([_fit(picture) for picture in hard])})[0]
    score = logits[:, 1] - logits[:, 0]
    faces = (_order()[CALIBRATING:] < FACES).repeat(2)
    return {"accuracy": float(((score > 0) == faces).double().mean()), "AUC": _area(score[faces], score[~faces])}


def _area(positive: Tensor, negative: Tensor) -> float:
    """Under the ROC curve: how often a positive score stands above a negative one; a tie is half."""
    difference = positive[:, None] - negative[None, :]
    return float(((difference > 0).double() + (difference == 0).double() / 2).mean())


@cache
def _crops() -> Tensor:
    """Crops [200, 3, 25, 25], grey, in 0..255"""
    crops = torch.from_numpy(np.load(package_file("skimage", "data/lfw_subset.npy"))).float()
    return crops.unsqueeze(1).expand(-1, 3, -1, -1) * (255 if crops.max() <= 1.01 else 1)


@cache
def _order() -> Tensor:
    """Rows in a fixed random order."""
    return torch.randperm(len(_crops()), generator=torch.Generator().manual_seed(0))


@cache
def _tested() -> Tensor:
    kept_out = _crops()[_order()[CALIBRATING:]]
    return torch.cat([kept_out, kept_out.flip(-1)])


def _spoil(picture: Tensor, random: np.random.Generator) -> Tensor:
    grey = picture[:1]
    noise = torch.from_numpy(random.normal(0, NOISE, grey.shape)).float()
    return (100 + DIM * (grey - grey.mean()) + noise).clamp(0, 255).expand(3, -1, -1)


def _fit(picture: Tensor) -> Tensor:
    """A picture in 0..255 of any size -> what the network takes [3, 48, 48]"""
    fitted = interpolate(picture[None], (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)[0]
    return (fitted - 127.5) / 128


MTCNN_ONET = Model("mtcnn_onet", load, calibration, evaluation, quality)
