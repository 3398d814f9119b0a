"""A small residual CNN on scikit-learn's handwritten digits: trained, exported, and written with its samples.

python examples/digits.py FOLDER writes

    digits.pt2                 the trained network as an exported program, any batch size from 1 to 1024
    calibration.safetensors    {"images": float32 [512, 1, 8, 8]}, from the training images
    evaluation.safetensors     {"images": float32 [544, 1, 8, 8]}, the test images
    test.pt                    the test images with their labels, for run_program.py
"""

import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.export import Dim

TRAIN_IMAGES = 1253  # of 1797; the other 544 are the test images
CALIBRATION_IMAGES = 512
EPOCHS = 12
BATCH = 64


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]"""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.second(self.first(x))
        return x + added


class DigitsNet(nn.Module):
    """Six convolutions and two linears. images [N, 1, 8, 8] -> logits [N, 10]"""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(1, 32)
        self.stage1 = Residual(32)
        self.down = convolution(32, 64, stride=2)
        self.stage2 = Residual(64)
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage2(self.down(self.stage1(self.stem(images))))
        logits: Tensor = self.head(torch.relu(self.hidden(features.flatten(1))))
        return logits


def split_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train and test images [N, 1, 8, 8] in 0..1 with their labels [N], in a fixed random order."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:TRAIN_IMAGES], order[TRAIN_IMAGES:]
    return images[train], labels[train], images[test], labels[test]


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(images)), BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"\r  epoch {epoch + 1} of {EPOCHS}", end="", flush=True)
    print()
    model.eval()


def main(folder: Path) -> None:
    torch.manual_seed(0)
    train_images, train_labels, test_images, test_labels = split_digits()
    model = DigitsNet()
    train(model, train_images, train_labels)
    with torch.no_grad():
        correct = (model(test_images).argmax(1) == test_labels).sum().item()
    print(f"  {correct} of {len(test_labels)} test images right")

    program = torch.export.export(
        model, (train_images[:2],), dynamic_shapes={"images": {0: Dim("batch", min=1, max=1024)}}
    )
    torch.export.save(program, folder / "digits.pt2")
    save_file({"images": train_images[:CALIBRATION_IMAGES].contiguous()}, folder / "calibration.safetensors")
    save_file({"images": test_images.contiguous()}, folder / "evaluation.safetensors")
    torch.save({"images": test_images, "labels": test_labels}, folder / "test.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
