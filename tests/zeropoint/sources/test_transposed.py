"""transformers' Conv1D in a module: a linear layer whose weight is [in, out], in every setting that a linear has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import pytorch_utils

from zeropoint import load, quantize
from zeropoint.sources.module import module_source

Conv1D: Any = pytorch_utils.Conv1D
RECIPES: dict[str, dict[str, Any]] = {
    "int8": {},
    "asymmetric": {"weights": {"scheme": "asymmetric"}, "activations": {"scheme": "asymmetric"}},
    "per tensor": {"weights": {"granularity": "per_tensor"}},
    "by inputs": {"weights": {"axis": 0}},
    "in groups": {"weights": {"granularity": "per_group", "group_size": 8}, "activations": None},
    "int4 in groups": {"weights": {"dtype": "int4", "group_size": 8}, "activations": None},
    "float8": {"weights": {"dtype": "float8_e4m3"}},
    "float16": {"weights": {"dtype": "float16"}, "activations": None},
    "scaled and corrected": {"algorithms": [{"kind": "smoothing"}, {"kind": "bias_correction"}]},
}


class Network(nn.Module):
    """Conv1D layers of two shapes between linears, one of them square."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)
        self.wide, self.square = Conv1D(32, 16), Conv1D(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, 32]."""
        output: Tensor = self.square(torch.relu(self.wide(self.norm(self.first(x)))))
        return output


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Network().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_quantized_and_loaded_as_a_linear_is(recipe: str, tmp_path: Path) -> None:
    model, samples = network(), [torch.randn(16, 8) for _ in range(8)]
    result = quantize(model, samples, recipe=RECIPES[recipe], export=False)
    assert {layer.name: layer.type for layer in result.report.layers} == {
        **{"first": "Linear", "wide": "Conv1D", "square": "Conv1D"}
    }
    assert result.report.verdict == "passed"
    result.save(tmp_path)
    loaded = load(tmp_path, model=model)
    with torch.no_grad():
        assert torch.equal(loaded(samples[0]), result.module(samples[0]))
        noise = (loaded(samples[0]) - model(samples[0])).square().sum() / model(samples[0]).square().sum()
    assert noise < 0.02
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.get_slice("wide.weight").get_shape() == ([8, 32] if "int4" in recipe else [16, 32])


def test_its_weight_is_seen_as_out_in() -> None:
    model = network()
    layers = {layer.name: layer for layer in module_source(model).layers}
    assert torch.equal(layers["wide"].weight, model.get_parameter("wide.weight").t())
    assert layers["wide"].transposed


def test_a_subclass_with_a_forward_of_its_own_is_none() -> None:
    class Scaled(Conv1D):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            return 2 * super().forward(x)

    model = nn.Sequential(Scaled(8, 8))
    assert [layer.reason for layer in module_source(model).layers] == ["unsupported"]
