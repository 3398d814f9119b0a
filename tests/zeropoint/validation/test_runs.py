"""What is compared as runtimes compute it, and what saturation makes of an ONNX file's numbers."""

import math

import torch
from torch import Tensor

from zeropoint.schema.formats import ONNX_FILE
from zeropoint.validation.outputs import Outputs
from zeropoint.validation.runs import MOST_SAMPLES, RuntimeRuns, with_saturation

EXPECTED = torch.tensor([1.0, 2.0, 3.0])


def outputs(value: Tensor, expected: Tensor = EXPECTED) -> Outputs:
    found = Outputs()
    assert found.add([expected], {0: value})
    return found


def test_batches_have_one_shape_and_a_bound() -> None:
    runs = RuntimeRuns()
    sizes = [MOST_SAMPLES // 2, MOST_SAMPLES // 2, MOST_SAMPLES // 2, 7]
    assert [runs.take([torch.ones(size, 3)]) for size in sizes] == [True, True, False, False]
    assert RuntimeRuns().take([torch.ones(10 * MOST_SAMPLES, 3)])
    assert RuntimeRuns().take([torch.tensor(1.0)])


def test_a_run_of_another_shape_counts_as_none() -> None:
    runs = RuntimeRuns()
    runs.add_run("usual", [EXPECTED], {0: EXPECTED[:2]})
    assert runs.outputs("usual") is None
    assert runs.outputs("mlas") is None


def test_noise_of_saturation_is_added() -> None:
    saved, saturated, onnx = (outputs(EXPECTED + shift) for shift in (0.1, 0.3, -0.2))
    found = with_saturation(onnx, saturated, saved).noise
    assert math.isclose(found.noise, 3 * (0.04 + 0.09 - 0.01), rel_tol=1e-5)


def test_other_values_with_as_much_noise_change_nothing() -> None:
    saved, saturated, onnx = (outputs(EXPECTED + shift) for shift in (0.2, -0.2, 0.1))
    assert math.isclose(with_saturation(onnx, saturated, saved).noise.noise, onnx.noise.noise, rel_tol=1e-5)
    exact = outputs(EXPECTED)
    assert with_saturation(exact, exact, exact).exact


def test_outputs_that_are_not_finite_are_no_good_number() -> None:
    saved, saturated = outputs(EXPECTED), outputs(EXPECTED * math.inf)
    assert math.isnan(with_saturation(saved, saturated, saved).noise.db or 0.0)


def test_labels_that_saturation_changes_are_not_equal() -> None:
    labels = torch.arange(4)
    saved, saturated = outputs(labels, labels), outputs(labels.flip(0), labels)
    assert with_saturation(saved, saturated, saved).worst_agreement == 0.0


def test_the_file_of_onnxruntime_is_compared_on_the_same_samples() -> None:
    runs = RuntimeRuns()
    assert runs.take([torch.ones(2, 3)])
    runs.add([EXPECTED], {0: EXPECTED}, {ONNX_FILE: {0: EXPECTED + 0.1}}, {"mlas": {0: EXPECTED}})
    found = runs.outputs("mlas")
    assert found is not None
    assert found.noise.noise == runs.onnx.noise.noise > 0
