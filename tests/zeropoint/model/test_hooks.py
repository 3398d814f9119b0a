"""Hooks last as long as their block, whatever happens in it."""

import pytest
import torch
from torch import nn

from zeropoint.model.hooks import hooked, watched


def test_hooks_change_what_goes_in_and_what_comes_out_until_the_block_ends() -> None:
    layer, x = nn.Identity(), torch.ones(2)
    before, after = (layer, lambda _, arguments: (arguments[0] * 3,)), (layer, lambda _, __, output: output + 1)
    with hooked(before=[before], after=[after]):
        assert layer(x).tolist() == [4, 4]
    assert torch.equal(layer(x), x)


def test_hooks_go_also_when_a_later_one_cannot_be_registered_or_the_block_fails() -> None:
    layer = nn.Identity()
    with pytest.raises(AttributeError), hooked(before=[(layer, lambda *_: None), (None, print)]):  # type: ignore[list-item]
        pass
    with pytest.raises(ZeroDivisionError), hooked(after=[(layer, lambda *_: None)]):
        raise ZeroDivisionError
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks


def test_what_a_mask_hides_is_not_shown() -> None:
    layer, seen = nn.Identity(), list[int]()
    with watched({"x": layer}, {"x": lambda values: seen.append(len(values))}) as current:
        current.mask = torch.tensor([[True, False]])
        layer(torch.zeros(1, 2, 3))
    layer(torch.zeros(1, 2, 3))
    assert seen == [1]
