"""digits: the residual CNN of examples/digits.py, trained on scikit-learn's handwritten digits when it is asked for."""

import sys
from contextlib import redirect_stdout

import torch
from torch import nn

from benchmarks.models.model import Call, Model, Tensors, outputs
from examples import digits


def load() -> nn.Module:
    """Train for some seconds. images [N, 1, 8, 8] -> logits [N, 10]"""
    images, labels, _, _ = digits.split_digits()
    with torch.random.fork_rng(), redirect_stdout(sys.stderr):
        torch.manual_seed(0)
        network = digits.DigitsNet()
        digits.train(network, images, labels)
    return network


def calibration(count: int) -> Tensors:
    """Images that the network was trained on."""
    return {"images": digits.split_digits()[0][:count]}


def evaluation(count: int) -> Tensors:
    """Images that it never saw."""
    return {"images": digits.split_digits()[2][:count]}


def quality(call: Call) -> dict[str, float]:
    """Share of all 544 test images that are read right."""
    _, _, images, labels = digits.split_digits()
    logits = outputs(call, {"images": images})[0]
    return {"top-1": float((logits.argmax(1) == labels).double().mean())}


DIGITS = Model("digits", load, calibration, evaluation, quality)
