"""The model of saturating kernels gives every sum as the libraries do on processors without VNNI, bit for bit."""

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch.nn import functional

from scripts.record_kernels import Sums, by_onnxruntime, output_scale
from tests.kernel_cases import Case, cases
from tests.processor import EXACT_ONNXRUNTIME
from tests.servers import ROOT
from zeropoint.simulation.saturation import (
    MLAS,
    ONEDNN,
    ONEDNN_AVX512,
    Geometry,
    Kernel,
    Saturation,
    can_saturate,
    reach,
    saturated_convolution,
    saturated_linear,
)

RECORDED = Path(__file__).parent / "recorded"
LOWEST = {"AVX2": ONEDNN, "AVX512_CORE": ONEDNN_AVX512}


def modelled(case: Case, kernel: Kernel, found: Saturation | None = None) -> Sums:
    values, weight = torch.from_numpy(case.values), torch.from_numpy(case.weight)
    if case.shape is None:
        return np.asarray(saturated_linear(values, weight, case.zero_point, kernel, found).numpy())
    shape, rank = case.shape, len(case.shape.kernel)
    geometry = Geometry([shape.stride] * rank, [shape.padding] * rank, [shape.dilation] * rank, shape.groups)
    return np.asarray(saturated_convolution(values, weight, case.zero_point, geometry, kernel, found=found).numpy())


def exact(case: Case) -> Sums:
    values, weight = torch.from_numpy(case.values).double() - case.zero_point, torch.from_numpy(case.weight).double()
    if case.shape is None:
        return np.asarray((values @ weight.t()).int().numpy())
    shape = case.shape
    convolve = functional.conv1d if len(shape.kernel) == 1 else functional.conv2d
    options = (shape.stride, shape.padding, shape.dilation, shape.groups)
    return np.asarray(convolve(values, weight, None, *options).int().numpy())


def rounded(case: Case, sums: Sums) -> Sums:
    """As onnxruntime rounds the sums of a convolution."""
    if case.shape is None:
        return sums
    scaled = np.rint(sums.astype(np.float32) * (1 / output_scale(case)))
    return np.asarray(np.clip(scaled + 128, 0, 255).astype(np.uint8))


def equal(sums: dict[str, Sums], expected: dict[str, Sums]) -> set[str]:
    return {name for name in expected if np.array_equal(sums[name], expected[name])}


def tell(name: str, tried: Collection[str], equal: Collection[str]) -> None:
    sys.stdout.write(f"{name}: {len(tried)} cases, {len(equal)} equal\n")


def is_reference(case: Case, isa: str) -> bool:
    """oneDNN at AVX2 has no kernel for groups whose channels are no multiple of 8, and computes them exactly."""
    shape = case.shape
    if shape is None or shape.groups == 1 or shape.inputs == shape.groups:
        return False
    return isa == "AVX2" and bool(shape.inputs // shape.groups % 8 or shape.outputs // shape.groups % 8)


def is_modelled(case: Case, isa: str) -> bool:
    """At AVX-512, oneDNN pairs the taps of a single input channel as the sizes suggest; AVX2 never pairs them."""
    shape = case.shape
    return isa == "AVX2" or shape is None or shape.inputs > shape.groups or shape.outputs == shape.groups > 1


def check_onednn(sums: dict[str, Sums], isa: str) -> None:
    expected = {
        case.name: exact(case) if is_reference(case, isa) else modelled(case, LOWEST[isa])
        for case in cases()
        if is_modelled(case, isa)
    }
    found = equal(sums, expected)
    tell(f"oneDNN at {isa}", expected, found)
    assert found == expected.keys()
    assert any(not np.array_equal(sums[case.name], exact(case)) for case in cases())


def test_onnxruntime_as_recorded() -> None:
    sums = load_file(RECORDED / "onnxruntime.safetensors")
    expected = {case.name: rounded(case, modelled(case, MLAS)) for case in cases()}
    found = equal(sums, expected)
    tell("onnxruntime", expected, found)
    assert found == expected.keys()


def test_torch_as_recorded() -> None:
    check_onednn(load_file(RECORDED / "torch.safetensors"), "AVX2")


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="no AVX2 here")
@pytest.mark.parametrize("isa", LOWEST)
def test_torch_at_a_level_that_saturates(isa: str, tmp_path: Path) -> None:
    if isa == "AVX512_CORE" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("no AVX-512 here")
    file = tmp_path / "sums.safetensors"
    command = [sys.executable, "-m", "scripts.record_kernels", "torch", str(file)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa}, check=True)
    check_onednn(load_file(file), isa)


@pytest.mark.skipif(EXACT_ONNXRUNTIME, reason="onnxruntime's kernels are exact on this processor: compared recorded")
def test_onnxruntime_on_this_processor() -> None:
    for case in cases():
        assert np.array_equal(by_onnxruntime(case), rounded(case, modelled(case, MLAS))), case


def test_onnxruntime_is_exact_with_unsigned_weights() -> None:
    for case in cases(weights=np.uint8):
        centred = Case(case.name, case.values, (case.weight.astype(np.int16) - 128), case.zero_point, case.shape)
        assert np.array_equal(by_onnxruntime(case), rounded(centred, exact(centred))), case


@pytest.mark.parametrize("kernel", [MLAS, ONEDNN, ONEDNN_AVX512])
def test_what_cannot_saturate_is_exact_and_what_did_was_said_to(kernel: Kernel) -> None:
    for case in cases():
        found, groups = Saturation(), 1 if case.shape is None else case.shape.groups
        sums, right = modelled(case, kernel, found), exact(case)
        possible = can_saturate(torch.from_numpy(case.weight), kernel, groups)
        assert np.array_equal(sums[:, ~possible.numpy()], right[:, ~possible.numpy()])
        if len(found.saturated):
            assert bool((possible | (found.saturated == 0)).all())
            assert bool(((found.saturated > 0) == (found.largest_excess > 0)).all())


@pytest.mark.parametrize("kernel", [MLAS, ONEDNN])
def test_signed_inputs_are_shifted_up(kernel: Kernel) -> None:
    for case in cases(values=np.int8):
        shifted = (case.values.astype(np.int16) + 128).astype(np.uint8)
        same = Case(case.name, shifted, case.weight, case.zero_point + 128, case.shape)
        assert np.array_equal(modelled(case, kernel), modelled(same, kernel))


@given(st.lists(st.tuples(st.integers(-128, 127), st.integers(-128, 127)), min_size=1, max_size=6))
def test_reach_is_reached(pairs: list[tuple[int, int]]) -> None:
    weight = torch.tensor([[one for pair in pairs for one in pair]], dtype=torch.int8)
    corners = torch.cartesian_prod(torch.tensor([0, 255]), torch.tensor([0, 255]))
    sums = (corners[:, None, :] * weight.int().reshape(1, -1, 2)).sum(-1)
    assert int(reach(weight, MLAS)) == int(sums.abs().max())


def test_what_saturated_is_counted() -> None:
    values = torch.tensor([[255, 255, 255, 255], [255, 0, 255, 255]], dtype=torch.uint8)
    found = Saturation()
    weight = torch.tensor([[127, 127, -128, -128], [127, -127, 1, 1]], dtype=torch.int8)
    sums = saturated_linear(values, weight, 0, MLAS, found)
    assert sums.tolist() == [[32767 - 32768, 510], [32385 - 32768, 32385 + 510]]
    assert (found.pairs, found.saturated.tolist()) == (4, [3, 0])
    assert found.largest_excess.tolist() == [255 * 256 - 32768, 0]
