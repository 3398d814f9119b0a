"""The lists of operators and their page agree; each operator with a sample is exported, gated, loaded and compared."""

import io
from pathlib import Path

import pytest
import torch

from app.intake.limits import Limits
from app.intake.program import refused
from app.intake.program.dataflow import MAKERS
from app.intake.program.operators import allowed
from app.intake.program.read import read_program
from scripts.list_operators import PAGE, aten, page, refusals
from scripts.list_samples import overloads
from scripts.operator_reasons import reason
from tests import operator_samples
from tests.effort import in_turn

KEYS = operator_samples.keys()
"""Of operators that tests/operators.py lacks."""


def test_each_operator_of_torch_is_on_one_list() -> None:
    names = {operator_samples.name_of(operator) for operator in aten()}
    taken = {name for name in allowed() if name.startswith("torch.ops.aten.")}
    assert not taken & refused.words().keys()
    assert names == taken | refused.words().keys()
    assert refused.words() == refusals(allowed())
    assert set(refused.words().values()) == refused.REASONS.keys()


def test_the_page_has_what_the_lists_have() -> None:
    assert PAGE.read_text("utf-8") == page(allowed(), refused.words())


ODD = {
    "random": """alpha_dropout alpha_dropout_ dropout dropout_ feature_alpha_dropout feature_alpha_dropout_
        feature_dropout feature_dropout_ native_dropout rrelu rrelu_ rrelu_with_noise_functional gru lstm
        rnn_relu rnn_tanh scaled_dot_product_attention""",
    "values": "index one_hot repeat_interleave",
    "internal": "_linalg_det _linalg_eigh _linalg_slogdet _linalg_svd",
    "effects": "lift_fresh_copy",
    "queries": "_assert_tensor_metadata sym_size sym_numel",
}
"""Taken all the same: what drops nothing unless it trains, what has a fixed size in an export that passes, and what
decomposed exports have."""


@pytest.mark.parametrize("word", [word for word in refused.REASONS if word not in ("out", "unseen")])
def test_what_torch_gives_a_reason_against_is_taken_only_where_we_know_why(word: str) -> None:
    operators = {name: overloads(name) for name in allowed()}
    found = {name.split(".")[-2] for name, operator in operators.items() if operator and reason(operator) == word}
    assert found == set(ODD.get(word, "").split())


SIZES = {"size", "output_size", "steps", "repeats", "pad", "padding_sizes", "window_length"}
FREE = {
    "view",
    "reshape",
    "_unsafe_view",
    "unflatten",
    "view_copy",
    "sum_to_size",
    "as_strided",
    "unfold_copy",
}
"""Their results have no more elements than what they are given, or share its memory."""


def test_an_operator_that_is_given_a_size_is_asked_how_large_it_is() -> None:
    unbounded = set()
    for name in set(KEYS):
        operator = overloads(name)
        assert operator is not None
        sizes = [a for a in operator._schema.arguments if a.name in SIZES and "int" in str(a.type).lower()]
        if sizes and name.split(".")[-2] not in FREE and name not in MAKERS:
            unbounded.add(name)
    assert not unbounded


def test_an_operator_that_is_given_strides_does_not_leave_the_memory_of_its_tensor() -> None:
    found = set()
    for name in allowed():
        operator = overloads(name) if name.startswith("torch.ops.aten.") else None
        arguments = [] if operator is None else [argument.name for argument in operator._schema.arguments]
        if operator is None or not {"size", "stride"} <= {*arguments} or arguments[0] != "self":
            continue
        found.add(operator._schema.name)
        given = [torch.zeros(2) if argument in ("self", "src") else [64] for argument in arguments]
        given = [[1] if argument == "stride" else value for argument, value in zip(arguments, given, strict=True)]
        required = [a for a in operator._schema.arguments if not a.has_default_value()]
        try:
            result = operator(*given[: len(required)])
        except RuntimeError:
            continue
        assert result.untyped_storage().nbytes() >= 64 * 4, name
    assert {"aten::as_strided", "aten::new_empty_strided"} <= found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, of deprecated functions
@pytest.mark.sampled(30)
@pytest.mark.parametrize("name", KEYS)
def test_a_program_of_a_sample_passes_and_gives_what_torch_gives(tmp_path: Path, name: str) -> None:
    call = operator_samples.call_of(KEYS[name])
    program = operator_samples.program(call)
    torch.export.save(program, tmp_path / "model.pt2")
    checked, fresh = read_program(tmp_path / "model.pt2", Limits()), io.BytesIO()
    assert name in {node["target"] for node in checked.document["graph_module"]["graph"]["nodes"]}
    checked.write(fresh)
    found = torch.export.load(io.BytesIO(fresh.getvalue())).module()(*call.tensors)
    expected = operator_samples.Sampled(call)(*call.tensors)
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in expected]
    for one, other in zip(found, expected, strict=True):
        assert "empty" in name or torch.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_modules_of_torch_pass_as_they_are_exported_and_decomposed(tmp_path: Path) -> None:
    passed = set()
    for name, module, arguments, keywords in operator_samples.modules(lambda position: in_turn(20, position)):
        try:
            program = torch.export.export(module, arguments, dict(keywords))
        except Exception:  # lazy modules, losses with sizes that depend on values
            continue
        for form in (program, program.run_decompositions()):
            torch.export.save(form, tmp_path / "model.pt2")
            read_program(tmp_path / "model.pt2", Limits())
        passed.add(name)
    assert passed
