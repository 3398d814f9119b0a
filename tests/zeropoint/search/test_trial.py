"""The gate's word counts: what raises SQNR stays, what doesn't is refused with its reason, and both are reported."""

import math
from dataclasses import replace

import pytest

from tests.zeropoint.algorithms.conftest import Place, Prepare, outlying, prepare
from zeropoint.algorithms import ALGORITHMS, Algorithm
from zeropoint.algorithms.context import AlgorithmContext, Layers
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.algorithms import (
    AlgorithmSettings,
    BiasCorrection,
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


def spoil(_: object, __: AlgorithmContext, layers: Layers) -> Layers:
    """Every layer without its first half of numbers."""
    return {name: replace(one, weight=one.weight * 0) for name, one in layers.items()}
