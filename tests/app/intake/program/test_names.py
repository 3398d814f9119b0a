"""Names that are no identifiers: programs with them are taken, and hold them as the user wrote them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from app.errors import Invalid
from app.intake.facts import Model
from app.intake.limits import Limits
from app.intake.program.input_names import name_inputs
from app.intake.program.read import read_program
from tests.factories import fresh_of
from tests.odd_names import KEYS, MODULES, WIDTH, Named, called, keyed, named


def taken(program: ExportedProgram, path: Path) -> Model:
    """The facts of a program which the gate takes, writes, and takes again unchanged."""
    torch.export.save(program, path)
    facts, fresh = read_program(path, Limits()).facts, fresh_of(path)
    path.write_bytes(fresh)
    assert fresh_of(path) == fresh
    return facts


def test_modules_parameters_and_buffers_keep_their_names(tmp_path: Path) -> None:
    program = named()
    facts = taken(program, tmp_path / "model.pt2")
    assert {layer.name for layer in facts.layers} == {
        f"{kind}.{name}" for name in MODULES for kind in ("layers", "weights")
    } - {"weights.weight"} | {"weights"}
    types = {layer.name: layer.type for layer in facts.layers}
    unlike = {name for name in MODULES if types[f"layers.{name}"] != "Linear"}
    assert unlike == {"a(b", "a,b", "c;d"}  # torch can't read the classes of these
    again = torch.export.load(tmp_path / "model.pt2")
    assert again.state_dict.keys() == program.state_dict.keys()
    assert again.constants.keys() == program.constants.keys()


def test_keys_of_dicts_keep_their_names(tmp_path: Path) -> None:
    program = keyed()
    facts = taken(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2")
    given = {key: torch.randn(3, WIDTH) for key in KEYS}
    results, expected = again.module()(given), program.module()(given)
    assert list(results) == list(KEYS)
    assert all(torch.equal(results[key], expected[key]) for key in KEYS)
    assert [tensor.name for tensor in facts.inputs][:4] == ["größe_my_layer", "größe_0", "größe_a_b", "größe_größe"]
    assert len({tensor.name for tensor in facts.inputs}) == len(KEYS)


def test_arguments_have_the_names_that_the_user_wrote(tmp_path: Path) -> None:
    facts = taken(called(), tmp_path / "model.pt2")
    assert [tensor.name for tensor in facts.inputs] == ["größe", "名前"]
    x, scale = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    again = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.equal(again(x, 名前=scale), called_as_it_was(tmp_path, x, scale))


def called_as_it_was(folder: Path, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    program = torch.export.load(folder / "model.pt2")
    result: torch.Tensor = nn.functional.linear(x, *program.state_dict.values()) * scale
    return result


def exported(name: str) -> ExportedProgram:
    return torch.export.export(Named((name,)).eval(), (torch.randn(4, WIDTH),))


def keyed_by(name: str) -> ExportedProgram:
    return keyed((name,))


BAD: dict[str, tuple[Callable[[str], ExportedProgram], str]] = {
    "module": (exported, "must be a name, and 'layers."),
    "key": (keyed_by, "has a dict whose keys are not distinct names"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", ["x" * 257, "it's", "a\nb"])
def test_a_name_that_can_not_be_kept_is_refused_in_words(tmp_path: Path, kind: str, name: str) -> None:
    make, answer = BAD[kind]
    torch.export.save(make(name), tmp_path / "model.pt2")
    with pytest.raises(Invalid) as refusal:
        read_program(tmp_path / "model.pt2", Limits())
    assert answer in refusal.value.detail
    assert "at most 256 characters that can be seen, without quotes and backslashes" in refusal.value.detail


CALL = {"in_spec": '[1, {"type": "größe"}]', "forward_arg_names": ["größe"]}


@pytest.mark.parametrize(
    "odd",
    [None, [], 1, {}, {"graph_module": 3}, {"graph_module": {"module_call_graph": [{"signature": CALL}]}}],
)
def test_what_is_no_program_stays_as_it_is(odd: object) -> None:
    assert name_inputs(odd) is odd
