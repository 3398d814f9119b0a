"""Names that torch can't write into Python source get another spelling while a program runs; files keep theirs."""

import keyword

import pytest
import torch
from torch import Tensor, nn

from tests.odd_names import MODULES, WIDTH, Counting, Named, named
from zeropoint.graph.functional import functional
from zeropoint.graph.spelled_names import renamed, spelled, spelled_names, stored_names


def test_only_names_that_need_it_are_spelled_otherwise() -> None:
    names = ["a.class.weight", "a.größe", "a b.0", "my-layer", "ﬁne.x", 'a"b', "a\\b.c", "it's", "x.a\nb"]
    assert spelled_names(names) == {
        "a.class.weight": "a.class_.weight",
        "ﬁne.x": "fine_.x",
        "x.a\nb": "x.a_b_",
        'a"b': "a_b__",
        "a\\b.c": "a_b___.c",
    }


@pytest.mark.parametrize("word", keyword.kwlist)
def test_every_word_of_python_is_spelled_otherwise(word: str) -> None:
    assert spelled_names([f"{word}.{word}", word]) == {f"{word}.{word}": f"{word}_.{word}_", word: f"{word}_"}


def test_a_spelling_is_that_of_no_other_name() -> None:
    names = ["class", "class_", "b.class__.weight", "b.class.weight"]
    assert spelled_names(names) == {"class": "class___", "b.class.weight": "b.class___.weight"}


def test_a_program_runs_under_other_names_and_gets_its_own_back() -> None:
    module, x = Named(MODULES).eval(), torch.randn(4, WIDTH)
    program = named()
    other = spelled(program)
    assert torch.equal(other.module()(x), module(x))
    names = spelled_names(stored_names(program))
    back = renamed(other, {new: old for old, new in names.items()})
    assert back.state_dict.keys() == program.state_dict.keys()
    assert back.graph_signature.input_specs == program.graph_signature.input_specs


class Quoted(nn.Module):
    """A name that would end the text in which torch writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module('a"b', nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = getattr(self, 'a"b')(x)
        return result


def test_a_name_with_a_quote_in_it_runs() -> None:
    module, x = Quoted(), torch.randn(4, WIDTH)
    assert torch.equal(spelled(torch.export.export(module, (x,))).module()(x), module(x))


@pytest.mark.parametrize("name", ["class", "größe", "a b", "ﬁne"])
def test_a_buffer_that_is_written_in_place_keeps_its_name(name: str) -> None:
    x = torch.randn(4, WIDTH)
    program = functional(torch.export.export(Counting(name).eval(), (x,)))
    assert set(program.graph_signature.buffers_to_mutate.values()) == {name}
    module = spelled(program).module()
    assert torch.allclose(module(x) + 1, module(x))
