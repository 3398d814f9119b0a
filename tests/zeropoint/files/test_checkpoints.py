"""A checkpoint is whole and of this job, or it is nothing; and it is written when it is worth its while."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zeropoint.files import checkpoints as module
from zeropoint.files.checkpoints import NO_CHECKPOINTS, Checkpoints

STATE = {"done": 3, "share": 0.1}


def tensors() -> dict[str, Tensor]:
    """Of every kind that a phase keeps."""
    return {
        "counts": torch.arange(5),
        "low": torch.tensor(float("nan")),
        "numbers": torch.ones(2, 3).to(torch.float8_e4m3fn),
    }


def both(state: Mapping[str, Any], found: Mapping[str, Tensor]) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    return state, found


def test_what_was_kept_is_read_back_exactly(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "c", "key").save("a", STATE, tensors())
    read = Checkpoints(tmp_path / "c", "key").load("a", both)
    assert read is not None
    assert read[0] == STATE
    for name, tensor in tensors().items():
        assert read[1][name].dtype == tensor.dtype
        assert torch.equal(read[1][name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["a.safetensors"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def count_on(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'\\"done\\":3', b'\\"done\\":4'))


def take_another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'\\"schema_version\\":1', b'\\"schema_version\\":2'))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [cut, turn_a_bit, count_on, take_another_version, empty],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_one_is_ignored_and_said_to_be(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoints(tmp_path, "key").save("a", STATE, tensors())
    before = (tmp_path / "a.safetensors").read_bytes()
    damage(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() != before
    with caplog.at_level(logging.WARNING):
        assert Checkpoints(tmp_path, "key").load("a", both) is None
    assert "checkpoint a is ignored" in caplog.text


def test_one_of_another_job_is_ignored(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "key").save("a", STATE, tensors())
    assert Checkpoints(tmp_path, "another").load("a", both) is None


def test_one_under_another_name_is_ignored(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "key").save("a", STATE, tensors())
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert Checkpoints(tmp_path, "key").load("b", both) is None


def test_one_that_its_reader_refuses_is_ignored(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "key").save("a", STATE, tensors())
    assert Checkpoints(tmp_path, "key").load("a", lambda state, _: state["missing"]) is None


def test_without_a_key_nothing_is_written_or_read(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "c", "key").save("a", STATE, tensors())
    keyless = Checkpoints(tmp_path / "c", None)
    keyless.save("b", STATE, tensors())
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["a.safetensors"]
    assert (keyless.load("a", both), keyless.names("a"), keyless.due, keyless.long) == (None, [], False, False)
    assert not NO_CHECKPOINTS.due


def test_a_disk_that_does_not_take_it_costs_the_checkpoint_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    Checkpoints(tmp_path / "file", "key").save("a", STATE, tensors())
    assert "checkpoint a is not kept" in caplog.text


def test_a_half_written_one_is_not_seen_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path, "key")
    kept.save("a", STATE, tensors())

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    kept.save("a", {"done": 4}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert kept.load("a", lambda state, _: state["done"]) == 3


def test_one_is_due_once_its_time_has_passed_since_the_beginning_or_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: clock)
    kept = Checkpoints(tmp_path, "key", 30.0)
    clock = 29.0
    assert (kept.due, kept.long) == (False, False)
    clock = 30.0
    assert (kept.due, kept.long) == (True, True)
    kept.save("a", STATE, {})
    clock = 59.0
    assert (kept.due, kept.long) == (False, True)
    clock = 60.0
    assert kept.due
    kept.begin()
    assert (kept.due, kept.long) == (False, False)


def test_names_come_in_their_order(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, "key")
    for name in ("layers-0002", "layers-0001", "calibrating"):
        kept.save(name, STATE, {})
    assert kept.names("layers-") == ["layers-0001", "layers-0002"]
