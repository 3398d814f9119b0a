"""What the worker takes from a child's out/ folder, and what it refuses."""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from app.jobs.claims import Claim, Input
from app.jobs.work import QuantizeWork, SweepWork
from app.storage import LocalStorage
from tests.factories import content_of
from worker.outputs.publish import (
    ERROR_CAP,
    OutputError,
    outputs,
    read_failure,
    read_report,
    read_result,
    store,
    store_manifest,
)
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import CalibrationReport, EvaluationReport, Report, Summary
from zeropoint.schema.runtimes import RuntimeReport
from zeropoint.schema.sweep import SweepEntry, SweepReport

REPORT = Report(
    verdict="passed",
    summary=Summary(
        sqnr_db=40.0,
        exact=False,
        original_bytes=4,
        quantized_bytes=1,
        compression_ratio=4.0,
        dead_bytes=0,
        layers_quantized=1,
        layers_skipped=0,
    ),
    checks=[],
    layers=[],
    skipped=[],
    calibration=CalibrationReport(samples=1, batches=1, batch_size=1, passes=1, reused=False),
    evaluation=EvaluationReport(source="calibration_samples", samples=1),
    timings={},
    peak_memory_bytes=1,
    recipe=Recipe(),
    versions={"torch": "2.13.0"},
)


def claim(recipe: Recipe | None = None) -> Claim:
    return Claim(
        job_id="job_1",
        token=1,
        attempt=1,
        work=QuantizeWork(recipe or Recipe()),
        device="cpu",
        running_seconds=60,
        model=Input("a" * 64, 10, "c" * 64, 11),
        model_format="pt2",
        dataset=Input("b" * 64, 20, "d" * 64, 21),
        evaluation_dataset=None,
    )


def safetensors(header: object, body: bytes = b"0123") -> bytes:
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + body


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder as a successful child leaves it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(safetensors({"w": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}))
    with zipfile.ZipFile(out / "model.pt2", "w") as program:
        program.writestr("model/archive_format", "pt2")
    (out / "report.json").write_text(REPORT.model_dump_json())
    return tmp_path


def test_a_complete_output_is_taken(folder: Path) -> None:
    assert list(outputs(folder, claim())) == ["model.pt2", "model.safetensors", "report.json"]


def test_a_recipe_that_names_formats_gets_those_and_safetensors(folder: Path) -> None:
    (folder / "out" / "model.pt2").unlink()
    wanted = claim(Recipe(formats=("safetensors",)))
    assert list(outputs(folder, wanted)) == ["model.safetensors", "report.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2", "report.json"])
def test_a_missing_file_is_refused(name: str, folder: Path) -> None:
    (folder / "out" / name).unlink()
    with pytest.raises(OutputError):
        outputs(folder, claim())


def test_a_file_too_many_is_refused(folder: Path) -> None:
    (folder / "out" / "extra").touch()
    with pytest.raises(OutputError):
        outputs(folder, claim())


def test_a_link_to_another_file_is_refused(folder: Path) -> None:
    (folder / "out" / "model.pt2").unlink()
    (folder / "out" / "model.pt2").symlink_to("/etc/passwd")
    with pytest.raises(OutputError):
        outputs(folder, claim())


def test_more_bytes_than_a_model_can_become_are_refused(folder: Path) -> None:
    with (folder / "out" / "model.pt2").open("r+b") as program:
        program.truncate(200 << 20)
    with pytest.raises(OutputError, match="more than"):
        outputs(folder, claim())


ENTRY = {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"tensors",
        (1 << 40).to_bytes(8, "little"),
        safetensors([]),
        safetensors({"w": ENTRY}, b"01234"),
        safetensors({"w": ENTRY}, b"012"),
        safetensors({"w": ENTRY | {"shape": [5]}}),
        safetensors({"w": ENTRY | {"shape": [-2, -2]}}),
        safetensors({"w": ENTRY | {"dtype": "PICKLE"}}),
        safetensors({"w": ENTRY | {"data_offsets": [1, 5]}}, b"01234"),
        safetensors({"w": ENTRY, "v": ENTRY}),
        safetensors({"w": ENTRY | {"more": 1}}),
        safetensors({"w": ENTRY, "__metadata__": {"a": 1}}),
    ],
)
def test_weights_that_are_not_honest_safetensors_are_refused(content: bytes, folder: Path) -> None:
    (folder / "out" / "model.safetensors").write_bytes(content)
    with pytest.raises(OutputError, match=r"model\.safetensors"):
        outputs(folder, claim())


def test_honest_safetensors_with_metadata_are_taken(folder: Path) -> None:
    content = safetensors({"w": ENTRY, "empty": ENTRY | {"shape": [0], "data_offsets": [4, 4]}, "__metadata__": {}})
    (folder / "out" / "model.safetensors").write_bytes(content)
    assert len(outputs(folder, claim())) == 3


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, None], ids=["deflated", "no_zip"])
def test_a_program_that_is_no_plain_archive_is_refused(compression: int | None, folder: Path) -> None:
    path = folder / "out" / "model.pt2"
    if compression is None:
        path.write_bytes(b"program")
    else:
        with zipfile.ZipFile(path, "w", compression) as program:
            program.writestr("model/archive_format", "pt2" * 1000)
    with pytest.raises(OutputError, match=r"model\.pt2"):
        outputs(folder, claim())


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """A sweep's folder as a successful child leaves it."""
    (tmp_path / "out").mkdir()
    table = SweepReport(
        rows=[],
        pareto=[],
        calibration=REPORT.calibration,
        evaluation=REPORT.evaluation,
        timings={},
        peak_memory_bytes=1,
        versions={"torch": "2.13.0"},
    )
    (tmp_path / "out" / "sweep.json").write_text(table.model_dump_json())
    return tmp_path


def sweeping() -> Claim:
    return replace(claim(), work=SweepWork((SweepEntry(name="a", recipe=Recipe()),)))


def test_a_sweep_leaves_its_table_alone(swept: Path, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "storage")
    (product,) = store(outputs(swept, sweeping()), storage)
    result = read_result(swept, sweeping())
    manifest = store_manifest(sweeping(), result, [product], storage)
    content = json.loads(content_of(storage, manifest.blob.sha256))
    assert (product.name, product.kind) == ("sweep.json", "sweep")
    assert set(content["outputs"]) == {"sweep.json"}
    assert [entry["name"] for entry in content["sweep"]["recipes"]] == ["a"]
    assert "recipe" not in content


@pytest.mark.parametrize("name", ["report.json", "model.safetensors"])
def test_a_sweep_that_leaves_something_else_is_refused(swept: Path, name: str) -> None:
    (swept / "out" / name).touch()
    with pytest.raises(OutputError, match=r"\['" + name):
        outputs(swept, sweeping())


def test_a_job_that_leaves_a_table_is_refused(folder: Path) -> None:
    (folder / "out" / "sweep.json").write_text("{}")
    with pytest.raises(OutputError):
        outputs(folder, claim())


def test_a_malformed_table_is_refused(swept: Path) -> None:
    (swept / "out" / "sweep.json").write_text('{"rows": []}')
    with pytest.raises(OutputError):
        read_result(swept, sweeping())


def test_no_output_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        outputs(tmp_path, claim())


def test_an_output_folder_that_is_a_link_is_refused(folder: Path) -> None:
    out = folder / "out"
    out.symlink_to(out.rename(folder / "elsewhere"))
    with pytest.raises(OutputError):
        outputs(folder, claim())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"verdict": "splendid"}'])
def test_a_malformed_report_is_refused(content: str, folder: Path) -> None:
    (folder / "out" / "report.json").write_text(content)
    with pytest.raises(OutputError):
        read_report(folder)


def test_a_report_behind_a_link_is_refused(folder: Path) -> None:
    report = folder / "out" / "report.json"
    report.symlink_to(report.rename(folder / "elsewhere.json"))
    with pytest.raises(OutputError):
        read_report(folder)


def test_a_reason_that_is_too_long_is_refused(folder: Path) -> None:
    reason = {"code": "a", "title": "a", "detail": "a" * ERROR_CAP, "remedy": "a"}
    (folder / "out" / "error.json").write_text(json.dumps(reason))
    with pytest.raises(OutputError):
        read_failure(folder)


@pytest.mark.parametrize("code", ["", "Bad", "a b", "x" * 65, "<script>", "unheard_of"])
def test_a_reason_whose_code_is_no_code_is_refused(code: str, folder: Path) -> None:
    reason = {"code": code, "title": "a", "detail": "a", "remedy": "a"}
    (folder / "out" / "error.json").write_text(json.dumps(reason))
    with pytest.raises(OutputError):
        read_failure(folder)


def test_the_manifest_has_the_numbers_of_each_artifact_in_each_runtime(folder: Path, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "storage")
    products = store(outputs(folder, claim()), storage)
    row = {"runtime": "inductor", "version": "2.13.0", "level": "avx2", "basis": "modelled", "sqnr_db": 39.5}
    rows = [RuntimeReport.model_validate({**row, "artifact": "model.pt2", "samples": 64, "reason": "No compiler."})]
    product = store_manifest(claim(), REPORT.model_copy(update={"runtimes": rows}), products, storage)
    manifest = json.loads(content_of(storage, product.blob.sha256))
    (told,) = manifest["outputs"]["model.pt2"]["runtimes"]
    assert told.items() >= (row | {"samples": 64, "reason": "No compiler."}).items()
    assert "runtimes" not in manifest["outputs"]["report.json"]


def test_the_manifest_lists_what_went_in_and_what_came_out(folder: Path, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "storage")
    products = store(outputs(folder, claim()), storage)
    product = store_manifest(claim(), REPORT, products, storage)
    program = (folder / "out" / "model.pt2").read_bytes()
    manifest = json.loads(content_of(storage, product.blob.sha256))
    assert (product.name, product.kind) == ("manifest.json", "manifest")
    assert manifest["inputs"] == {
        "model": {"sha256": "c" * 64, "bytes": 11, "stored_sha256": "a" * 64},
        "dataset": {"sha256": "d" * 64, "bytes": 21, "stored_sha256": "b" * 64},
    }
    assert manifest["outputs"]["model.pt2"] == {"sha256": hashlib.sha256(program).hexdigest(), "bytes": len(program)}
    assert Recipe.model_validate(manifest["recipe"]) == Recipe()
    assert (manifest["job"], manifest["attempt"], manifest["seed"]) == ("job_1", 1, 0)
    assert manifest["versions"] == {"torch": "2.13.0"}
