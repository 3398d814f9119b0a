"""Every upload × recipe × format that makes sense goes through the service and back; the rest is refused at submit."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.matrix import ACCEPTED, RECIPES, SOURCES, Cell, cells
from tests.networks import convolutional
from tests.onnx_sessions import in_each_session
from tests.processor import EXACT_ONNXRUNTIME
from tests.service import opened
from tests.service.running import Running
from tests.transformers_networks import Network, network
from tests.weight_files import PROJECTIONS, transformer
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.formats import SourceFormat
from zeropoint.schema.recipe import FormatName

pytestmark = [pytest.mark.service, pytest.mark.slow]

SEED = 7
LONGEST_QUEUE_SECONDS = 840.0
"""All jobs wait for one slot: the last one, looked at alone, ends after all others."""
LEAST_DB = 8.0
"""What the crudest recipe leaves of these networks by far."""
ALIKE_DB = 30.0
"""Two programs that compute the same numbers in another order."""

FOLDERS = {
    "tar": ("BertModel", "AutoModel", "5GB"),
    "tar.gz": ("LlamaForCausalLM", "AutoModelForCausalLM", "5GB"),
    "zip": ("Qwen2ForCausalLM", "AutoModelForCausalLM", "5GB"),
    "shards": ("BertModel", "AutoModel", "40KB"),
}
"""How a folder is packed: a network, what loads it, how large a shard is. Llama's heads share keys, Qwen2's is tied."""

JOBS = [
    *(Cell("pt2", recipe, ("safetensors", "pt2", "onnx")) for recipe in ACCEPTED["pt2"]),
    *(Cell("pt2", "static int8", formats) for formats in (None, ("onnx",))),
    *(Cell("huggingface", recipe, None) for recipe in ACCEPTED["huggingface"]),
    *(Cell("safetensors", recipe, ("safetensors",)) for recipe in ACCEPTED["safetensors"]),
]
"""Each upload × recipe with all its formats together; what a program gives when it is asked for less."""

STORED = {
    "static int8": torch.int8,
    "static int8, symmetric activations": torch.int8,
    "static int8, asymmetric throughout": torch.uint8,
    "static float8": torch.float8_e4m3fn,
    "weight-only int8": torch.int8,
    "weight-only int8 in groups": torch.int8,
    "weight-only int4 in groups": torch.uint8,
    "weight-only float8": torch.float8_e4m3fn,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def folder_of(cell: Cell) -> str:
    """How the folder of a job is packed: each way serves some recipes."""
    return list(FOLDERS)[list(RECIPES).index(cell.recipe) % len(FOLDERS)]


def dataset_of(cell: Cell) -> str:
    """Texts with a mask, but for one recipe: networks run without one."""
    if cell.source == "huggingface":
        return "ids" if cell.recipe == "static int8, symmetric activations" else "texts"
    return "images"


@dataclass(frozen=True)
class Uploads:
    """Ids of what was uploaded, and the networks that it is of."""

    models: Mapping[str, str]
    datasets: Mapping[str, str]
    networks: Mapping[str, Network]

    def uploaded(self, cell: Cell) -> dict[str, bytes]:
        """The files of the folder that a job is of."""
        folder = self.networks[folder_of(cell)].folder
        return {path.name: path.read_bytes() for path in folder.iterdir()} if cell.source == "huggingface" else {}

    def wish(self, cell: Cell) -> dict[str, Any]:
        """What a client sends for a cell."""
        model = self.models[folder_of(cell) if cell.source == "huggingface" else cell.source]
        recipe = cell.wish | {"seed": SEED}
        if not EXACT_ONNXRUNTIME and "onnx" in (cell.formats or ()):
            # What the service opens is optimized and saturates: such a job would fail, and leave nothing to look at.
            recipe["validation"] = {"on_failure": "warn"}
        wish: dict[str, Any] = {"model": model, "recipe": recipe}
        return wish if cell.source == "safetensors" else wish | {"dataset": self.datasets[dataset_of(cell)]}


@dataclass(frozen=True)
class Done:
    """A job that ended, and everything that could be downloaded of it."""

    job: dict[str, Any]
    listed: dict[str, dict[str, Any]]
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def uploads(running: Running, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Uploads:
    folder = tmp_path_factory.mktemp("matrix")
    save_file(transformer(), folder / "weights.safetensors")
    models = {"pt2": running.upload("models", program)}
    models["safetensors"] = running.upload("models", folder / "weights.safetensors")
    networks = {}
    for form, (kind, _, shard_size) in FOLDERS.items():
        networks[form] = network(kind, folder / form, max_shard_size=shard_size)
        models[form] = running.upload("models", networks[form].pack(folder / f"{form}.upload", form))
    inputs = networks["tar"].inputs
    save_file(inputs, folder / "texts.safetensors")
    save_file({"input_ids": inputs["input_ids"]}, folder / "ids.safetensors")
    convolutional(16).save_dataset(folder / "images.safetensors")
    datasets = {name: running.upload("datasets", folder / f"{name}.safetensors") for name in ("images", "texts", "ids")}
    return Uploads(models, datasets, networks)


@pytest.fixture(scope="module")
def submitted(running: Running, uploads: Uploads) -> dict[Cell, str]:
    """Every job at once: the service has work while a test looks at what is done."""
    answers = {cell: running.client.post("/v1/jobs", json=uploads.wish(cell)) for cell in JOBS}
    assert {cell: answer.text for cell, answer in answers.items() if answer.status_code != 202} == {}
    return {cell: answer.json()["id"] for cell, answer in answers.items()}


def done(running: Running, job_id: str) -> Done:
    job = running.ended(job_id, LONGEST_QUEUE_SECONDS)
    assert (job["state"], job["error"]) == ("succeeded", None), job
    listed = {one["name"]: one for one in running.client.get(job["links"]["artifacts"]).json()}
    return Done(job, listed, {name: running.client.get(one["url"]).content for name, one in listed.items()})


FILES: Mapping[str, set[str]] = {
    "safetensors": {"model.safetensors"},
    "pt2": {"model.pt2"},
    "onnx": {"model.onnx"},
    "huggingface": {"config.json", "model.safetensors", "model.tar"},
}
CARRIED = {"generation_config.json", "tokenizer.json"}
DEFAULTS: Mapping[SourceFormat, set[FormatName]] = {
    "pt2": {"safetensors", "pt2"},
    "huggingface": {"huggingface"},
    "safetensors": {"safetensors"},
}


def written(cell: Cell) -> set[FormatName]:
    """The formats of a job; a program's weights are always there."""
    always: set[FormatName] = {"safetensors"} if cell.source == "pt2" else set()
    return set(cell.formats) | always if cell.formats else DEFAULTS[cell.source]


def promised(cell: Cell, uploads: Uploads) -> set[str]:
    """What a job of this cell lists."""
    carried = CARRIED & set(uploads.uploaded(cell))
    return {"report.json", "manifest.json"}.union(carried, *(FILES[name] for name in written(cell)))


def sqnr(reference: Tensor, other: Tensor) -> float:
    noise = Noise()
    noise.add(reference, other)
    return 400.0 if noise.db is None else noise.db


def test_every_source_and_recipe_that_is_accepted_has_a_job() -> None:
    assert {(cell.source, cell.recipe) for cell in JOBS} == {(s, recipe) for s in SOURCES for recipe in ACCEPTED[s]}
    assert {folder_of(cell) for cell in JOBS if cell.source == "huggingface"} == set(FOLDERS)


@pytest.mark.parametrize("cell", JOBS, ids=lambda cell: f"{cell.source}-{cell.recipe}-{cell.formats}")
def test_what_makes_sense_goes_through_and_opens(
    running: Running,
    uploads: Uploads,
    submitted: Mapping[Cell, str],
    tmp_path: Path,
    *,
    subtests: pytest.Subtests,
    cell: Cell,
) -> None:
    result = done(running, submitted[cell])
    assert set(result.files) == promised(cell, uploads)
    check_manifest(cell, result)
    if cell.source == "pt2":
        check_program(cell, result, subtests)
    elif cell.source == "safetensors":
        check_weights(cell, result)
    else:
        check_folder(cell, result, uploads, tmp_path)


def check_manifest(cell: Cell, result: Done) -> None:
    """It says which files there are, what made them, and what opened them again."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in result.files.items()}
    assert {name: one["sha256"] for name, one in result.listed.items()} == digests
    manifest = json.loads(result.files["manifest.json"])
    assert {name: one["sha256"] for name, one in manifest["outputs"].items()} | {
        "manifest.json": digests["manifest.json"]
    } == digests
    assert (manifest["job"], manifest["attempt"], manifest["seed"]) == (result.job["id"], 1, SEED)
    recipe = manifest["recipe"]
    assert recipe == result.job["recipe"]
    assert set(recipe["formats"]) == written(cell)
    assert (recipe["activations"] is not None) == cell.recipe.startswith("static")
    assert {"torch", "safetensors", "zeropoint"} <= set(manifest["versions"])
    unread = {"report.json", "manifest.json", "tokenizer.json", "model.tar"}
    openers = {name for name, one in manifest["outputs"].items() if one.get("loader") and one.get("version")}
    assert openers == set(result.files) - unread


def check_program(cell: Cell, result: Done, subtests: pytest.Subtests) -> None:
    example = convolutional(16)
    x = example.dataset["x"]
    with torch.no_grad():
        expected = example.module.eval()(x)
        program = opened.run_program(result.files, x) if "model.pt2" in result.files else None
    assert program is None or sqnr(expected, program) > LEAST_DB
    assert opened.tensors(result.files)["head.weight"].dtype == STORED[cell.recipe]

    def compare(optimized: bool) -> None:
        output = opened.run_onnx(result.files, x, optimized=optimized)
        assert sqnr(expected, output) > LEAST_DB
        assert program is None or sqnr(program, output) > ALIKE_DB

    if "model.onnx" in result.files:
        in_each_session(subtests, compare)


def check_weights(cell: Cell, result: Done) -> None:
    found, uploaded = opened.tensors(result.files), transformer()
    assert {found[f"{name}.weight"].dtype for name in PROJECTIONS} == {STORED[cell.recipe]}
    kept = [name for name in uploaded if name.removesuffix(".weight") not in (*PROJECTIONS, "lm_head")]
    assert all(torch.equal(found[name], uploaded[name]) for name in kept)


def check_folder(cell: Cell, result: Done, uploads: Uploads, folder: Path) -> None:
    members, uploaded = opened.members(result.files), uploads.uploaded(cell)
    assert members == {name: result.files[name] for name in members}
    assert set(result.files) - set(members) == {"model.tar", "report.json", "manifest.json"}
    assert all(members[name] == uploaded[name] for name in CARRIED & set(uploaded))
    made, kind = uploads.networks[folder_of(cell)], FOLDERS[folder_of(cell)][1]
    loaded = opened.network(result.files, folder, kind)
    inputs = made.inputs if dataset_of(cell) == "texts" else {"input_ids": made.inputs["input_ids"]}
    with torch.no_grad():
        theirs, ours = (model(**inputs)[0] for model in (made.model, loaded))
    assert sqnr(theirs, ours) > LEAST_DB
    assert result.job["recipe"]["exclude"] == (["lm_head"] if "lm_head" in dict(made.model.named_modules()) else [])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_rest_is_refused_at_submit_with_the_place_and_the_reason(
    running: Running, uploads: Uploads, source: SourceFormat, recipe: str
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
def test_what_no_row_of_the_matrix_shows_is_refused_too(running: Running, uploads: Uploads, name: str) -> None:
    model, recipe, pointers, why = MISFITS[name]
    code, found, detail = refusal(running, model=uploads.models[model], recipe=recipe)
    assert (code, found) == ("recipe_does_not_fit", pointers)
    assert why in detail


def test_weights_alone_take_no_samples(running: Running, uploads: Uploads) -> None:
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
    running: Running, uploads: Uploads, tmp_path: Path, tensors: dict[str, Tensor], told: list[str]
) -> None:
    save_file(tensors, tmp_path / "wrong.safetensors")
    dataset = running.upload("datasets", tmp_path / "wrong.safetensors")
    wish = {"model": uploads.models["tar"], "preset": "int8-static", "dataset": dataset}
    problem = running.client.post("/v1/jobs", json=wish).json()
    assert problem["code"] == "dataset_does_not_fit"
    assert [error["pointer"] for error in problem["errors"]] == ["/dataset"] * len(told)
    for error, words in zip(problem["errors"], told, strict=True):
        assert words in error["detail"]


def test_a_layer_that_a_folder_does_not_have_is_refused(running: Running, uploads: Uploads) -> None:
    recipe = {"activations": None, "exclude": ["lm_haed"]}
    code, pointers, detail = refusal(running, model=uploads.models["tar.gz"], recipe=recipe)
    assert (code, pointers) == ("recipe_matches_nothing", ["/recipe/exclude/0"])
    assert "lm_head" in detail


def test_a_preset_says_what_it_becomes_for_a_folder(running: Running, uploads: Uploads) -> None:
    wish = {"model": uploads.models["tar.gz"], "preset": "int8-static", "dataset": uploads.datasets["texts"]}
    job = running.client.post("/v1/jobs", json=wish).raise_for_status().json()
    running.client.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    recipe = job["recipe"]
    assert (recipe["activations"]["dtype"], recipe["activations"]["scheme"]) == ("qint8", "symmetric")
    assert (recipe["weights"]["dtype"], recipe["exclude"], recipe["formats"]) == ("qint8", ["lm_head"], ["huggingface"])
