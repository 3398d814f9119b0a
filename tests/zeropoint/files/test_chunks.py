"""Values come back once, in chunks, and one that can't be read costs no other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zeropoint.files.checkpoints import Checkpoints, State, Tensors
from zeropoint.files.chunks import ChunkStore


def encode(value: Tensor) -> tuple[State, Tensors]:
    return {"sign": int(value.sign())}, {"value": value, "twice": 2 * value}


def decode(name: str, state: State, tensors: Tensors) -> Tensor:
    if name == "foreign":
        raise KeyError(name)
    assert torch.equal(tensors["twice"], 2 * tensors["value"])
    assert state["sign"] == int(tensors["value"].sign())
    return tensors["value"]


def store(checkpoints: Checkpoints) -> ChunkStore[Tensor]:
    return ChunkStore(checkpoints, "values-", encode, decode)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    first = store(Checkpoints(tmp_path, "key"))
    for value, name in enumerate(("a", "b", "c"), start=1):
        first.add(name, torch.tensor(value))
    return tmp_path


def test_what_was_added_is_taken_once_and_the_phase_is_noted(kept: Path) -> None:
    checkpoints = Checkpoints(kept, "key")
    again = store(checkpoints)
    assert checkpoints.resumed == []
    assert [int(value) for name in ("a", "b", "c") if (value := again.take(name)) is not None] == [1, 2, 3]
    assert again.take("a") is None
    assert checkpoints.resumed == ["quantizing"]


def test_values_taken_in_order_need_one_chunk_in_memory(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again, loaded, load = store(Checkpoints(kept, "key")), list[str](), Checkpoints.load

    def noted(self: Checkpoints, name: str, read: Any) -> Any:
        loaded.append(name)
        return load(self, name, read)

    monkeypatch.setattr(Checkpoints, "load", noted)
    assert again.take("a") is not None
    assert loaded == ["values-0001"]
    assert sorted(again.read()) == ["b", "c"]


def test_a_chunk_that_holds_a_foreign_value_costs_that_chunk(kept: Path) -> None:
    store(Checkpoints(kept, "key")).add("foreign", torch.tensor(4))
    again = store(Checkpoints(kept, "key"))
    assert sorted(again.read()) == ["a", "b", "c"]
    again.add("d", torch.tensor(5))
    assert (kept / "values-0005.safetensors").exists()
