"""A job on a file of weights: what comes out, what is said of it, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.job_program import run_job
from tests.weight_files import PROJECTIONS, prepare, transformer
from zeropoint import load
from zeropoint.engine.streaming import _ranges
from zeropoint.entrypoints.validate import validate
from zeropoint.errors import InvalidModel
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.files.stream_writer import TensorWriter
from zeropoint.layers.selection import Choice
from zeropoint.layers.weights import dequantize_weight
from zeropoint.loading.stored import read_safetensors
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.job import EXIT_FAILED, EXIT_OK, Failure, Progress
from zeropoint.schema.report import Report

INT8: dict[str, Any] = {"activations": None}


def run(folder: Path, recipe: Any = None, tensors: dict[str, torch.Tensor] | None = None, **spec: object) -> int:
    """Do a job of weights alone; without a recipe, that of the folder."""
    if recipe is not None:
        prepare(folder, transformer() if tensors is None else tensors, recipe, **spec)
    return run_job(folder)


def report(folder: Path) -> Report:
    return Report.model_validate_json((folder / "out" / "report.json").read_bytes())


def failure(folder: Path) -> Failure:
    return Failure.model_validate_json((folder / "out" / "error.json").read_bytes())


def test_the_report_says_what_can_be_said_and_no_more(tmp_path: Path) -> None:
    assert run(tmp_path, INT8) == EXIT_OK
    told, tensors = report(tmp_path), transformer()
    assert told.verdict == "not_evaluated"
    assert (told.summary.sqnr_db, told.summary.exact, told.evaluation.source) == (None, False, "none")
    checks = {check.name: check for check in told.checks}
    assert {name: check.passed for name, check in checks.items()} == {
        "size": True,
        "load_and_run": True,
        "weight_range": True,
    }
    assert "Nothing was run: weights alone have no graph." in checks["load_and_run"].detail
    assert {layer.name for layer in told.layers} == {*PROJECTIONS, "lm_head"}
    stored = read_safetensors(tmp_path / "out" / "model.safetensors")
    for layer in told.layers:
        noise = Noise()
        noise.add(tensors[f"{layer.name}.weight"], dequantize_weight(*stored.weight(layer.name)))
        assert layer.weight_sqnr_db == pytest.approx(noise.db)
        assert layer.output_sqnr_db is None
    assert {skipped.name: skipped.reason for skipped in told.skipped} == {
        "model.embed_tokens": "type_skipped",
        "model.layers.0.input_layernorm": "unsupported",
        "model.layers.1.input_layernorm": "unsupported",
        "model": "unsupported",
        "model.mask": "unsupported",
    }
    assert told.summary.original_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert told.summary.quantized_bytes == sum(tensor.nbytes for tensor in stored.tensors.values())
    (loaded,) = told.loaded
    assert (loaded.name, loaded.loader) == ("model.safetensors", "safetensors.safe_open")


def test_the_header_explains_the_file(tmp_path: Path) -> None:
    run(tmp_path, {"weights": {"dtype": "int4"}, "exclude": ["lm_head"]})
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    about, layers = metadata.pop("zeropoint"), report(tmp_path).layers
    assert metadata.keys() == {f"zeropoint.layer.{name}" for name in PROJECTIONS}
    assert about["architecture"]["quantized"] == dict.fromkeys(PROJECTIONS, "Linear")
    assert about["statistics"]["quantized_bytes"] == report(tmp_path).summary.quantized_bytes
    for layer in layers:
        said = metadata[f"zeropoint.layer.{layer.name}"]
        assert said["statistics"]["weight_sqnr_db"] == layer.weight_sqnr_db
        assert (said["weight"]["shape"], said["weight"]["group_size"]) == (layer.weight.shape, 32)


def test_names_types_and_overrides_choose_as_for_other_models(tmp_path: Path) -> None:
    recipe = {
        **INT8,
        "layer_types": ["Linear", "Embedding"],
        "skip_layers": [],
        "exclude": ["lm_head"],
        "overrides": [{"names": ["*.0.mlp.*"], "weights": {"dtype": "int4"}}, {"names": ["*.q_proj"], "weights": None}],
    }
    assert run(tmp_path, recipe) == EXIT_OK
    told = report(tmp_path)
    assert {layer.name: layer.weight.dtype for layer in told.layers} == {
        "model.embed_tokens": "qint8",
        "model.layers.0.mlp.down_proj": "int4",
        "model.layers.1.mlp.down_proj": "qint8",
    }
    assert {skip.reason for skip in told.skipped if "q_proj" in skip.name} == {"override"}


def test_the_same_job_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, {"weights": {"dtype": "int4"}})
        written.append((tmp_path / name / "out" / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_progress_counts_tensors_and_nothing_is_left_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zeropoint", "job", str(prepare(tmp_path, transformer(), INT8))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps = [Progress.model_validate_json(line) for line in done.stdout.splitlines()]
    assert list(dict.fromkeys(step.phase for step in steps)) == ["loading", "quantizing", "saving", "validating"]
    last = {step.phase: (step.done, step.total) for step in steps}
    assert last["quantizing"] == last["validating"] == (12, 12)
    assert {path.name for path in tmp_path.iterdir()} == {"job.json", "model.safetensors", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "report.json"}


def test_a_cast_to_another_float_of_that_size_is_no_failure(tmp_path: Path) -> None:
    assert run(tmp_path, {"weights": {"dtype": "float16"}}) == EXIT_OK
    (size,) = [check for check in report(tmp_path).checks if check.name == "size"]
    assert (size.passed, size.value) == (True, 1)


def test_a_cast_beyond_its_range_fails(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.tensor([[1.0, 1e5]])}
    assert run(tmp_path, {"weights": {"dtype": "float16"}}, tensors) == EXIT_FAILED
    assert failure(tmp_path).code == "validation_failed"
    assert [check.name for check in report(tmp_path).checks if not check.passed] == ["weight_range"]


@pytest.mark.parametrize(
    ("recipe", "spec", "code"),
    [
        ({}, {}, "recipe_does_not_fit"),
        ({**INT8, "validation": {"min_sqnr_db": 10}}, {}, "recipe_does_not_fit"),
        ({**INT8, "formats": ["pt2"]}, {}, "recipe_does_not_fit"),
        ({**INT8, "include": ["nothing.*"]}, {}, "recipe_matches_nothing"),
        ({**INT8, "exclude": ["*"]}, {}, "nothing_to_quantize"),
        (INT8, {"dataset": "model.safetensors"}, "dataset_does_not_fit"),
        (INT8, {"evaluation_dataset": "model.safetensors"}, "dataset_does_not_fit"),
    ],
)
def test_what_weights_alone_cannot_do_is_refused(
    tmp_path: Path, recipe: dict[str, Any], spec: dict[str, Any], code: str
) -> None:
    assert run(tmp_path, recipe, **spec) == EXIT_FAILED
    assert failure(tmp_path).code == code


def test_a_weight_that_is_not_finite_is_refused_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropoint.files.block_reader.BLOCK_VALUES", 200)
    tensors = transformer()
    tensors["lm_head.weight"][7, 3] = float("nan")
    assert run(tmp_path, INT8, tensors) == EXIT_FAILED
    assert failure(tmp_path).code == "non_finite_weights"
    assert "'lm_head.weight' holds NaN or infinity, first at index [7, 3]" in failure(tmp_path).detail


def test_names_that_are_taken_keep_a_weight_in_float(tmp_path: Path) -> None:
    tensors = transformer() | {"lm_head.weight_scale": torch.ones(1)}
    assert run(tmp_path, INT8, tensors) == EXIT_OK
    (skipped,) = [skip for skip in report(tmp_path).skipped if skip.name == "lm_head"]
    assert skipped.reason == "unsupported"


@pytest.mark.parametrize("name", ["lm_head.weight", "model.step"])
def test_a_file_that_reads_otherwise_than_it_was_saved_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        length = int.from_bytes(data[:8], "little")
        start, _ = json.loads(data[8 : 8 + length])[name]["data_offsets"]
        data[8 + length + start] ^= 1
        path.write_bytes(data)

    def finish(writer: Any, path: Path, metadata: Any) -> None:
        original(writer, path, metadata)
        spoil(path)

    original = TensorWriter.finish
    monkeypatch.setattr(TensorWriter, "finish", finish)
    assert run(tmp_path, INT8) == EXIT_FAILED
    (check,) = [check for check in report(tmp_path).checks if check.name == "load_and_run"]
    assert not check.passed
    assert repr(name) in check.detail


def test_a_file_that_does_not_open_again_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorWriter, "finish", lambda _self, path, _metadata: path.write_bytes(b"hello"))
    assert run(tmp_path, INT8) == EXIT_FAILED
    failed = {check.name for check in report(tmp_path).checks if not check.passed}
    assert failed == {"load_and_run", "weight_range"}


class Killed(Exception):
    """The process dies here."""


class Mortal(Checkpoints):
    """Keeps each grid at once, and dies after so many."""

    lives = 2
    loads = 0

    @property
    def due(self) -> bool:
        return True

    def save(self, *what: Any) -> None:
        super().save(*what)
        type(self).lives -= 1
        if not self.lives:
            raise Killed


def test_a_job_goes_on_with_the_grids_that_were_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropoint.files.block_reader.BLOCK_VALUES", 1000)
    recipe = {"weights": {"dtype": "int4", "observer": {"kind": "mse"}}}
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    assert run(tmp_path / "whole", recipe) == EXIT_OK
    Mortal.lives = 2
    monkeypatch.setattr("zeropoint.entrypoints.weights.Checkpoints", Mortal)
    assert run(tmp_path / "cut", recipe, checkpoint_key="key") == EXIT_FAILED
    assert [path.name for path in sorted((tmp_path / "cut" / "checkpoints").iterdir())] == [
        "grids-0001.safetensors",
        "grids-0002.safetensors",
    ]
    monkeypatch.setattr("zeropoint.entrypoints.weights.Checkpoints", Checkpoints)
    searched: set[str] = set()

    def watched(choice: Choice, values: torch.Tensor) -> Any:
        searched.add(choice.layer.name)
        return _ranges(choice, values)

    monkeypatch.setattr("zeropoint.engine.streaming._ranges", watched)
    assert run(tmp_path / "cut") == EXIT_OK
    assert len(searched) == len(PROJECTIONS) + 1 - 2
    assert report(tmp_path / "cut").resumed == ["quantizing"]
    cut, whole = ((tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert cut == whole


def test_min_max_grids_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropoint.entrypoints.weights.Checkpoints", Mortal)
    assert run(tmp_path, INT8, checkpoint_key="key") == EXIT_OK
    assert not (tmp_path / "checkpoints").exists()


def test_the_saved_folder_is_validated_by_itself(tmp_path: Path) -> None:
    run(tmp_path, INT8)
    findings = validate(tmp_path / "out")
    assert findings.verdict == "not_evaluated"
    assert {check.name: check.passed for check in findings.checks} == dict.fromkeys(
        ["size", "load_and_run", "weight_range"], True
    )


def test_a_saved_folder_has_no_module_until_one_is_given(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    run(tmp_path, INT8, {name: tensor.contiguous() for name, tensor in module.state_dict().items()})
    with pytest.raises(InvalidModel, match="no program that computes") as refusal:
        load(tmp_path / "out")
    assert refusal.value.code == "float_module_required"
    x = torch.randn(5, 8)
    assert torch.allclose(load(tmp_path / "out", model=module).module(x), module(x), atol=0.05)
