"""Each attack of the corpus meets the answer that it must, and what is taken is inert."""

import io
import re
import zipfile
from pathlib import Path

import pytest
import torch

from app.errors import Invalid
from app.intake.gate import pass_gate
from app.intake.limits import Limits
from app.intake.program.layouts import PROGRAM
from app.intake.program.read import read_program
from tests.factories import fresh_of
from tests.honest_archive import honest_members
from tests.hostile_uploads import ATTACKS, attacked
from tests.upload_archives import Members, write

REFUSED = {"program_invalid", "operator_unsupported", "archive_invalid", "model_format_unsupported"}


@pytest.fixture(scope="module")
def members() -> Members:
    return honest_members()


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.answer is not None])
def test_an_attack_is_refused_with_the_place(tmp_path: Path, members: Members, name: str) -> None:
    path = attacked(name, members, tmp_path / "model.pt2", tmp_path / "CANARY")
    with pytest.raises(Invalid) as refusal:
        read_program(path, Limits())
    answer = ATTACKS[name].answer
    assert answer is not None
    assert answer in refusal.value.detail
    assert refusal.value.code in REFUSED
    assert len(refusal.value.detail) < 1000
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.answer is None])
def test_what_is_taken_lost_what_was_hostile_in_it(tmp_path: Path, members: Members, name: str) -> None:
    path = attacked(name, members, tmp_path / "model.pt2", tmp_path / "CANARY")
    fresh = fresh_of(path)
    assert b"CANARY" not in fresh
    torch.export.load(io.BytesIO(fresh)).module()(torch.rand(4, 1, 8, 8))
    assert not (tmp_path / "CANARY").exists()


def test_text_of_what_is_written_is_inert(tmp_path: Path, members: Members) -> None:
    """Outside of the three fields that are grammars of their own, nothing can be more than a word."""
    document = read_program(write(members, tmp_path / "model.pt2"), Limits()).document
    words: list[str] = []

    def collect(value: object, key: str = "") -> None:
        if isinstance(value, dict):
            for name, entry in value.items():
                words.append(name)
                collect(entry, name)
        elif isinstance(value, list):
            for entry in value:
                collect(entry, key)
        elif isinstance(value, str) and key not in ("expr_str", "in_spec", "out_spec"):
            words.append(value)

    collect(document)
    assert [word for word in words if re.search(r"[()'\"\s\\]", word)] == []


@pytest.mark.parametrize("fill", [b"\0", b"[", b" "])
def test_a_bomb_is_refused_before_it_grows(tmp_path: Path, members: Members, fill: bytes) -> None:
    """2 MiB that would inflate to 2 GiB; the gate's process may take 256 MiB."""
    bomb = dict(members) | {"data/weights/weight_0": fill * 2**20}
    path = write(bomb, tmp_path / "model.pt2", zipfile.ZIP_DEFLATED)
    with pytest.raises(Invalid, match="compressed"):
        pass_gate("model", path, Limits(memory_bytes=2**28), lambda _: None)


def test_a_program_that_is_too_large_to_read_is_refused(tmp_path: Path, members: Members) -> None:
    path = write(dict(members) | {PROGRAM: b"[" + b"[]," * 2**24 + b"[]]"}, tmp_path / "model.pt2")
    with pytest.raises(Invalid) as refusal:
        pass_gate("model", path, Limits(memory_bytes=2**28), lambda _: None)
    assert refusal.value.code == "upload_too_demanding"
    with pytest.raises(Invalid) as refusal:
        pass_gate("model", path, Limits(seconds=1), lambda _: None)
    assert refusal.value.code == "upload_too_demanding"
