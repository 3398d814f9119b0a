"""A quantized layer keeps what its float module has beside the weight, whatever the user called it."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor, nn

from zeropoint import load, quantize

Kind = Literal["parameter", "buffer", "unsaved", "module", "attribute"]
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 8),
    "plain": lambda: nn.Linear(8, 8, bias=False),
    "convolution": lambda: nn.Conv1d(8, 8, 1),
    "lstm": lambda: nn.LSTM(8, 8, batch_first=True),
}
NAMES = {
    "linear": ("weight_scale", "weight_zero_point", "input_scale", "input_zero_point", "pre_quant_scale", "in_weight"),
    "plain": ("weight_scale", "gain_bias"),
    "convolution": ("weight_scale", "input_scale", "outlier_channels"),
    "lstm": ("weight_ih_l0_scale", "weight_hh_l0_zero_point", "weight_scale"),
}


class Net(nn.Module):
    """Multiplies the output of a layer by something of the user's own that lies in this layer."""

    def __init__(self, layer: str, name: str, kind: Kind) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.out, self.own = LAYERS[layer](), nn.Linear(8, 8), name
        if kind == "parameter":
            self.layer.register_parameter(name, nn.Parameter(torch.full((1,), 2.0)))
        elif kind == "module":
            self.layer.add_module(name, nn.LayerNorm(8))
        elif kind == "attribute":
            setattr(self.layer, name, 2.0)
        else:
            self.layer.register_buffer(name, torch.full((1,), 2.0), persistent=kind == "buffer")

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x)
        y: Tensor = output[0] if isinstance(output, tuple) else output
        own = getattr(self.layer, self.own)
        y = own(y) if isinstance(own, nn.Module) else y * own
        return self.out(y)  # type: ignore[no-any-return]


@pytest.mark.sampled(19)
@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize(("layer", "name"), [(layer, name) for layer, names in NAMES.items() for name in names])
def test_names_of_the_users_own_stay_with_the_user(tmp_path: Path, layer: str, name: str, kind: Kind) -> None:
    model, x = Net(layer, name, kind).eval(), torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(1))
    q = quantize(model, [x], recipe={"weights": {"scheme": "asymmetric"}}, on_failure="ignore")
    assert {"out", "layer.ih_l0" if layer == "lstm" else "layer"} <= {each.name for each in q.report.layers}
    assert (q.report.summary.sqnr_db or 0) > 20
    assert not q.no_program
    q.save(tmp_path)
    assert torch.equal(load(tmp_path, model=Net(layer, name, kind)).module(x), q(x))
    torch.testing.assert_close(load(tmp_path)(x), q(x))


def test_the_rest_of_a_network_reads_a_layers_sizes() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) / self.layer.out_features  # type: ignore[no-any-return]

    q = quantize(Reads().eval(), [torch.randn(16, 8)])
    assert q.report.verdict == "passed"
    assert q.module.layer.out_features == 6  # type: ignore[attr-defined]
