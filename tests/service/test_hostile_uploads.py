"""Hostile uploads over HTTP: each meets its answer, none leaves a trace, and honest ones go on being taken.

tests/app/intake has all of them without a service: what the gate says, and that what it takes is what an honest folder
becomes.
"""

from pathlib import Path

import pytest

from tests.hostile_folders import FOLDER_ATTACKS, GATE, attacked, honest_folder, pack
from tests.hostile_uploads import WEIGHTS_ATTACKS
from tests.service.running import Running

pytestmark = [pytest.mark.service, pytest.mark.slow]


BY_THE_GATE = [name for name, attack in FOLDER_ATTACKS.items() if attack.code and attack.by == GATE]
DESCRIBED = [name for name in FOLDER_ATTACKS if name not in BY_THE_GATE]
"""Their networks are built, which takes seconds: those that are taken, and those of which only the network tells."""


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", BY_THE_GATE)
def test_a_folder_meets_its_answer(running: Running, tmp_path: Path, name: str) -> None:
    require_answer(running, tmp_path, name)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", DESCRIBED)
def test_a_folder_whose_network_is_built_meets_its_answer(running: Running, tmp_path: Path, name: str) -> None:
    require_answer(running, tmp_path, name)


def require_answer(running: Running, tmp_path: Path, name: str) -> None:
    attack, canary = FOLDER_ATTACKS[name], tmp_path / "CANARY"
    answer = running.client.post("/v1/models?name=hostile", content=attacked(name, canary))
    said = answer.json()
    assert (answer.status_code, said.get("code")) == ((422, attack.code) if attack.code else (201, None)), said
    assert attack.answer in said.get("detail", "")
    assert "CANARY" not in answer.text
    assert not canary.exists()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", WEIGHTS_ATTACKS)
def test_weights_meet_their_answer(running: Running, name: str) -> None:
    data, expected = WEIGHTS_ATTACKS[name]
    answer = running.client.post("/v1/models?name=hostile", content=data)
    assert answer.status_code == (201 if expected is None else 422)
    assert (expected or "") in answer.json().get("detail", "")


def test_an_honest_folder_is_taken_after_all_that(running: Running) -> None:
    told = running.client.post("/v1/models?name=bert", content=pack(honest_folder())).json()
    assert (told["format"], len(told["layers"])) == ("huggingface", 13)
    listed = running.client.get("/v1/models?limit=100").json()["items"]
    assert told["id"] in [model["id"] for model in listed]
