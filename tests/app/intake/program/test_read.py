"""Reading real exports, and refusing what only looks like one."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import Invalid
from app.intake.facts import Dim, Layer, Model, Tensor
from app.intake.limits import Limits
from app.intake.program.read import read_program
from tests.factories import members_of, write_zip
from tests.networks import attention, audio, convolutional

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


def facts_of(path: Path) -> Model:
    return read_program(path, Limits()).facts


Edit = Callable[[Any], object]
Pack = Callable[[dict[str, bytes]], Path]


class Scaled(nn.Module):
    """A parameter of the outermost module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A real export, member by member, below its root folder."""
    path = convolutional().export(tmp_path_factory.mktemp("export") / "model.pt2")
    return {name.partition("/")[2]: data for name, data in members_of(path).items()}


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    def pack_members(members: dict[str, bytes]) -> Path:
        return write_zip(tmp_path / "model.pt2", {f"model/{name}": data for name, data in members.items()})

    return pack_members


def edited(members: dict[str, bytes], name: str, edit: Edit) -> dict[str, bytes]:
    document = json.loads(members[name])
    edit(document)
    return members | {name: json.dumps(document).encode()}


def test_a_convolutional_network(tmp_path: Path) -> None:
    program = facts_of(convolutional().export(tmp_path / "model.pt2"))
    assert program.inputs == (Tensor("x", "float32", (Dim(1, 1024), 1, 8, 8)),)
    assert program.layers == (
        Layer("features.0", "Conv2d", (4, 1, 3, 3), 40),
        Layer("features.1", "BatchNorm2d", (4,), 8),
        Layer("features.3", "Conv2d", (8, 2, 3, 3), 152),
        Layer("head", "Linear", (10, 72), 730),
        Layer("unused", "Linear", (3, 3), 12),
    )
    assert program.parameters == 942


def test_a_module_that_is_called_twice_keeps_its_name_and_type(tmp_path: Path) -> None:
    layers = {layer.name: layer for layer in facts_of(attention().export(tmp_path / "model.pt2")).layers}
    assert layers["mix"] == Layer("mix", "Linear", (8, 8), 72)


def test_the_count_of_a_repeated_call_is_not_part_of_a_name(members: dict[str, bytes], pack: Pack) -> None:
    again = members[PROGRAM].replace(b",head,torch", b",head@1,torch")
    assert again != members[PROGRAM]
    assert "Linear" in [layer.type for layer in facts_of(pack(members | {PROGRAM: again})).layers[3:4]]


def test_a_projection_inside_a_module_is_a_layer_of_its_own(tmp_path: Path) -> None:
    layers = {layer.name: layer for layer in facts_of(attention().export(tmp_path / "model.pt2")).layers}
    assert layers["attention.in_proj"] == Layer("attention.in_proj", "MultiheadAttention", (24, 8), 8 * 24 + 24)


def test_parameters_that_no_module_calls_weight_make_a_layer_without_weight_shape(tmp_path: Path) -> None:
    exported = torch.export.export(Scaled(), (torch.zeros(3),))
    torch.export.save(exported, tmp_path / "model.pt2")
    assert facts_of(tmp_path / "model.pt2").layers == (Layer("scale", "Scaled", None, 3),)


def test_static_inputs_of_several_dtypes(tmp_path: Path) -> None:
    program = facts_of(attention(samples=8).export(tmp_path / "model.pt2"))
    assert program.inputs == (Tensor("ids", "int64", (2, 5)), Tensor("mask", "float32", (2, 5)))


def test_a_decomposed_program_has_the_same_layers(tmp_path: Path) -> None:
    program = facts_of(audio().export(tmp_path / "model.pt2", decompose=True))
    assert [(layer.name, layer.type) for layer in program.layers] == [("first", "Conv1d"), ("second", "Conv1d")]


def test_a_dimension_without_an_upper_bound(tmp_path: Path) -> None:
    exported = torch.export.export(
        nn.Linear(4, 4), (torch.zeros(3, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(exported, tmp_path / "model.pt2")
    (size, _) = facts_of(tmp_path / "model.pt2").inputs[0].shape
    assert isinstance(size, Dim)
    assert size.max is None


def test_the_same_members_packed_again_are_read(members: dict[str, bytes], pack: Pack) -> None:
    assert len(facts_of(pack(members)).layers) == 5


def refusal_of(path: Path) -> Invalid:
    with pytest.raises(Invalid) as refusal:
        facts_of(path)
    return refusal.value


def torch_save(path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path)


def old_torch_save(path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path, _use_new_zipfile_serialization=False)


def torch_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (torch_save, "pickle that torch.save wrote"),
        (old_torch_save, "pickle"),
        (torch_script, "TorchScript"),
        (lambda path: path.write_bytes(b"hello"), "not a torch.export archive"),
        (lambda path: write_zip(path, {"a/b": b"c"}), "without models/model.json"),
    ],
    ids=["torch.save", "old torch.save", "TorchScript", "text", "another zip"],
)
def test_another_kind_of_file_is_refused_and_told_how_to_export(
    tmp_path: Path, write: Callable[[Path], object], kind: str
) -> None:
    write(tmp_path / "model.pt2")
    error = refusal_of(tmp_path / "model.pt2")
    assert (error.code, kind in error.detail) == ("model_format_unsupported", True)
    assert "torch.export.save" in error.remedy


def node(document: Any) -> Any:
    return document["graph_module"]["graph"]["nodes"][0]


def input_specs(document: Any) -> Any:
    return document["graph_module"]["signature"]["input_specs"]


@pytest.mark.parametrize(
    ("name", "edit", "why"),
    [
        (
            PROGRAM,
            lambda it: it["schema_version"].update(major=7),
            "schema_version/major: must be 8, as torch 2.6 to 2.15",
        ),
        (PROGRAM, lambda it: it.pop("graph_module"), "lacks graph_module"),
        (PROGRAM, lambda it: it["graph_module"].update(graph=[]), "must be an object"),
        (PROGRAM, lambda it: it.update(more=1), "a key that no known torch writes"),
        (PROGRAM, lambda it: node(it).update(inputs="x"), "node 0: inputs: must be a list"),
        (PROGRAM, lambda it: input_specs(it)[0]["parameter"].update(parameter_name="a\nb"), "parameter_name: must be"),
        (PROGRAM, lambda it: input_specs(it).append({"user_input": {"arg": {"as_int": 3}}}), "number of inputs"),
        (PROGRAM, lambda it: input_specs(it).append({"custom_obj": {}}), "must be one of user_input"),
        (PROGRAM, lambda it: input_specs(it).pop(), "number of inputs"),
        (PROGRAM, lambda it: it["graph_module"]["graph"]["tensor_values"]["x"].update(dtype=99), "x/dtype: must be"),
        (WEIGHTS, lambda it: it["config"]["head.weight"].update(use_pickle=True), "use_pickle: must be one of False"),
        (WEIGHTS, lambda it: it["config"]["head.weight"].update(path_name="../../x"), "plain tensors"),
        (WEIGHTS, lambda it: it["config"]["head.weight"].update(path_name="weight_99"), "has 0"),
        (WEIGHTS, lambda it: it["config"]["head.weight"]["tensor_meta"]["sizes"][0].update(as_int=2**40), "needs"),
        (WEIGHTS, lambda it: it["config"]["head.weight"]["tensor_meta"]["strides"][0].update(as_int=-1), "strides"),
        (WEIGHTS, lambda it: it["config"].pop("head.weight"), "no tensor for head.weight"),
    ],
)
def test_a_program_that_is_not_true_is_refused_with_the_place(
    members: dict[str, bytes], pack: Pack, name: str, edit: Edit, why: str
) -> None:
    error = refusal_of(pack(edited(members, name, edit)))
    assert (error.code, why in error.detail) == ("program_invalid", True), error.detail
    assert name in error.detail or name.startswith("data/weights")


@pytest.mark.parametrize("extra", ["extra/note.txt", "data/aotinductor/model.so", "data/constants/custom_obj_0"])
def test_a_member_that_a_program_does_not_have_is_refused(members: dict[str, bytes], pack: Pack, extra: str) -> None:
    assert extra in refusal_of(pack(members | {extra: b"x"})).detail


def test_sample_inputs_are_never_opened(members: dict[str, bytes], pack: Pack) -> None:
    assert facts_of(pack(members | {"data/sample_inputs/model.pt": b"not a pickle"})).parameters == 942


def test_a_deeply_nested_program_is_refused(members: dict[str, bytes], pack: Pack) -> None:
    assert "nested" in refusal_of(pack(members | {PROGRAM: b"[" * 100_000})).detail
