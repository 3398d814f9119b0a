"""Names for people: of models, datasets, jobs' owners and tags, rows of sweeps."""

import unicodedata
from typing import Any

import httpx
import pytest

from app.api.wording import UNSEEN_CHARACTERS
from tests.factories import safetensors

TAKEN = "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
"""The joiners, and signs that are drawn around the numbers that follow."""
HIDDEN = [chr(code) for code in range(0x3000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp")]
HIDDEN = [character for character in [*HIDDEN, "\ufeff", "\ufffa"] if character not in TAKEN]
GOOD = ["é", "数据集", "مجموعة", "می\u200cخواهم", "👩\u200d💻", "a b", "x" * 64]

DIGITS = safetensors(x=("F32", [4, 1]))


def refusals(client: httpx.Client, text: str) -> dict[str, Any]:
    """The answers to this text at every place that takes one, by the pointer that should be named."""
    wish = {"model": "mdl_0", "dataset": "dts_0", "preset": "int8"}
    sweep = {"model": "mdl_0", "dataset": "dts_0", "recipes": [{"preset": "int8", "name": text}, {"preset": "int8"}]}
    return {
        "/query/name": client.post("/v1/datasets", params={"name": text}, content=DIGITS),
        "/owner": client.post("/v1/jobs", json={**wish, "owner": text}),
        "/tags/0": client.post("/v1/jobs", json={**wish, "tags": [text]}),
        "/recipes/0/name": client.post("/v1/sweeps", json=sweep),
    }


def test_a_character_that_hides_or_reorders_is_refused(client: httpx.Client) -> None:
    for character in HIDDEN:
        for place, answer in refusals(client, f"a{character}b").items():
            assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), (place, hex(ord(character)))
            assert answer.json()["errors"][0] == {"pointer": place, "detail": UNSEEN_CHARACTERS}


@pytest.mark.parametrize("text", GOOD)
def test_every_script_is_taken(client: httpx.Client, text: str) -> None:
    answers = refusals(client, text)
    assert answers.pop("/query/name").json()["name"] == text
    assert all(answer.json()["code"] == "model_not_found" for answer in answers.values())


def test_a_form_s_file_name_is_shown_without_them(client: httpx.Client) -> None:
    name = "a\u202etxt.pt\u0085.safetensors"
    answer = client.post("/v1/datasets", files={"file": (name, DIGITS)})
    assert answer.json()["name"] == "atxt.pt.safetensors"
