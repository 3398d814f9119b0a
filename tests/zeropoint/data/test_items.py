"""What a model takes of a batch that was made for training, and what can't be decided."""

# ruff: noqa: ARG002 - only the signatures of these models are read

from collections import UserDict, namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zeropoint.data.batches import Dim, Input, ModelInputs
from zeropoint.data.calls import reader_for, reader_for_module
from zeropoint.data.items import ModelInputsChoice, read_item
from zeropoint.errors import InvalidSamples

X, Y, LABELS = torch.randn(4, 6), torch.randn(4, 3), torch.arange(4)
IDS, MASK = torch.zeros(4, 5, dtype=torch.int64), torch.ones(4, 5, dtype=torch.int64)
Pair = namedtuple("Pair", "image label")
ONE = (Input("x", torch.float32, (Dim(1, 8), 6)),)
TWO = (*ONE, Input("y", torch.float32, (Dim(1, 8), 3)))


class One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x


class Optional(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


class Transformer(nn.Module):
    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        raise AssertionError


class Keyword(nn.Module):
    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        return x


class Loss(nn.Module):
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return x


def same(call: ModelInputs, *tensors: Tensor) -> bool:
    return len(call) == len(tensors) and all(a is b for a, b in zip(call, tensors, strict=True))


@pytest.mark.parametrize("item", [(X, LABELS), [X, LABELS], Pair(X, LABELS), ((X,), LABELS), ({"x": X}, LABELS)])
def test_inputs_beside_labels_are_what_one_input_takes(item: object) -> None:
    for read in (reader_for_module(One()), reader_for(ONE)):
        call = read(item)
        assert same(call, X)
        assert call.labels is not None
        assert torch.equal(call.labels, LABELS)


@pytest.mark.parametrize("item", [(X, Y, LABELS), [(X, Y), LABELS], ({"y": Y, "x": X}, LABELS), (X, Y)])
def test_two_inputs_are_taken_and_what_is_left_over_is_labels(item: Any) -> None:
    for read in (reader_for_module(Two()), reader_for(TWO)):
        call = read(item)
        named = dict(zip(call.names, call, strict=True))
        assert {id(tensor) for tensor in named.values()} == {id(X), id(Y)}
        assert named.get("x", call[0]) is X
        assert (call.labels is None) == (len(item) == 2 and item[1] is Y)


@pytest.mark.parametrize("wrap", [dict, UserDict])
def test_a_dict_gives_what_the_model_names_and_labels_under_their_usual_keys(wrap: type[Mapping[str, Tensor]]) -> None:
    batch = wrap({"input_ids": IDS, "attention_mask": MASK, "labels": LABELS, "idx": LABELS, "text": ["a"] * 4})  # type: ignore[call-arg]
    call = reader_for_module(Transformer())(batch)
    assert call.names == ["input_ids", "attention_mask"]
    assert call.labels is not None
    assert reader_for_module(Loss())({"x": X, "labels": LABELS}).names == ["x", "labels"]
    assert reader_for(ONE)({"x": X, "label": LABELS, "weight": Y}).labels is not None


def test_keywords_without_a_position_and_none_values() -> None:
    assert reader_for_module(Keyword())({"x": X, "scale": Y, "label": LABELS}).names == ["x", "scale"]
    assert reader_for_module(Transformer())({"input_ids": IDS, "attention_mask": None}).names == ["input_ids"]


@pytest.mark.parametrize("labels", [torch.randn(4), torch.randn(4, 5), torch.arange(3), torch.zeros(4, 2, 2).long()])
def test_what_does_not_look_like_classes_is_left_out_and_serves_no_metric(labels: Tensor) -> None:
    call = reader_for_module(One())((X, labels))
    assert same(call, X)
    assert call.labels is None


@pytest.mark.parametrize(
    ("model", "item"),
    [
        (Optional(), (X, LABELS)),  # a mask, or labels?
        (Transformer(), (IDS, LABELS)),
        (One(), (X, Y, LABELS)),  # which of three?
        (One(), (LABELS, X)),  # labels first
        (Keyword(), {"x": X}),
        (One(), {"input": X}),
        (One(), {}),
        (Transformer(), {"input_idz": IDS, "attention_mask": MASK}),
        (Two(), (X, "text")),
        (One(), "text"),
        (One(), 3),
        (One(), ()),
    ],
)
def test_what_can_not_be_decided_is_refused_in_words(model: nn.Module, item: object) -> None:
    with pytest.raises(InvalidSamples) as refused:
        reader_for_module(model)(item)
    assert refused.value.code in ("calibration_item_invalid", "dataset_does_not_fit")


def test_a_refusal_says_what_was_there_and_what_the_model_takes() -> None:
    with pytest.raises(
        InvalidSamples, match=r"2 values \(float32 \[4, 6\], int64 \[4\]\).*x, mask \(optional\)"
    ) as refused:
        reader_for_module(Optional())((X, LABELS))
    assert "model_inputs" in refused.value.remedy


def test_optional_values_that_are_no_labels_are_arguments() -> None:
    assert same(reader_for_module(Optional())((X, torch.ones(4, 6))), X) is False
    assert len(reader_for_module(Transformer())((IDS, MASK))) == 2


@pytest.mark.parametrize(
    ("choice", "item", "names", "has_labels"),
    [
        (0, (X, LABELS), ["argument 0"], True),
        ([1], (LABELS, X), ["argument 0"], True),
        ([0, 1], (X, LABELS), ["argument 0", "argument 1"], False),
        ("x", {"x": X, "labels": LABELS, "mask": Y}, ["x"], True),
        (["mask", "x"], {"x": X, "mask": Y}, ["mask", "x"], False),
        (lambda batch: batch["deep"]["x"], {"deep": {"x": X}}, ["argument 0"], False),
        (lambda batch: (batch[0], batch[1]), (X, LABELS), ["argument 0", "argument 1"], False),
        (lambda batch: {"mask": batch[0]}, (X, LABELS), ["mask"], False),
    ],
)
def test_model_inputs_decides(choice: ModelInputsChoice, item: object, names: list[str], has_labels: bool) -> None:
    call = reader_for_module(Optional(), choice)(item)
    assert call.names == names
    assert (call.labels is not None) == has_labels


@pytest.mark.parametrize(("choice", "item"), [([2], (X, LABELS)), ("z", {"x": X}), ("x", (X,)), ([0], {"x": X})])
def test_model_inputs_that_are_not_there_are_refused(choice: ModelInputsChoice, item: object) -> None:
    with pytest.raises(InvalidSamples, match="model_inputs names") as refused:
        reader_for_module(One(), choice)(item)
    assert refused.value.code == "calibration_item_invalid"


def test_a_program_takes_the_leaves_of_nested_values_in_order() -> None:
    inputs = (Input("batch_a", torch.float32, (Dim(1, 8), 6)), Input("batch_b", torch.float32, (Dim(1, 8), 3)))
    for item in (({"a": X, "b": Y},), ({"a": X, "b": Y}, LABELS), ([X, Y], LABELS), (X, Y)):
        assert same(reader_for(inputs)(item), X, Y)


def test_arrays_are_tensors_also_those_that_are_read_only() -> None:
    array = np.ones((4, 6), np.float32)
    array.flags.writeable = False
    assert torch.equal(read_item((array,))[0], torch.ones(4, 6))
    with pytest.raises(InvalidSamples):
        read_item(np.array(["text"]))
