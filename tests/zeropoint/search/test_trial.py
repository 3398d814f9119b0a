"""The gate's word counts: what raises SQNR stays, what doesn't is refused with its reason, and both are reported."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.zeropoint.algorithms.conftest import Place, Prepare, outlying, prepare
from zeropoint.algorithms import ALGORITHMS, Algorithm
from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.algorithms import (
    AlgorithmSettings,
    BiasCorrection,
    Equalization,
    FoldNormalization,
    MseClipping,
    OutlierSplit,
    Smoothing,
)
from zeropoint.search.trial import Candidate, baseline, improves, try_algorithms

__all__ = ["outlying", "prepare"]  # fixtures


def tried(place: Place, *pieces: AlgorithmSettings) -> Candidate:
    return try_algorithms(place.context, place.acceptance, baseline(place.acceptance, place.layers), pieces)


@pytest.fixture
def place(prepare: Prepare, outlying: tuple[object, object]) -> Place:
    return prepare(*outlying)


def test_what_raises_sqnr_stays(place: Place) -> None:
    now = tried(place, OutlierSplit(channels=3))
    (step,) = now.steps
    assert (step.algorithm, step.kept, step.layers) == ("outlier_split", True, 1)
    assert now.layers["0"].outliers is not None
    assert now.noise.db == step.after_db == pytest.approx(place.db(now.layers))
    assert step.before_db == pytest.approx(place.db(place.layers))
    assert step.reason.startswith("SQNR rose by ")


def test_what_lowers_it_is_refused_with_its_reason(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "smoothing", Algorithm(spoil))
    now = tried(place, Smoothing())
    (step,) = now.steps
    assert not step.kept
    assert now.layers == place.layers
    assert step.reason.startswith("SQNR fell by ")


def test_a_piece_with_a_risk_or_a_price_must_gain_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "outlier_split", Algorithm(ALGORITHMS["outlier_split"].run, least_gain_db=200))
    (step,) = tried(place, OutlierSplit(channels=3)).steps
    assert not step.kept
    assert "less than the 200 dB that this algorithm must gain" in step.reason


def test_a_piece_that_is_meant_for_no_layer_says_so(place: Place) -> None:
    (step,) = tried(place, MseClipping()).steps
    assert (step.kept, step.layers, step.after_db) == (False, 0, None)
    assert "applies to no layer" in step.reason


def test_folding_is_told_and_not_judged(place: Place) -> None:
    (step,) = tried(place, FoldNormalization()).steps
    assert (step.kept, step.layers) == (False, 0)
    assert "No normalization" in step.reason


def test_nothing_is_tried_twice_on_the_same_layers(place: Place) -> None:
    first = tried(place, MseClipping())
    again = try_algorithms(place.context, place.acceptance, first, [MseClipping()])
    assert again.steps == first.steps
    changed = try_algorithms(place.context, place.acceptance, first, [OutlierSplit(channels=3), MseClipping()])
    assert [step.algorithm for step in changed.steps] == ["mse_clipping", "outlier_split", "mse_clipping"]


def test_each_piece_is_told_as_it_is_done(place: Place) -> None:
    seen: list[int] = []
    pieces: list[AlgorithmSettings] = [MseClipping(), BiasCorrection()]
    try_algorithms(
        place.context,
        place.acceptance,
        baseline(place.acceptance, place.layers),
        pieces,
        lambda now: seen.append(len(now.steps)),
    )
    assert seen == [1, 2]


def test_noise_that_is_no_number_never_passes() -> None:
    assert improves(Noise(1, 2), Noise(1, 1), 0)
    assert not improves(Noise(1, 1), Noise(1, 1), 0)
    assert not improves(Noise(1, 2), Noise(1, 1.9), 0.5)
    assert not improves(Noise(1, 2), Noise(1, math.nan), 0)
    assert improves(Noise(1, math.inf), Noise(1, 1), 0)


EQUALIZE, CLIP, CUT = Equalization(), MseClipping(), MseClipping(ignore_outliers=True)
BIASES = BiasCorrection()


@pytest.mark.parametrize(
    ("pieces", "spread", "kept"),
    [
        ([EQUALIZE, BIASES], 0.8, False),
        ([CUT, BIASES], 0.8, False),
        ([CUT, Smoothing(), BIASES], 0.8, False),
        ([EQUALIZE, BIASES], 1.0, True),  # it puts everything right
        ([EQUALIZE], 0.8, True),  # nothing corrects biases
        ([BIASES, EQUALIZE], 0.8, False),  # they are corrected already
        ([CLIP, BIASES], 0.8, True),  # it leaves what there was to bias correction
    ],
)
def test_what_bias_correction_would_gain_counts(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, pieces: list[AlgorithmSettings], spread: float, kept: bool
) -> None:
    """Half of the inputs never vary: errors of their weights are means, which an algorithm trades for others."""
    torch.manual_seed(0)
    samples = torch.randn(96, 32)
    samples[:, :16] = 1
    place = prepare(nn.Sequential(nn.Linear(32, 24)), samples)
    good = place.layers["0"]
    factors = torch.ones(32)
    factors[16:] = spread
    means = torch.ones(32)
    means[:16] = 0.5
    plain = {"0": replace(good, weight=(good.weight * means).round().char())}
    traded = {"0": replace(good, weight=(good.weight * factors).round().char())}
    for kind in ("equalization", "mse_clipping"):
        monkeypatch.setitem(ALGORITHMS, kind, replace(ALGORITHMS[kind], run=lambda *_: traded))
    start = baseline(place.acceptance, plain)
    steps = try_algorithms(place.context, place.acceptance, start, pieces).steps
    (step,) = (step for step in steps if step.algorithm in ("equalization", "mse_clipping"))
    assert step.kept == kept
    assert ("where biases are corrected" in step.reason) == (not kept and pieces[-1] == BIASES)
    alone = try_algorithms(place.context, place.acceptance, start, pieces[:1], followed_by=pieces[1:])
    assert alone.steps[0].kept == steps[0].kept


@pytest.mark.parametrize(
    ("piece", "rare", "kept"),
    [
        (CLIP, [], True),
        (CLIP, [8], False),
        (CLIP, [3.9], True),  # the ranges before it held even that
        (Smoothing(), [8], False),
        (Smoothing(), [3.9], False),
        (EQUALIZE, [8], False),
        (BIASES, [8], False),
        (CUT, [8], True),  # it is for this
        (CUT, [8, 8], False),
    ],
)
def test_what_harms_samples_that_none_of_those_that_decide_is_like_is_refused(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, piece: AlgorithmSettings, rare: list[float], kept: bool
) -> None:
    """Few samples that calibrate have `rare` values in the first input; the change drops that input's weights."""
    torch.manual_seed(0)
    samples = torch.randn(96, 32)
    samples[:, 0] = 0
    samples[5 : 5 + len(rare), 0] = torch.tensor(rare)
    place = prepare(nn.Sequential(nn.Linear(32, 24)), samples)
    good = place.layers["0"]
    coarse, dropped = torch.full((32,), 0.9), torch.ones(32)
    coarse[0], dropped[0] = 1, 0
    plain, traded = (
        {"0": replace(good, weight=(good.weight * factors).round().char())} for factors in (coarse, dropped)
    )
    monkeypatch.setitem(ALGORITHMS, piece.kind, replace(ALGORITHMS[piece.kind], run=lambda *_: traded))
    (step,) = try_algorithms(place.context, place.acceptance, baseline(place.acceptance, plain), [piece]).steps
    assert step.kept == kept
    assert ("on the samples that calibrate" in step.reason) != kept


def spoil(_: object, __: AlgorithmContext, layers: Layers) -> Layers:
    """Every layer without its first half of numbers."""
    return {name: replace(one, weight=one.weight * 0) for name, one in layers.items()}
