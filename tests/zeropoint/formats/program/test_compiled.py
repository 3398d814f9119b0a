"""What a process with plain torch makes of `model.pt2`: the same numbers in each mode, and int8 kernels.

Which layers reach an int8 kernel shows in the graph that Inductor's patterns leave, and so do the numbers: that graph
is run for every case. To compile it to the end takes many times as long, so few cases are.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.effort import in_turn
from tests.matrix import settings
from tests.networks import Example, attention
from tests.networks_with_corrections import corrected
from tests.patterns import options, plain, sequence, structured, unbatched, unusual, vision
from tests.processor import needs_exact_compiled
from tests.servers import ROOT
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.formats.program.writer import quantized_program, write_program
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.recipe import Recipe
from zeropoint.sources import open_source

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")]

PLAIN_TORCH = ROOT / "tests" / "plain_torch_process.py"
SAME_DB = {torch.float32: 50, torch.bfloat16: 35, torch.float16: 35}
"""Compiled code adds up in another order, and a number at the border of two steps may fall on the other side; what
Inductor gets wrong (a zero point or an axis that it overlooks) is 20 dB or worse."""


@dataclass(frozen=True)
class Case:
    """A network, a recipe, and how many calls of its layers become int8 kernels."""

    make: Callable[[], Example]
    convolutions: int
    linears: int
    recipe: str = "static int8"
    decompose: bool = False
    corrected: bool = False


TYPES = ["Linear", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "Conv3d", "MultiheadAttention"]
CASES = {
    "vision": Case(vision, 9, 2),
    "sequence": Case(sequence, 2, 6),
    "structured": Case(structured, 1, 4),
    "unbatched": Case(unbatched, 2, 1),
    "decomposed": Case(sequence, 2, 6, decompose=True),
    "corrected-vision": Case(vision, 9, 2, corrected=True),
    "corrected-sequence": Case(sequence, 2, 6, corrected=True),
    "tied": Case(attention, 0, 4),
    "options": Case(options, 6, 0),
    "unusual": Case(unusual, 0, 0),
    "qint8-activations": Case(plain, 1, 1, "activations in qint8"),
    "per-tensor": Case(plain, 1, 1, "per tensor"),
    "quint8": Case(plain, 1, 1, "weights in quint8"),
    "asymmetric": Case(plain, 0, 0, "asymmetric weights"),
    "other-axis": Case(plain, 0, 0, "scales along another axis"),
    "weight-only": Case(plain, 0, 0, "weight-only int8"),
    "float8": Case(plain, 0, 0, "static float8"),
    "bfloat16-model": Case(lambda: plain(dtype=torch.bfloat16), 1, 1),
    "float16-model": Case(lambda: plain(dtype=torch.float16), 0, 0),
}
TO_THE_END = ("corrected-vision", "bfloat16-model")
"""Most patterns and corrections, and the other dtype that kernels take."""
COMPILED = [name for position, name in enumerate(TO_THE_END) if in_turn(2, position)]
AS_GRAPHS = [name for position, name in enumerate(CASES) if name not in TO_THE_END and in_turn(5, position)]
TAKEN = [*AS_GRAPHS, *COMPILED]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One process for all cases: it needs longer to import torch than for most of them."""
    folder = tmp_path_factory.mktemp("programs")
    here = {name: _write(CASES[name], folder / name) for name in TAKEN}
    every, compiled = ([str(folder / name) for name in names] for names in (AS_GRAPHS, COMPILED))
    command = [sys.executable, "-P", str(PLAIN_TORCH), *every, "--compile", *compiled]
    subprocess.run(command, check=True)
    return {name: {"here": here[name], **torch.load(folder / name / "answer.pt", weights_only=True)} for name in TAKEN}


def _write(case: Case, folder: Path) -> list[list[object]]:
    """The case's program and calls go into the folder; what the program gives in this process comes back."""
    folder.mkdir()
    example = case.make()
    source = open_source(example.export(folder / "float.pt2", decompose=case.decompose), "pt2", "cpu")
    samples = open_dataset(example.save_dataset(folder / "dataset.safetensors"), source.inputs, None)
    recipe = Recipe.model_validate({"layer_types": TYPES, "skip_layers": [], **settings(case.recipe)})
    result = quantize_source(source, recipe, plan(source, recipe, samples), lambda *_: None)
    result = corrected(result) if case.corrected else result
    write_program(result, folder / "model.pt2")
    calls = [(example.inputs, example.keywords)]
    if example.dynamic is not None:  # another batch size
        longer = pytree.tree_map(lambda tensor: torch.cat([tensor, tensor[:1] / 2]), calls[0])
        calls.append(longer)
    torch.save(calls, folder / "calls.pt")
    module = quantized_program(result).module()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        outputs = [pytree.tree_leaves(module(*arguments, **keywords)) for arguments, keywords in calls]
    torch.set_num_threads(threads)
    return outputs


@pytest.mark.parametrize("name", TAKEN)
def test_a_fresh_process_computes_the_same(answers: dict[str, dict[str, Any]], name: str) -> None:
    pairs = list(zip(answers[name]["here"], answers[name]["eager"], strict=True))
    assert pairs
    for here, there in pairs:
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("name", TAKEN)
def test_every_layer_that_has_an_int8_kernel_reaches_it(answers: dict[str, dict[str, Any]], name: str) -> None:
    expected = {"conv": CASES[name].convolutions, "linear": CASES[name].linears}
    assert {"conv": 0, "linear": 0} | answers[name]["kernels"] == expected
    assert {"conv": 0, "linear": 0} | answers[name].get("kernels_of_code", expected) == expected


IN_EACH_FORM = [*((name, "graph") for name in TAKEN), *((name, "compiled") for name in COMPILED)]


def _pairs(answers: dict[str, dict[str, Any]], name: str, form: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Each output of each call, eager and in another form."""
    for eager, other in zip(answers[name]["eager"], answers[name][form], strict=True):
        yield from zip(eager, other, strict=True)


@pytest.mark.parametrize(("name", "form"), IN_EACH_FORM)
def test_it_gives_the_same_shapes(answers: dict[str, dict[str, Any]], name: str, form: str) -> None:
    for eager, other in _pairs(answers, name, form):
        assert (eager.dtype, eager.shape) == (other.dtype, other.shape)


@needs_exact_compiled
@pytest.mark.parametrize(("name", "form"), IN_EACH_FORM)
def test_it_computes_the_same(answers: dict[str, dict[str, Any]], name: str, form: str) -> None:
    for eager, other in _pairs(answers, name, form):
        if eager.is_floating_point():
            noise = Noise()
            noise.add(eager, other)
            assert noise.exact or (noise.db or 0.0) > SAME_DB[eager.dtype]
