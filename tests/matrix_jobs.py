"""The jobs of the matrix: what each is made of, and what everything that can be downloaded of it has to be."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import opened_artifacts as opened
from tests.file_metadata import check_metadata
from tests.matrix import ACCEPTED, RECIPES, Cell
from tests.networks import convolutional
from tests.onnx_sessions import in_each_session
from tests.transformers_networks import Network, network
from tests.weight_files import PROJECTIONS, transformer
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.formats import SourceFormat
from zeropoint.schema.recipe import FormatName

SEED = 7
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
OVER_HTTP = [
    Cell("pt2", "static int8", ("safetensors", "pt2", "onnx")),
    Cell("pt2", "weight-only int4 in groups", ("safetensors", "pt2", "onnx")),
    Cell("pt2", "static int8", None),
    Cell("huggingface", "static int8", None),
    Cell("huggingface", "static int8, symmetric activations", None),
    Cell("safetensors", "weight-only int8", ("safetensors",)),
]
"""Those that go through the whole service: all kinds of uploads, of samples and of answers."""

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


def name_of(cell: Cell) -> str:
    return f"{cell.source}-{cell.recipe}-{cell.formats}"


def folder_of(cell: Cell) -> str:
    """How the folder of a job is packed: each way serves some recipes."""
    return list(FOLDERS)[list(RECIPES).index(cell.recipe) % len(FOLDERS)]


def model_of(cell: Cell) -> str:
    """The file in `Uploads` that a job is of."""
    return folder_of(cell) if cell.source == "huggingface" else cell.source


def dataset_of(cell: Cell) -> str | None:
    """Texts with a mask, but for one recipe: networks run without one. Weights alone take no samples."""
    if cell.source == "huggingface":
        return "ids" if cell.recipe == "static int8, symmetric activations" else "texts"
    return "images" if cell.source == "pt2" else None


def recipe_of(cell: Cell) -> dict[str, Any]:
    """What a client sends for a cell."""
    return cell.wish | {"seed": SEED}


@dataclass(frozen=True)
class Uploads:
    """Files to upload, and the networks that the folders among them are of."""

    models: Mapping[str, Path]
    datasets: Mapping[str, Path]
    networks: Mapping[str, Network]

    @classmethod
    def write(cls, folder: Path, forms: tuple[str, ...] = tuple(FOLDERS)) -> Self:
        """Write a program, a file of weights, folders in these forms, and samples for all of them."""
        models = {"pt2": convolutional().export(folder / "program.pt2"), "safetensors": folder / "weights.safetensors"}
        save_file(transformer(), models["safetensors"])
        networks = {}
        for form in forms:
            kind, _, shard_size = FOLDERS[form]
            networks[form] = network(kind, folder / form, max_shard_size=shard_size)
            models[form] = networks[form].pack(folder / f"{form}.upload", form)
        inputs = networks["tar"].inputs
        datasets = {name: folder / f"{name}.safetensors" for name in ("images", "texts", "ids")}
        save_file(inputs, datasets["texts"])
        save_file({"input_ids": inputs["input_ids"]}, datasets["ids"])
        convolutional(16).save_dataset(datasets["images"])
        return cls(models, datasets, networks)

    def files(self, cell: Cell) -> dict[str, bytes]:
        """The files of the folder that a job is of; of another upload there are none."""
        if cell.source != "huggingface":
            return {}
        return {path.name: path.read_bytes() for path in self.networks[folder_of(cell)].folder.iterdir()}


@dataclass(frozen=True)
class Done:
    """A job that ended, with the recipe that it was done by, and everything that could be downloaded of it."""

    job_id: str
    recipe: dict[str, Any]
    files: dict[str, bytes]


def check(cell: Cell, result: Done, uploads: Uploads, folder: Path, subtests: pytest.Subtests) -> None:
    """Every file is there, is what the manifest says, opens in what it is for, and computes what it should."""
    assert set(result.files) == promised(cell, uploads)
    _check_manifest(cell, result)
    check_metadata(result.files["model.safetensors"])
    if cell.source == "pt2":
        _check_program(cell, result, subtests)
    elif cell.source == "safetensors":
        _check_weights(cell, result)
    else:
        _check_folder(cell, result, uploads, folder)


def written(cell: Cell) -> set[FormatName]:
    """The formats of a job; a program's weights are always there."""
    always: set[FormatName] = {"safetensors"} if cell.source == "pt2" else set()
    return set(cell.formats) | always if cell.formats else DEFAULTS[cell.source]


def promised(cell: Cell, uploads: Uploads) -> set[str]:
    """What a job of this cell lists."""
    carried = CARRIED & set(uploads.files(cell))
    return {"report.json", "manifest.json"}.union(carried, *(FILES[name] for name in written(cell)))


def _check_manifest(cell: Cell, result: Done) -> None:
    """It says which files there are, what made them, and what opened them again."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in result.files.items()}
    manifest = json.loads(result.files["manifest.json"])
    assert {name: one["sha256"] for name, one in manifest["outputs"].items()} | {
        "manifest.json": digests["manifest.json"]
    } == digests
    assert (manifest["job"], manifest["attempt"], manifest["seed"]) == (result.job_id, 1, SEED)
    recipe = manifest["recipe"]
    assert recipe == result.recipe
    assert set(recipe["formats"]) == written(cell)
    assert (recipe["activations"] is not None) == cell.recipe.startswith("static")
    assert {"torch", "safetensors", "zeropoint"} <= set(manifest["versions"])
    rows = {name: one["runtimes"] for name, one in manifest["outputs"].items() if "runtimes" in one}
    assert set(rows) == {"model.pt2", "model.onnx"} & set(result.files) or cell.source != "pt2" or rows
    for row in (row for name in rows for row in rows[name]):
        assert {"runtime", "version", "level", "basis"} <= set(row)
        assert "sqnr_db" in row or row.get("exact") or (row["basis"] == "skipped" and row["reason"])
    unread = {"report.json", "manifest.json", "tokenizer.json", "model.tar"}
    openers = {name for name, one in manifest["outputs"].items() if one.get("loader") and one.get("version")}
    assert openers == set(result.files) - unread


def _check_program(cell: Cell, result: Done, subtests: pytest.Subtests) -> None:
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


def _check_weights(cell: Cell, result: Done) -> None:
    found, uploaded = opened.tensors(result.files), transformer()
    assert {found[f"{name}.weight"].dtype for name in PROJECTIONS} == {STORED[cell.recipe]}
    kept = [name for name in uploaded if name.removesuffix(".weight") not in (*PROJECTIONS, "lm_head")]
    assert all(torch.equal(found[name], uploaded[name]) for name in kept)


def _check_folder(cell: Cell, result: Done, uploads: Uploads, folder: Path) -> None:
    members, uploaded = opened.members(result.files), uploads.files(cell)
    assert members == {name: result.files[name] for name in members}
    assert set(result.files) - set(members) == {"model.tar", "report.json", "manifest.json"}
    assert all(members[name] == uploaded[name] for name in CARRIED & set(uploaded))
    made, kind = uploads.networks[folder_of(cell)], FOLDERS[folder_of(cell)][1]
    loaded = opened.network(result.files, folder, kind)
    inputs = made.inputs if dataset_of(cell) == "texts" else {"input_ids": made.inputs["input_ids"]}
    with torch.no_grad():
        theirs, ours = (model(**inputs)[0] for model in (made.model, loaded))
    assert sqnr(theirs, ours) > LEAST_DB
    assert result.recipe["exclude"] == (["lm_head"] if "lm_head" in dict(made.model.named_modules()) else [])


def sqnr(reference: Tensor, other: Tensor) -> float:
    noise = Noise()
    noise.add(reference, other)
    return 400.0 if noise.db is None else noise.db
