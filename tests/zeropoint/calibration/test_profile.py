"""Calibrate once, quantize again: what a profile holds, when it is refused, and that it replaces the forward pass."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import job_program
from tests.networks import audio, convolutional
from zeropoint.calibration.cached_profile import key_of
from zeropoint.calibration.collect import Wanted, collect, everything
from zeropoint.calibration.profile import HEADER_KEY, Profile, load_profile, profile_key, save_profile
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import QuantizationPlan, plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.errors import InvalidProfile
from zeropoint.formats.safetensors import write_safetensors
from zeropoint.model.source import ProgramSource
from zeropoint.schema.job import (
    ERROR_FILE,
    EXIT_FAILED,
    EXIT_OK,
    OUT_FOLDER,
    PROFILE_FILE,
    REPORT_FILE,
    Failure,
    JobSpec,
)
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import Report
from zeropoint.sources.program import open_uploaded_program

MSE = Recipe.model_validate({"activations": {"observer": {"kind": "mse"}}})


def silent(*_: object) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def planned(tmp_path: Path) -> tuple[ProgramSource, QuantizationPlan]:
    source = open_uploaded_program(convolutional().export(tmp_path / "model.pt2"), "cpu")
    samples = open_dataset(convolutional().save_dataset(tmp_path / "dataset.safetensors"), source.inputs, 8)
    return source, plan(source, Recipe(), samples)


@pytest.fixture
def profile(planned: tuple[ProgramSource, QuantizationPlan]) -> Profile:
    source, decided = planned
    assert decided.calibration is not None
    names = {layer.name for layer in source.layers}
    return collect(source, source.layers, decided.calibration, silent, Wanted(names, names))


def run_job(folder: Path, **spec: object) -> int:
    wishes = {"model": "model.pt2", "dataset": "dataset.safetensors", **spec}
    (folder / "job.json").write_text(JobSpec.model_validate(wishes).model_dump_json())
    return job_program.run_job(folder)


def test_a_profile_is_read_back_as_it_was_saved(tmp_path: Path, profile: Profile) -> None:
    save_profile(profile, "key", tmp_path / "a")
    again = load_profile(tmp_path / "a", "key")
    assert again.reused
    assert (again.samples, again.batches, again.batch_size) == (profile.samples, profile.batches, profile.batch_size)
    assert list(again.layers) == list(profile.layers) == ["features.0", "features.3", "head"]
    for name, statistics in profile.layers.items():
        found = again.layers[name]
        assert (found.count, found.minimum, found.maximum) == (
            statistics.count,
            statistics.minimum,
            statistics.maximum,
        )
        assert found.early == statistics.early
        assert found.histogram is not None
        assert statistics.histogram is not None
        assert torch.equal(found.histogram.counts, statistics.histogram.counts)
        assert (found.histogram.exponent, found.histogram.zeros) == (
            statistics.histogram.exponent,
            statistics.histogram.zeros,
        )


def test_the_same_statistics_give_the_same_bytes(tmp_path: Path, profile: Profile) -> None:
    save_profile(profile, "key", tmp_path / "a")
    save_profile(load_profile(tmp_path / "a", "key"), "key", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_key_knows_model_and_samples_and_how_they_were_used() -> None:
    keys = {
        profile_key("a", "b", 8, 4),
        profile_key("b", "a", 8, 4),
        profile_key("a", "b", 9, 4),
        profile_key("a", "b", 8, 5),
    }
    assert len(keys) == 4
    assert profile_key("a", "b", 8, 4) in keys


def test_the_key_is_of_the_upload_and_not_of_what_a_recipe_made_of_it(tmp_path: Path) -> None:
    path = convolutional().export(tmp_path / "model.pt2")
    plain, folded = (open_uploaded_program(path, "cpu", fold=fold) for fold in (False, True))
    samples = open_dataset(convolutional().save_dataset(tmp_path / "dataset.safetensors"), plain.inputs, 8)
    assert set(plain.tensors) != set(folded.tensors)
    assert key_of(plain, samples) == key_of(folded, samples) != key_of(plain, samples.between(0, 8))
    with torch.no_grad():
        plain.original["unused.bias"].add_(1)
    assert key_of(plain, samples) != key_of(folded, samples)
    assert key_of(replace(folded, structure=folded.structure + "\naten.gelu"), samples) != key_of(folded, samples)


def test_a_profile_with_another_key_is_refused(tmp_path: Path, profile: Profile) -> None:
    save_profile(profile, "key", tmp_path / "a")
    with pytest.raises(InvalidProfile) as refusal:
        load_profile(tmp_path / "a", "another")
    assert refusal.value.code == "profile_does_not_match"


@pytest.mark.parametrize("damage", ["cut", "no header", "count", "missing"])
def test_a_damaged_profile_is_refused(tmp_path: Path, profile: Profile, damage: str) -> None:
    path = tmp_path / "a"
    save_profile(profile, "key", path)
    tensors = load_file(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "no header":
            save_file(tensors, path)
        case "count":
            tensors["head.histogram"][0] += 1
            save_file(tensors, path, metadata)
        case "missing":
            save_file({name: t for name, t in tensors.items() if name != "head.histogram"}, path, metadata)
    with pytest.raises(InvalidProfile) as refusal:
        load_profile(path, "key")
    assert refusal.value.code == "profile_invalid"


def test_the_header_names_its_schema_and_holds_no_path(tmp_path: Path, profile: Profile) -> None:
    save_profile(profile, "key", tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][HEADER_KEY]
    assert json.loads(header)["schema_version"] == 2
    assert str(tmp_path) not in header


@pytest.mark.parametrize(
    "recipe",
    [r.model_copy(update={"sensitivity": False, "target_isa": "vnni"}) for r in (Recipe(), MSE)],
    ids=["minmax", "mse"],
)
def test_reuse_runs_no_forward_pass_and_gives_the_same_bytes(
    tmp_path: Path, planned: tuple[ProgramSource, QuantizationPlan], profile: Profile, recipe: Recipe
) -> None:
    source, _ = planned
    decided = plan(source, recipe, open_dataset(tmp_path / "dataset.safetensors", source.inputs, 8))
    passes: list[int] = []
    source.module.register_forward_hook(lambda *_: passes.append(1))
    fresh = quantize_source(source, recipe, decided, silent)
    assert fresh.calibration.batches == len(passes) > 1
    passes.clear()
    save_profile(profile, "key", tmp_path / "profile")
    reused = quantize_source(source, recipe, decided, silent, load_profile(tmp_path / "profile", "key"))
    assert passes == []
    assert (reused.calibration.reused, reused.calibration.passes) == (True, 0)
    for name, result in (("fresh", fresh), ("reused", reused)):
        write_safetensors(result, tmp_path / name)
    assert (tmp_path / "fresh").read_bytes() == (tmp_path / "reused").read_bytes()


ONNX = Recipe.model_validate({"formats": ["onnx"]})


def test_a_kept_profile_has_what_onnx_needs(tmp_path: Path, planned: tuple[ProgramSource, QuantizationPlan]) -> None:
    source, decided = planned
    assert decided.calibration is not None
    kept = collect(source, source.layers, decided.calibration, silent, everything(source.layers))
    save_profile(kept, "key", tmp_path / "profile")
    fresh = quantize_source(source, ONNX, decided, silent)
    reused = quantize_source(source, ONNX, decided, silent, load_profile(tmp_path / "profile", "key"))
    outputs = [[layer.output and layer.output.qparams for layer in result.layers] for result in (fresh, reused)]
    assert str(outputs[0]) == str(outputs[1])
    assert [qparams is not None for qparams in outputs[0]] == [True, True, False]


def test_a_profile_without_what_onnx_needs_is_refused(
    planned: tuple[ProgramSource, QuantizationPlan], profile: Profile
) -> None:
    source, decided = planned
    with pytest.raises(InvalidProfile, match=r"output of layer 'features\.0'") as refusal:
        quantize_source(source, ONNX, decided, silent, profile)
    assert refusal.value.code == "profile_incomplete"


def test_a_profile_without_what_the_observer_needs_is_refused(
    tmp_path: Path, planned: tuple[ProgramSource, QuantizationPlan]
) -> None:
    source, decided = planned
    assert decided.calibration is not None
    plain = collect(source, source.layers, decided.calibration, silent, Wanted())
    wishes = plan(source, MSE, open_dataset(tmp_path / "dataset.safetensors", source.inputs, 8))
    with pytest.raises(InvalidProfile, match=r"'features\.0'") as refusal:
        quantize_source(source, MSE, wishes, silent, plain)
    assert refusal.value.code == "profile_incomplete"


def test_a_job_keeps_its_profile_and_another_recipe_reuses_it(tmp_path: Path) -> None:
    convolutional().export(tmp_path / "model.pt2")
    convolutional().save_dataset(tmp_path / "dataset.safetensors")
    assert run_job(tmp_path, keep_profile=True) == EXIT_OK
    assert {path.name for path in (tmp_path / OUT_FOLDER).iterdir()} == {"model.safetensors", "model.pt2", REPORT_FILE}
    (tmp_path / PROFILE_FILE).rename(tmp_path / "old.safetensors")
    assert run_job(tmp_path, profile="old.safetensors", recipe=MSE) == EXIT_OK
    told = Report.model_validate_json((tmp_path / OUT_FOLDER / REPORT_FILE).read_bytes())
    assert (told.calibration.reused, told.calibration.passes, told.calibration.samples) == (True, 0, 30)
    assert not (tmp_path / PROFILE_FILE).exists()


def test_a_job_with_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    convolutional().export(tmp_path / "model.pt2")
    convolutional().save_dataset(tmp_path / "dataset.safetensors")
    run_job(tmp_path, keep_profile=True)
    audio().export(tmp_path / "model.pt2")
    audio().save_dataset(tmp_path / "dataset.safetensors")
    assert run_job(tmp_path, profile=PROFILE_FILE) == EXIT_FAILED
    failure = Failure.model_validate_json((tmp_path / OUT_FOLDER / ERROR_FILE).read_bytes())
    assert failure.code == "profile_does_not_match"
    assert str(tmp_path) not in failure.model_dump_json()
