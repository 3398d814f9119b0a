"""Every upload × recipe × format that makes sense, by the job's program in this process: from the gate to the storage.

`tests/service/test_formats.py` takes some of them through the whole service, and submits all.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.intake.gate import pass_gate
from app.intake.limits import Limits
from app.jobs.claims import Claim, Input
from app.jobs.work import QuantizeWork
from app.storage import LocalStorage, Storage
from tests.factories import content_of
from tests.job_program import run_job
from tests.matrix import ACCEPTED, SOURCES, Cell
from tests.matrix_jobs import (
    FOLDERS,
    JOBS,
    OVER_HTTP,
    Done,
    Uploads,
    check,
    dataset_of,
    folder_of,
    model_of,
    name_of,
    recipe_of,
)
from worker.outputs.publish import outputs, read_report, store, store_manifest
from zeropoint.schema.job import EXIT_OK, JOB_FILE, JobSpec
from zeropoint.schema.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Uploads:
    return Uploads.write(tmp_path_factory.mktemp("uploads"))


@pytest.fixture(scope="module")
def gated(uploads: Uploads, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """What the gate writes in place of each model."""
    folder = tmp_path_factory.mktemp("gated")
    for name, path in uploads.models.items():
        pieces: list[bytes] = []
        pass_gate("model", path, Limits(), pieces.append)
        (folder / name).write_bytes(b"".join(pieces))
    return {name: folder / name for name in uploads.models}


def test_every_source_and_recipe_that_is_accepted_has_a_job() -> None:
    assert {(cell.source, cell.recipe) for cell in JOBS} == {(s, recipe) for s in SOURCES for recipe in ACCEPTED[s]}
    assert {folder_of(cell) for cell in JOBS if cell.source == "huggingface"} == set(FOLDERS)
    assert set(OVER_HTTP) < set(JOBS)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("cell", [cell for cell in JOBS if cell not in OVER_HTTP], ids=name_of)
def test_what_makes_sense_is_done_and_opens(
    uploads: Uploads,
    gated: Mapping[str, Path],
    tmp_path: Path,
    *,
    subtests: pytest.Subtests,
    cell: Cell,
) -> None:
    claim = claim_of(cell, uploads, gated)
    folder = tmp_path / "job"
    prepare(cell, claim, uploads, gated, folder)
    assert run_job(folder) == EXIT_OK, [path.read_text() for path in folder.glob("out/error.json")]
    files = published(folder, claim, LocalStorage(tmp_path / "storage"))
    result = Done(claim.job_id, claim.work.recipe.model_dump(mode="json"), files)
    check(cell, result, uploads, tmp_path / "network", subtests)


def claim_of(cell: Cell, uploads: Uploads, gated: Mapping[str, Path]) -> Claim:
    """The claim of a job as it is after the submit: its recipe is whole."""
    made = uploads.networks[folder_of(cell)].model if cell.source == "huggingface" else None
    layers = [] if made is None else [name for name, _ in made.named_modules()]
    dataset = dataset_of(cell)
    return Claim(
        job_id="job_1",
        token=1,
        attempt=1,
        work=QuantizeWork(Recipe.model_validate(recipe_of(cell))).completed(cell.source, layers),
        device="cpu",
        running_seconds=60,
        model=_input(gated[model_of(cell)]),
        model_format=cell.source,
        dataset=None if dataset is None else _input(uploads.datasets[dataset]),
        evaluation_dataset=None,
    )


def prepare(cell: Cell, claim: Claim, uploads: Uploads, gated: Mapping[str, Path], folder: Path) -> None:
    """Write the folder of a job, as a worker does."""
    folder.mkdir()
    (folder / "model").symlink_to(gated[model_of(cell)])
    dataset = dataset_of(cell)
    if dataset is not None:
        (folder / "dataset").symlink_to(uploads.datasets[dataset])
    spec = JobSpec(
        model="model", format=cell.source, dataset=None if dataset is None else "dataset", recipe=claim.work.recipe
    )
    (folder / JOB_FILE).write_text(spec.model_dump_json())


def published(folder: Path, claim: Claim, storage: Storage) -> dict[str, bytes]:
    """What a worker makes of the folder when the program has ended: the artifacts by name."""
    report = read_report(folder)
    products = store(outputs(folder, claim), storage)
    products.append(store_manifest(claim, report, products, storage))
    return {product.name: content_of(storage, product.blob.sha256) for product in products}


def _input(path: Path) -> Input:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Input(digest, len(content), digest, len(content))
