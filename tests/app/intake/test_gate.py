"""The gate's process: what it answers, what it may reach, and that its memory doesn't grow with the upload."""

from pathlib import Path

import pytest

from app.errors import Invalid
from app.intake.confined import ask
from app.intake.gate import pass_gate, sandbox_for
from app.intake.limits import Limits
from tests.factories import fresh_of
from tests.networks import convolutional


def test_facts_come_back_and_the_fresh_file_goes_on(tmp_path: Path) -> None:
    path, pieces = convolutional().export(tmp_path / "model.pt2"), list[bytes]()
    facts = pass_gate("model", path, Limits(), pieces.append)
    assert facts["format"] == "pt2"
    shape = [{"min": 1, "max": 1024}, 1, 8, 8]
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": shape, "optional": False}]
    assert b"".join(pieces) == fresh_of(path)


def test_a_refusal_comes_back_in_words(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"hello")
    with pytest.raises(Invalid) as refusal:
        pass_gate("model", tmp_path / "model.pt2", Limits(), lambda _: None)
    assert refusal.value.code == "model_format_unsupported"


def test_a_fault_of_the_gate_is_no_refusal(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="gate ended"):
        pass_gate("model", tmp_path / "missing.pt2", Limits(), lambda _: None)


def test_it_reads_the_upload_and_no_other_file(tmp_path: Path) -> None:
    upload, other = tmp_path / "upload", tmp_path / "other"
    for path in (upload, other):
        path.write_bytes(b"hello")
    sandbox = sandbox_for("model", str(upload), Limits())
    with pytest.raises(Invalid, match=r"not a torch\.export archive"):
        ask("gate", upload, ["model", str(upload), Limits().as_json(), ""], sandbox, Limits())
    with pytest.raises(RuntimeError, match="gate ended with 1"):
        ask("gate", upload, ["model", str(other), Limits().as_json(), ""], sandbox, Limits())
