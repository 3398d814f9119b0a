"""The code in the documents that loads what we save: run as it stands, where our packages are not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.networks import convolutional
from tests.processor import EXACT_COMPILED
from zeropoint import quantize

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)

AROUND = """
import sys
sys.path.insert(0, sys.argv[1])
from plain_torch_process import Refusing
sys.meta_path.insert(0, Refusing())
from safetensors.torch import load_file, save_file
inputs = (load_file("x.safetensors")["x"],)
{recipe}
with torch.no_grad():
    save_file({{"y": {outputs}}}, "y.safetensors")
"""


def _blocks(page: str, word: str) -> list[str]:
    """The page's Python code that has this word in it, up to the next that has not."""
    return [block for block in BLOCK.findall((ROOT / page).read_text()) if word in block]


ARTIFACTS = "docs/reference/artifacts.md"

RECIPES = {
    "artifacts": ("\n".join(_blocks(ARTIFACTS, 'load("model.pt2")')), "outputs.detach()"),
    "compiled": ("\n".join(_blocks(ARTIFACTS, 'load("model.pt2")') + _blocks(ARTIFACTS, "freezing")), "outputs"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a quantized program, an input, and what the program makes of it here."""
    folder, example = tmp_path_factory.mktemp("saved"), convolutional()
    program = torch.export.export(example.module.eval(), example.inputs, dynamic_shapes=example.dynamic)
    result = quantize(program, [(row.unsqueeze(0),) for row in example.dataset["x"]], progress=False)
    result.save(folder)
    save_file({"x": example.inputs[0]}, folder / "x.safetensors")
    with torch.no_grad():
        save_file({"y": result.module(*example.inputs)}, folder / "expected.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize(("recipe", "outputs"), RECIPES.values(), ids=RECIPES.keys())
def test_a_recipe_in_the_documents_runs_as_it_stands(saved: Path, recipe: str, outputs: str) -> None:
    (saved / "y.safetensors").unlink(missing_ok=True)
    script = AROUND.format(recipe=recipe, outputs=outputs)
    folder = str(ROOT / "tests")
    subprocess.run([sys.executable, "-P", "-c", script, folder], check=True, cwd=saved)
    expected, y = (load_file(saved / name)["y"] for name in ("expected.safetensors", "y.safetensors"))
    assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
    if recipe == RECIPES["compiled"][0] and not EXACT_COMPILED:
        pytest.skip("no VNNI, the compiled program's int8 kernels saturate: compared shapes, and the other recipes")
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-3)
