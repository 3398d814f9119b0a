"""Normalizations of modules in Python: a graph and a watched pass find the same carriers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.networks import postnorm, prenorm
from tests.zeropoint.conftest import OpenExample
from zeropoint import quantize
from zeropoint.algorithms.norm_mapping import proven_norm_mappings
from zeropoint.data.batches import ModelInputs
from zeropoint.graph.norm_mapping import norm_mappings
from zeropoint.sources.module import module_source


def test_a_graph_and_a_pass_find_the_same(opened: OpenExample) -> None:
    for example in (prenorm(), postnorm()):
        of_pass = proven_norm_mappings(module_source(example.module), ModelInputs(example.inputs))
        assert of_pass == norm_mappings(opened(example))
    assert of_pass == {}


class Normal(nn.Module):
    """What stands behind the normalization is chosen by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.linear, self.out = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        normal = self.norm(x)
        if self.kind == "twice":
            normal = self.norm(normal)
        if self.kind == "returned":
            return self.linear(normal), normal
        if self.kind == "indexed":
            return self.linear(normal) + normal[..., :1]
        if self.kind == "shape":
            return self.linear(normal).reshape(normal.shape) * normal.shape[-1]
        if self.kind == "weight":
            return self.linear(normal) @ torch.nn.functional.linear(normal, self.out.weight.relu()).mT
        return self.out(torch.relu(self.linear(normal)))


@pytest.mark.parametrize(
    ("kind", "carried"),
    [("plain", True), ("shape", True), ("twice", False), ("returned", False), ("indexed", False), ("weight", False)],
)
def test_only_where_layers_are_all_that_reads_it(kind: str, carried: bool) -> None:
    module = Normal(kind).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = proven_norm_mappings(module_source(module), ModelInputs([torch.randn(3, 6)]))
    assert found == ({"linear": "norm"} if carried else {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_weight_that_is_used_otherwise_is_caught_by_the_trial() -> None:
    class OneMoreNorm(nn.LayerNorm):
        """As Gemma's: the weight is an offset of 1."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.layer_norm(x, (6,)) * (1 + self.weight)

    module = Normal("plain")
    module.norm = OneMoreNorm(6)
    assert proven_norm_mappings(module_source(module.eval()), ModelInputs([torch.randn(3, 6)])) == {}


def test_nothing_multiplies_in_what_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Normal("plain").eval()
    with torch.no_grad():
        module.norm.weight.copy_(torch.tensor([40.0, 1, 1, 1, 1, 1]))
        module.linear.weight[:, 0] /= 40
    calls = [torch.randn(16, 6) for _ in range(12)]
    recipe = {"algorithms": [{"kind": "smoothing"}], "include": ["linear"]}
    result = quantize(module, calls, recipe=recipe, progress=False)
    (step,) = result.report.algorithms
    assert step.kept
    result.save(tmp_path)
    saved = result.module.state_dict()  # type: ignore[attr-defined]
    scale = saved["linear.pre_quant_scale"]
    torch.testing.assert_close(saved["norm.weight"], module.norm.weight * scale)
