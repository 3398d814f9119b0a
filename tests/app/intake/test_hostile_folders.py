"""Each hostile folder meets the answer that it must, and what is taken is inert."""

import io
import tarfile
from pathlib import Path

import pytest

from app.errors import Invalid
from app.intake.description import describe_folder
from app.intake.huggingface.rewrite import read_folder
from app.intake.limits import Limits
from tests.hostile_folders import DESCRIPTION, FOLDER_ATTACKS, GATE, attacked, honest_folder, pack

CANARY = "CANARY"
BY_THE_GATE = [name for name, attack in FOLDER_ATTACKS.items() if attack.code and attack.by == GATE]
BY_THE_DESCRIPTION = [name for name, attack in FOLDER_ATTACKS.items() if attack.by == DESCRIPTION]
TAKEN = [name for name, attack in FOLDER_ATTACKS.items() if attack.code is None]


def through_the_gate(data: bytes, folder: Path) -> Path:
    """What the gate makes of an archive. Raises Invalid."""
    scratch, fresh = folder / "scratch", folder / "fresh.tar"
    scratch.mkdir()
    (folder / "upload").write_bytes(data)
    checked = read_folder(folder / "upload", scratch, 2**30)
    with fresh.open("wb") as target:
        checked.write(target)
    return fresh


@pytest.mark.parametrize("name", BY_THE_GATE)
def test_an_attack_is_refused_with_the_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid) as refusal:
        through_the_gate(attacked(name, tmp_path / CANARY), tmp_path)
    require_answer(refusal.value, name)
    assert not (tmp_path / CANARY).exists()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", BY_THE_DESCRIPTION)
def test_what_only_the_network_shows_is_refused_too(tmp_path: Path, name: str) -> None:
    fresh = through_the_gate(attacked(name, tmp_path / CANARY), tmp_path)
    with pytest.raises(Invalid) as refusal:
        describe_folder(fresh, Limits())
    require_answer(refusal.value, name)


def require_answer(refusal: Invalid, name: str) -> None:
    attack = FOLDER_ATTACKS[name]
    assert refusal.code == attack.code
    assert attack.answer in refusal.detail
    assert len(refusal.detail) < 1000
    assert CANARY not in refusal.detail
    assert refusal.remedy


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_what_an_honest_folder_becomes(tmp_path: Path, name: str) -> None:
    """But for files of the tokenizer, which nothing here reads."""
    for folder in ("honest", "hostile"):
        (tmp_path / folder).mkdir()
    hostile = members(through_the_gate(attacked(name, tmp_path / CANARY), tmp_path / "hostile"))
    honest = members(through_the_gate(pack(honest_folder()), tmp_path / "honest"))
    assert hostile["config.json"] == honest["config.json"]
    assert set(hostile) - set(honest) <= {"tokenizer_config.json"}
    assert not (tmp_path / CANARY).exists()


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        return {entry.name: read.read() for entry in archive if (read := archive.extractfile(entry))}
