"""Validation of a folder that somebody saved: from its files alone, or against the float program it came from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.networks import convolutional, projections
from zeropoint import quantize
from zeropoint.entrypoints.validate import Findings, Reference, run_by_hand, validate
from zeropoint.errors import InvalidModel, QuantizationError
from zeropoint.schema.job import EXIT_FAILED, EXIT_USAGE


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    example = convolutional()
    example.save_dataset(folder / "samples.safetensors")
    path = example.export(folder / "float.pt2")
    quantize(path, [example.dataset["x"]]).save(folder / "out")
    return folder


@pytest.fixture
def program(saved: Path, tmp_path: Path) -> Path:
    """A folder with the float program, its samples and, in out/, what quantizing it saved; the test's own copy."""
    return shutil.copytree(saved, tmp_path / "program")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    example = projections()
    quantize(example.module, [example.dataset["input"]]).save(tmp_path / "out")
    return tmp_path


def verdicts(findings: Findings) -> dict[str, bool]:
    return {check.name: check.passed for check in findings.checks}


def test_files_alone_answer_three_questions(program: Path) -> None:
    findings = validate(program / "out")
    assert verdicts(findings) == {"size": True, "load_and_run": True, "weight_range": True}
    assert (findings.verdict, findings.report) == ("not_evaluated", None)


def test_a_whole_module_is_validated_too(module: Path) -> None:
    assert all(verdicts(validate(module / "out")).values())


def test_the_float_program_and_samples_give_the_whole_report(program: Path) -> None:
    findings = validate(program / "out", Reference(program / "float.pt2", program / "samples.safetensors"))
    assert verdicts(findings) == dict.fromkeys(["sqnr", "size", "load_and_run", "weight_range"], True)
    assert findings.report is not None
    assert findings.report.summary.cosine is not None
    assert findings.report.summary.cosine > 0.999
    assert all(layer.output_sqnr_db and layer.saturation is not None for layer in findings.report.layers)


def test_without_samples_the_float_program_tells_how_far_weights_moved(program: Path) -> None:
    findings = validate(program / "out", Reference(program / "float.pt2"))
    assert verdicts(findings) == {"size": True, "load_and_run": True, "weight_range": True}
    assert findings.report is not None
    assert findings.report.layers[0].weight_sqnr_db is not None


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "out" / "model.safetensors"
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, path, metadata)


def test_a_changed_integer_does_not_agree_with_the_checkpoint(module: Path) -> None:
    rewrite(module, lambda tensors: tensors["key.weight"][0].fill_(0))
    assert verdicts(validate(module / "out")) == {"size": True, "load_and_run": False, "weight_range": True}


def test_an_integer_off_its_grid_is_found(module: Path) -> None:
    rewrite(module, lambda tensors: tensors["key.weight"][0].fill_(-128))
    findings = validate(module / "out")
    assert not verdicts(findings)["weight_range"]
    assert "'key'" in next(check.detail for check in findings.checks if check.name == "weight_range")


@pytest.mark.parametrize("value", [0.0, float("nan"), -1.0])
def test_a_scale_that_is_not_valid_is_found(module: Path, value: float) -> None:
    rewrite(module, lambda tensors: tensors["query.weight_scale"].fill_(value))
    assert not verdicts(validate(module / "out"))["weight_range"]


def test_another_float_model_is_refused_by_name(program: Path) -> None:
    other = projections().export(program / "other.pt2")
    with pytest.raises(InvalidModel, match=r"'features\.0'"):
        validate(program / "out", Reference(other))


def test_the_program_prints_json_and_its_exit_code_tells(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_by_hand(program / "out", None, None) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "not_evaluated"
    rewrite(program, lambda tensors: tensors["head.weight"][0].fill_(-128))
    assert run_by_hand(program / "out", None, None) == 1


def test_a_folder_without_a_model_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_by_hand(tmp_path, None, None) == 1
    assert "model.safetensors" in capsys.readouterr().err


def with_metadata(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Rewrite a file's metadata, as somebody might by hand."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    change(metadata)
    save_file(load_file(path), path, metadata)


def wrong_recipe(metadata: dict[str, str]) -> None:
    about = json.loads(metadata["zeropoint"])
    about["recipe"]["weights"]["dtype"] = "int7"
    metadata["zeropoint"] = json.dumps(about)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (wrong_recipe, "recipe_invalid", "/recipe/weights/dtype must be"),
        (lambda metadata: metadata.update(zeropoint="{"), "saved_model_invalid", "not JSON"),
        (lambda metadata: metadata.update(zeropoint="[]"), "saved_model_invalid", "no objects"),
        (lambda metadata: metadata.update(zeropoint='{"schema_version": 1}'), "saved_model_invalid", "'recipe'"),
    ],
)
def test_metadata_that_somebody_changed_is_refused_with_the_place(
    module: Path, change: Callable[[dict[str, str]], object], code: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with_metadata(module / "out" / "model.safetensors", change)
    with pytest.raises(QuantizationError) as raised:
        validate(module / "out")
    assert (raised.value.code, named in raised.value.detail) == (code, True), raised.value.detail
    assert run_by_hand(module / "out", None, None) == EXIT_FAILED
    assert named in capsys.readouterr().err


def test_paths_that_are_not_there_give_a_sentence(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, model, dataset in (
        (module / "none", None, None),
        (module / "out", module / "none.pt2", None),
        (module / "out", module / "out" / "report.json", module / "none.safetensors"),
    ):
        assert run_by_hand(folder, model, dataset) == EXIT_USAGE
        assert "none" in capsys.readouterr().err
