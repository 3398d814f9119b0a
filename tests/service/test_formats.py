"""Every upload × recipe × format that makes sense is accepted, and some go through the service and back; the rest is
refused at submit. `tests/test_matrix.py` does all others."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.matrix import RECIPES, SOURCES, Cell, cells
from tests.matrix_jobs import JOBS, OVER_HTTP, Done, Uploads, check, dataset_of, folder_of, name_of, recipe_of, written
from tests.service.running import Running
from zeropoint.schema.formats import SourceFormat

pytestmark = [pytest.mark.service, pytest.mark.slow]

FOLDERS = ("tar", "tar.gz")
"""How folders are packed that go over HTTP; with an output head and without one."""


@dataclass(frozen=True)
class Uploaded:
    """Ids of what was uploaded."""

    made: Uploads
    models: Mapping[str, str]
    datasets: Mapping[str, str]

    def wish(self, cell: Cell) -> dict[str, Any]:
        """What a client sends for a cell."""
        folder = FOLDERS[list(RECIPES).index(cell.recipe) % len(FOLDERS)]
        model = self.models[folder if cell.source == "huggingface" else cell.source]
        dataset = dataset_of(cell)
        wish: dict[str, Any] = {"model": model, "recipe": recipe_of(cell)}
        return wish if dataset is None else wish | {"dataset": self.datasets[dataset]}


@pytest.fixture(scope="module")
def uploads(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Uploaded:
    made = Uploads.write(tmp_path_factory.mktemp("matrix"), FOLDERS)
    models = {name: running.upload("models", path) for name, path in made.models.items()}
    return Uploaded(made, models, {name: running.upload("datasets", path) for name, path in made.datasets.items()})


@pytest.fixture(scope="module")
def submitted(running: Running, uploads: Uploaded) -> dict[Cell, dict[str, Any]]:
    """Every job at once, those first that are not cancelled again: the service works while a test looks."""
    answers = {}
    for cell in [*OVER_HTTP, *(cell for cell in JOBS if cell not in OVER_HTTP)]:
        answers[cell] = running.client.post("/v1/jobs", json=uploads.wish(cell))
        if cell not in OVER_HTTP and answers[cell].status_code == 202:
            running.client.post(f"/v1/jobs/{answers[cell].json()['id']}/cancel").raise_for_status()
    assert {cell: answer.text for cell, answer in answers.items() if answer.status_code != 202} == {}
    return {cell: answer.json() for cell, answer in answers.items()}


def done(running: Running, job_id: str) -> Done:
    job = running.ended(job_id)
    assert (job["state"], job["error"]) == ("succeeded", None), job
    listed = {one["name"]: one for one in running.client.get(job["links"]["artifacts"]).json()}
    files = {name: running.client.get(one["url"]).content for name, one in listed.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert {name: one["sha256"] for name, one in listed.items()} == digests
    return Done(job["id"], job["recipe"], files)


@pytest.mark.parametrize("cell", OVER_HTTP, ids=name_of)
def test_what_makes_sense_goes_through_and_opens(
    running: Running,
    uploads: Uploaded,
    submitted: Mapping[Cell, dict[str, Any]],
    tmp_path: Path,
    *,
    subtests: pytest.Subtests,
    cell: Cell,
) -> None:
    check(cell, done(running, submitted[cell]["id"]), uploads.made, tmp_path, subtests)


@pytest.mark.parametrize("cell", JOBS, ids=name_of)
def test_what_makes_sense_is_accepted_with_a_whole_recipe(submitted: Mapping[Cell, dict[str, Any]], cell: Cell) -> None:
    recipe = submitted[cell]["recipe"]
    assert set(recipe["formats"]) == written(cell)
    assert (recipe["activations"] is not None) == cell.recipe.startswith("static")


def test_what_goes_over_http_is_of_every_kind() -> None:
    assert {cell.source for cell in OVER_HTTP} == set(SOURCES)
    assert {folder_of(cell) for cell in OVER_HTTP if cell.source == "huggingface"} == set(FOLDERS)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_rest_is_refused_at_submit_with_the_place_and_the_reason(
    running: Running, uploads: Uploaded, source: SourceFormat, recipe: str
) -> None:
    for cell in cells(source, recipe):
        if not cell.accepted:
            answer = running.client.post("/v1/jobs", json=uploads.wish(cell))
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (422, "recipe_does_not_fit"), (cell, problem)
            assert problem["remedy"]
            assert problem["errors"]
            assert all(error["pointer"].startswith("/recipe/") and error["detail"] for error in problem["errors"])


def refusal(running: Running, **wish: Any) -> tuple[str, list[str], str]:
    """The code, the places and the words of a job that is refused."""
    answer = running.client.post("/v1/jobs", json=wish)
    problem = answer.json()
    assert answer.status_code == 422, problem
    return problem["code"], [error["pointer"] for error in problem["errors"]], problem["detail"]


MISFITS: Mapping[str, tuple[str, dict[str, Any], list[str], str]] = {
    "a cast of some layers": (
        "tar",
        {"overrides": [{"names": ["*.query"], "weights": {"dtype": "float16"}}]},
        ["/recipe/overrides/0/weights"],
        "float16 is a cast",
    ),
    "an axis that a folder has no words for": (
        "tar",
        {"weights": {"axis": 1}},
        ["/recipe/weights"],
        "output channels alone",
    ),
    "outputs that nobody can measure": (
        "safetensors",
        {"activations": None, "validation": {"min_sqnr_db": 20}},
        ["/recipe/validation/min_sqnr_db"],
        "no outputs",
    ),
    "everything that is wrong at once": (
        "safetensors",
        {"formats": ["onnx", "safetensors", "pt2"]},
        ["/recipe/formats/0", "/recipe/formats/2", "/recipe/activations"],
        "onnx is not written from a file of weights",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_no_row_of_the_matrix_shows_is_refused_too(running: Running, uploads: Uploaded, name: str) -> None:
    model, recipe, pointers, why = MISFITS[name]
    code, found, detail = refusal(running, model=uploads.models[model], recipe=recipe)
    assert (code, found) == ("recipe_does_not_fit", pointers)
    assert why in detail


def test_weights_alone_take_no_samples(running: Running, uploads: Uploaded) -> None:
    for key in ("dataset", "evaluation_dataset"):
        wish = {"model": uploads.models["safetensors"], "preset": "int8-weight-only", key: uploads.datasets["ids"]}
        assert refusal(running, **wish)[:2] == ("dataset_does_not_fit", [f"/{key}"])


TEXTS = torch.ones(12, 6, dtype=torch.int64)
WRONG_TEXTS: Mapping[str, tuple[dict[str, Tensor], list[str]]] = {
    "another name": (
        {"inputs_ids": TEXTS},
        ["input_ids is missing (near: inputs_ids); expected int64 [1.., 1..40].", "inputs_ids is not an input"],
    ),
    "another dtype": ({"input_ids": TEXTS.int()}, ["input_ids: expected int64 [1.., 1..40], got int32 [12, 6]."]),
    "an optional one of another dtype": (
        {"input_ids": TEXTS, "attention_mask": TEXTS.float()},
        ["attention_mask: expected int64 [1.., 1..40], got float32 [12, 6]."],
    ),
    "more tokens than positions": (
        {"input_ids": torch.ones(2, 41, dtype=torch.int64)},
        ["input_ids: expected int64 [1.., 1..40], got int64 [2, 41]."],
    ),
    "no tokens but a mask": ({"attention_mask": TEXTS}, ["input_ids is missing"]),
}


@pytest.mark.parametrize(("tensors", "told"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_texts_that_a_network_cannot_take_are_refused(
    running: Running, uploads: Uploaded, tmp_path: Path, tensors: dict[str, Tensor], told: list[str]
) -> None:
    save_file(tensors, tmp_path / "wrong.safetensors")
    dataset = running.upload("datasets", tmp_path / "wrong.safetensors")
    wish = {"model": uploads.models["tar"], "preset": "int8-static", "dataset": dataset}
    problem = running.client.post("/v1/jobs", json=wish).json()
    assert problem["code"] == "dataset_does_not_fit"
    assert [error["pointer"] for error in problem["errors"]] == ["/dataset"] * len(told)
    for error, words in zip(problem["errors"], told, strict=True):
        assert words in error["detail"]


def test_a_layer_that_a_folder_does_not_have_is_refused(running: Running, uploads: Uploaded) -> None:
    recipe = {"activations": None, "exclude": ["lm_haed"]}
    code, pointers, detail = refusal(running, model=uploads.models["tar.gz"], recipe=recipe)
    assert (code, pointers) == ("recipe_matches_nothing", ["/recipe/exclude/0"])
    assert "lm_head" in detail


def test_a_preset_says_what_it_becomes_for_a_folder(running: Running, uploads: Uploaded) -> None:
    wish = {"model": uploads.models["tar.gz"], "preset": "int8-static", "dataset": uploads.datasets["texts"]}
    job = running.client.post("/v1/jobs", json=wish).raise_for_status().json()
    running.client.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    recipe = job["recipe"]
    assert (recipe["activations"]["dtype"], recipe["activations"]["scheme"]) == ("qint8", "symmetric")
    assert (recipe["weights"]["dtype"], recipe["exclude"], recipe["formats"]) == ("qint8", ["lm_head"], ["huggingface"])
