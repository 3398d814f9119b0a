import math

import torch

from zeropoint.metrics.sqnr import Noise


def test_sqnr_is_ten_log_ten_of_signal_over_noise() -> None:
    noise = Noise()
    noise.add(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5]))
    assert noise.db is not None
    assert math.isclose(noise.db, 10 * math.log10(25 / 0.25))


def test_batches_add_up_to_one_number() -> None:
    reference, approximation = torch.randn(10, 3), torch.randn(10, 3)
    whole, parts = Noise(), Noise()
    whole.add(reference, approximation)
    for a, b in zip(torch.tensor_split(reference, 3), torch.tensor_split(approximation, 3), strict=True):
        parts.add(a, b)
    assert whole.db is not None
    assert parts.db is not None
    assert math.isclose(whole.db, parts.db)


def test_equality_has_no_number() -> None:
    noise = Noise()
    noise.add(torch.ones(3), torch.ones(3))
    assert noise.exact
    assert noise.db is None


def test_a_value_that_is_not_finite_never_gives_a_good_number() -> None:
    noise = Noise()
    noise.add(torch.ones(2), torch.tensor([1.0, float("nan")]))
    assert not noise.exact
    assert noise.db is not None
    assert math.isnan(noise.db)
