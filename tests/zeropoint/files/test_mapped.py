"""Pages of mapped files: given back, and read again; nothing else is touched."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zeropoint.files.mapped import MappedFile, map_file, release_after_use

MIB = 2**20


@pytest.fixture
def file(tmp_path: Path) -> MappedFile:
    """64 MiB."""
    torch.manual_seed(0)
    save_file({"large": torch.randn(4096, 4096), "small": torch.randn(3)}, tmp_path / "x.safetensors")
    return map_file(tmp_path / "x.safetensors")


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def test_memory_is_given_back_and_values_stay(file: MappedFile) -> None:
    total = file.tensors["large"].sum()
    held = resident_bytes()
    file.release()
    assert held - resident_bytes() > 48 * MIB
    assert torch.equal(file.tensors["large"].sum(), total)


def test_what_lies_elsewhere_stays(file: MappedFile) -> None:
    own = torch.ones(32 * MIB)
    file.release()
    assert bool((own == 1).all())


def test_a_module_gives_its_weights_back_after_each_call(file: MappedFile) -> None:
    module = nn.Linear(4096, 4096, bias=False, device="meta")
    module.weight = nn.Parameter(file.tensors["large"], requires_grad=False)
    release_after_use([module], {id(module.weight): file})
    before, outputs = resident_bytes(), []
    for _ in range(3):
        with torch.no_grad():
            outputs.append(module(torch.ones(1, 4096)))
    assert resident_bytes() - before < 32 * MIB
    assert torch.equal(outputs[0], outputs[2])
