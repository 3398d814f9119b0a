"""Arguments by keyword, as programs of older files have them, become arguments by position."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from tests.networks import Example, attention, convolutional, recurrent, residual
from zeropoint import quantize
from zeropoint.graph.positions import by_position


def by_keyword(program: ExportedProgram) -> ExportedProgram:
    """The program as torch loads it from a file of torch 2.6: what has a default goes by keyword, unless it has it."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None:
            _by_keyword(node, schema)
    program.graph_module.recompile()
    return program


def _by_keyword(node: Node, schema: torch.FunctionSchema) -> None:
    given = dict(zip([argument.name for argument in schema.arguments], node.args, strict=False))
    plain = [argument.name for argument in schema.arguments if not argument.has_default_value()]
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    named = {name: value for name, value in given.items() if name in defaults and value != defaults[name]}
    node.args = tuple(given[name] for name in plain if name in given)
    node.kwargs = {**node.kwargs, **named}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("make", [convolutional, residual, attention, recurrent])
def test_keywords_change_no_byte_of_the_artifact(tmp_path: Path, make: Callable[[], Example]) -> None:
    example = make()
    files = {}
    for spelling in (by_keyword, lambda program: program):
        path = example.export(tmp_path / "model.pt2")
        program = spelling(torch.export.load(path))
        quantize(program, [{name: tensor[:2] for name, tensor in example.dataset.items()}], recipe="int8-static").save(
            tmp_path / "out"
        )
        files[spelling] = (tmp_path / "out" / "model.safetensors").read_bytes()
    first, second = files.values()
    assert first == second


def test_a_program_by_position_stays_as_it_is(tmp_path: Path) -> None:
    program = torch.export.load(convolutional().export(tmp_path / "model.pt2"))
    assert by_position(program) is program


def test_what_is_left_out_before_the_last_argument_gets_its_default(tmp_path: Path) -> None:
    program = by_keyword(torch.export.load(convolutional().export(tmp_path / "model.pt2")))
    moved = by_position(program)
    assert not any("bias" in node.kwargs for node in moved.graph.nodes)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(moved.module()(x), program.module()(x))
