"""A program's integers go through the model of saturating kernels, whatever options its operators have."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.comparison import program_run
from benchmarks.latency import quantize_folder


class Network(nn.Module):
    """Convolutions with and without options and biases, one of them over time, and a linear."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 8, 3, bias=False)
        self.strided = nn.Conv2d(8, 8, (1, 3), stride=(1, 2), padding=(0, 1), groups=4)
        self.over_time = nn.Conv1d(8, 4, 2, dilation=2)
        self.linear = nn.Linear(4, 3)
        for layer in (self.convolution, self.strided, self.over_time, self.linear):
            signs = torch.tensor([1.0, sign]).repeat(layer.weight.shape[1] // 2)
            layer.weight.data = (layer.weight.data.abs() + 1) * signs.reshape(-1, *[1] * (layer.weight.dim() - 2))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, 2, 8, 8] -> [N, 3]"""
        x = self.strided(self.convolution(x)).flatten(2)
        out: Tensor = self.linear(self.over_time(x).mean(-1))
        return out


def differences(sign: float, folder: Path, kernel: str) -> float:
    torch.manual_seed(0)
    network, samples = Network(sign).eval(), torch.rand(16, 2, 8, 8)
    torch.export.save(torch.export.export(network, (samples,)), folder / "float.pt2")
    save_file({"x": samples}, folder / "dataset.safetensors")
    quantize_folder(folder, target_isa="vnni")
    found = []
    for how in ("eager", kernel):
        program_run.main(how, str(folder / "model.pt2"), str(folder / "dataset.safetensors"), str(folder / how), "16")
        found.append(load_file(folder / how)["0"])
    return float((found[0] - found[1]).abs().max() / found[0].abs().max())


def test_pairs_of_opposite_signs_are_exact(tmp_path: Path) -> None:
    assert differences(-1.0, tmp_path, "onednn") < 1e-5


@pytest.mark.parametrize("kernel", ["onednn", "mlas"])
def test_pairs_of_one_sign_saturate(kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert differences(1.0, tmp_path, kernel) > 0.01
    assert "of pairs" in capsys.readouterr().err
