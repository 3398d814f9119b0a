"""The gate's process: what it answers, what it may reach, and that its memory doesn't grow with the upload."""

import json
import subprocess
from pathlib import Path

import pytest

from app.errors import Invalid
from app.intake import gate
from app.intake.gate import pass_gate
from app.intake.limits import Limits
from tests.factories import fresh_of
from tests.networks import convolutional


def test_facts_come_back_and_the_fresh_file_goes_on(tmp_path: Path) -> None:
    path, pieces = convolutional().export(tmp_path / "model.pt2"), list[bytes]()
    facts = pass_gate("model", path, Limits(), pieces.append)
    assert facts["format"] == "pt2"
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": [{"min": 1, "max": 1024}, 1, 8, 8]}]
    assert b"".join(pieces) == fresh_of(path)


def test_a_refusal_comes_back_in_words(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"hello")
    with pytest.raises(Invalid) as refusal:
        pass_gate("model", tmp_path / "model.pt2", Limits(), lambda _: None)
    assert refusal.value.code == "model_format_unsupported"


def test_a_fault_of_the_gate_is_no_refusal(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the gate ended"):
        pass_gate("model", tmp_path / "missing.pt2", Limits(), lambda _: None)


@pytest.mark.parametrize(("readable", "ends_with"), [(True, 0), (False, 1)])
def test_it_reads_the_upload_and_no_other_file(tmp_path: Path, readable: bool, ends_with: int) -> None:
    upload, other, folder = tmp_path / "upload", tmp_path / "other", tmp_path / "folder"
    folder.mkdir()
    for path in (upload, other):
        path.write_bytes(b"hello")
    wanted = upload if readable else other
    command = gate._command(folder, upload, Limits(), ["model", str(wanted), Limits().as_json(), ""])
    result = subprocess.run(command, capture_output=True, env={"PYTHONPATH": str(gate.CODE)}, check=False)
    assert result.returncode == ends_with, result.stderr
    if readable:
        assert json.loads(result.stdout)["refusal"]["code"] == "model_format_unsupported"
    else:
        assert b"PermissionError" in result.stderr
