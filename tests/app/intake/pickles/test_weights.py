"""State dicts of torch.save come in as they are, checkpoints by paths, and what is no tensor is refused by its name."""

import argparse
import collections
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from app.errors import Invalid
from app.intake.pickles.weights import is_pickled, read_pickled_weights
from app.intake.recognition import look_at
from tests.app.intake.memory import outcome_and_growth
from tests.hostile_pickles import PICKLES, honest, saved, saved_long_ago

OLD: dict[str, Any] = {"_use_new_zipfile_serialization": False}
WRITINGS: dict[str, dict[str, Any]] = {
    "zip": {},
    "before 1.6": OLD,
    "protocol 3": {"pickle_protocol": 3},
    "protocol 5": {"pickle_protocol": 5},
    "protocol 4 before 1.6": {**OLD, "pickle_protocol": 4},
}


def read(path: Path) -> dict[str, Tensor]:
    assert is_pickled(look_at(path))
    target = io.BytesIO()
    read_pickled_weights(path).write(target)
    tensors: dict[str, Tensor] = load(target.getvalue())
    return tensors


def through(tmp_path: Path, value: object, **options: Any) -> dict[str, Tensor]:
    torch.save(value, tmp_path / "model.pt", **options)
    return read(tmp_path / "model.pt")


def refusal_of(tmp_path: Path, value: object, **options: Any) -> Invalid:
    with pytest.raises(Invalid) as refusal:
        through(tmp_path, value, **options)
    return refusal.value


def of_all_kinds() -> dict[str, Tensor]:
    torch.manual_seed(0)
    base = torch.randn(40, 50)
    return {
        "plain": torch.randn(3, 4),
        "transposed": base.t(),
        "sliced": base[3:10, ::3],
        "permuted": torch.randn(4, 5, 6, 7).permute(2, 0, 3, 1),
        "channels_last": torch.randn(8, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(4, 4),
        "twos": torch.ones(1).expand([2] * 20),
        "halved": torch.randn(4096).view([2] * 12)[..., 0],
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(3)),
        "tied": base,
        **{str(kind).removeprefix("torch."): torch.ones(3, 2).to(kind).t() for kind in DTYPES},
    }


DTYPES = (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int64, torch.bool)


@pytest.mark.parametrize("writing", WRITINGS)
def test_every_kind_of_tensor_is_read_back(tmp_path: Path, writing: str) -> None:
    given = of_all_kinds()
    found = through(tmp_path, collections.OrderedDict(given), **WRITINGS[writing])
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_dtypes_without_a_class_of_storage_are_read(tmp_path: Path) -> None:
    given = {"a": torch.tensor([1, 2, 60_000], dtype=torch.uint16), "b": torch.tensor([2**40], dtype=torch.uint64)}
    found = through(tmp_path, given)
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_a_module_s_state_has_attributes_that_are_left_out(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LSTM(2, 3, bidirectional=True))
    found = through(tmp_path, module.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())
    facts = read_pickled_weights(tmp_path / "model.pt").facts
    assert (facts.format, {layer.name: layer.type for layer in facts.layers}["0"]) == ("safetensors", "Conv2d")


def test_a_checkpoint_gives_its_tensors_under_their_paths(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4])
    parts = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.5, "name": "x"}
    found = through(tmp_path, {**parts, "schedule": schedule.state_dict(), "history": [torch.ones(2), None, (1, 2)]})
    assert torch.equal(found["model.weight"], module.weight)
    assert torch.equal(found["optimizer.state.0.exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert torch.equal(found["history.0"], torch.ones(2))


def test_a_tensor_alone_and_a_tensor_with_attributes(tmp_path: Path) -> None:
    marked = torch.ones(2)
    marked.__dict__["note"] = "x"
    assert through(tmp_path, torch.ones(2)).keys() == {"tensor"}
    assert torch.equal(through(tmp_path, {"a": marked})["a"], marked)


LARGE = torch.zeros(1500, 1000)


class Subclass(torch.Tensor):
    """A tensor of a class of its own."""


def quantized() -> Tensor:
    return torch._empty_affine_quantized([2], scale=1.0, zero_point=0, dtype=torch.qint8)


ODD: dict[str, tuple[Callable[[], object], str]] = {
    "module": (lambda: nn.Linear(2, 2), "is an object of torch.nn.modules.linear.Linear, not a state dict"),
    "arguments": (lambda: {"args": argparse.Namespace(lr=1)}, "args is an object of argparse.Namespace"),
    "numpy": (lambda: {"best": np.float64(3)}, "best is an object of numpy._core.multiarray.scalar"),
    "sparse": (lambda: {"a": torch.eye(2).to_sparse()}, "a is a sparse tensor"),
    "quantized": (lambda: {"a": quantized()}, "a is a quantized tensor"),
    "subclass": (lambda: {"a": torch.ones(2).as_subclass(Subclass)}, "a is a tensor of the class "),
    "meta": (lambda: {"a": torch.ones(2, device="meta")}, "a is a tensor without values"),
    "float8": (lambda: {"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a is a tensor of float8_e4m3fn"),
    "complex": (lambda: {"a": torch.ones(2, dtype=torch.complex64)}, "a: it is a tensor of complex64"),
    "conjugate": (lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()}, "a is a tensor whose values are turned"),
    "several": (lambda: {str(i): argparse.Namespace() for i in range(9)}, "and 4 more"),
    "name": (lambda: {"a\nb": torch.ones(1)}, "whose name isn't at most 256"),
    "two of a name": (lambda: {"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, "a.b: it stands for two tensors"),
    "name of a header's own": (lambda: {"__metadata__": torch.ones(1)}, "and not __metadata__"),
    "sizes beyond counting": (lambda: {"a": torch.ones(0).as_strided((0, 2**62, 4), (1, 1, 1))}, "too large to count"),
    "far apart": (lambda: {"a": torch.zeros(27, dtype=torch.uint8).as_strided([2] * 26, [1] * 26)}, "too far apart"),
    "nothing": (dict, "holds 0 tensors"),
    "copies": (lambda: {str(i): LARGE for i in range(50)}, "too many share their storage"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_tensor_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    make, answer = ODD[name]
    refusal = refusal_of(tmp_path, make())
    assert (refusal.code, answer in refusal.detail) == ("weights_invalid", True), refusal.detail
    assert "state_dict" in refusal.remedy or "save_file" in refusal.remedy


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_asked_for_as_a_program_or_as_its_weights(tmp_path: Path, zipped: bool) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(Invalid, match="not a state dict") as refusal:
        read_pickled_weights(tmp_path / "m.pt")
    assert "torch.export.save" in refusal.value.remedy
    assert "state_dict()" in refusal.value.remedy


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    refusal = refusal_of(tmp_path, {"a": torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]).t()})
    assert (refusal.code, "'a' holds NaN or infinity, first at index [0, 1]" in refusal.detail) == (
        "non_finite_weights",
        True,
    )


def test_the_highest_byte_first(tmp_path: Path) -> None:
    values = b"".join(struct.pack(">f", value) for value in range(6))
    (tmp_path / "model.pt").write_bytes(saved(honest(), **{"data/0": values, "byteorder": b"big"}))
    assert torch.equal(read(tmp_path / "model.pt")["a.weight"], torch.arange(6.0).view(2, 3))


@pytest.mark.sampled(13)
@pytest.mark.parametrize("layout", [saved, saved_long_ago])
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_is_refused(tmp_path: Path, layout: Callable[[bytes], bytes], name: str) -> None:
    values, answer = PICKLES[name]
    (tmp_path / "model.pt").write_bytes(layout(values(tmp_path / "CANARY")))
    with pytest.raises(Invalid) as refusal:
        read_pickled_weights(tmp_path / "model.pt")
    assert refusal.value.code == "weights_invalid"
    assert answer in refusal.value.detail or (layout is saved_long_ago and name in OTHERWISE)
    assert len(refusal.value.detail) < 1000
    assert refusal.value.detail.isprintable()
    assert not (tmp_path / "CANARY").exists()


OTHERWISE = ("a storage of exabytes", "a tensor that reaches out", "a pickle without an end")
"""What an older file is refused for in other words."""


@pytest.mark.parametrize("layout", [saved, saved_long_ago])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, layout: Callable[[bytes], bytes]) -> None:
    whole = layout(honest())
    for size in range(16, len(whole)):
        (tmp_path / "model.pt").write_bytes(whole[:size])
        with pytest.raises(Invalid):
            read_pickled_weights(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(whole)
    assert read(tmp_path / "model.pt").keys() == {"a.weight"}


@pytest.mark.parametrize("extra", ["data.json", "code/x.py", "data/../x"])
def test_a_member_that_torch_does_not_write_is_refused(tmp_path: Path, extra: str) -> None:
    (tmp_path / "model.pt").write_bytes(saved(honest(), **{extra: b"x"}))
    with pytest.raises(Invalid):
        read_pickled_weights(tmp_path / "model.pt")


def test_a_storage_that_was_damaged_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.full((64,), 0.5)}, tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(data.replace(struct.pack("<f", 0.5), struct.pack("<f", 0.25), 1))
    with pytest.raises(Invalid, match="checksum"):
        read_pickled_weights(tmp_path / "model.pt")


def test_memory_is_that_of_chunks_and_of_a_block(tmp_path: Path) -> None:
    matrix = torch.rand(4096, 4096)
    torch.save({"a": matrix, "b": matrix.t()}, tmp_path / "model.pt")
    imports = "import os\nfrom app.intake.pickles.weights import read_pickled_weights"
    statement = "read_pickled_weights(Path(sys.argv[1])).write(open(os.devnull, 'wb'))"
    outcome, growth = outcome_and_growth(imports, statement, str(tmp_path / "model.pt"))
    assert outcome == "taken"
    assert growth < 24 * 2**10 + matrix.nbytes // 2**10  # a mapped storage counts, though its pages can be given back


def test_what_is_no_file_of_torch_save(tmp_path: Path) -> None:
    for data in (b"", b"\x80\x04N.", b"PK\3\4", b"x" * 100):
        (tmp_path / "model.pt").write_bytes(data)
        assert not is_pickled(look_at(tmp_path / "model.pt"))
