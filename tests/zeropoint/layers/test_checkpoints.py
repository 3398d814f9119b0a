"""Finished layers come back as they were, whatever they are made of, and the others are made again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.networks import Example, attention, convolutional, projections
from tests.zeropoint.conftest import OpenExample
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import QuantizationPlan, plan
from zeropoint.engine.quantize import Resources, quantize_source
from zeropoint.files.checkpoints import Checkpoints
from zeropoint.formats import VALIDATED, WRITERS, write_formats
from zeropoint.layers.checkpoints import finished_layers
from zeropoint.layers.quantize import quantize_layer
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.selection import Choice
from zeropoint.model.source import ProgramSource
from zeropoint.schema.job import Phase
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.program import open_uploaded_program

RECIPES: dict[str, dict[str, object]] = {
    "static": {},
    "asymmetric": {"weights": {"scheme": "asymmetric", "granularity": "per_tensor"}},
    "mse": {"weights": {"observer": {"kind": "mse"}}},
    "float8": {"weights": {"dtype": "float8_e4m3"}, "activations": {"dtype": "float8_e4m3"}},
    "groups": {"weights": {"dtype": "int4", "group_size": 2}, "activations": None},
    "cast": {"weights": {"dtype": "float16"}, "activations": None},
}


class Death(Exception):
    """The machine is gone."""


def channels_last() -> Example:
    """Weights whose elements lie in another order."""
    example = convolutional()
    example.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return example


def prepared(example: Example, folder: Path, recipe: Recipe) -> tuple[ProgramSource, QuantizationPlan]:
    source = open_uploaded_program(example.export(folder / "model.pt2"), "cpu")
    samples = open_dataset(example.save_dataset(folder / "dataset.safetensors"), source.inputs, None)
    return source, plan(source, recipe, samples)


def files(quantized: Quantized, folder: Path) -> list[bytes]:
    folder.mkdir()
    return [(folder / WRITERS[name].file).read_bytes() for name in write_formats(quantized, folder, VALIDATED["pt2"])]


@pytest.mark.sampled(7)
@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch, of weights in channels-last order
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("make", [projections, channels_last, attention], ids=lambda make: make.__name__)
def test_files_are_the_same_after_an_interruption_at_any_layer(
    tmp_path: Path, name: str, make: Callable[[], Example]
) -> None:
    recipe = Recipe.model_validate(RECIPES[name])
    source, planned = prepared(make(), tmp_path, recipe)
    expected = files(quantize_source(source, recipe, planned, lambda *_: None), tmp_path / "whole")
    for left in range(1, len(planned.choices) + 1):

        def die(phase: Phase, done: int, _: int, left: int = left) -> None:
            if (phase, done) == ("quantizing", left):
                raise Death

        with pytest.raises(Death):
            quantize_source(
                source, recipe, planned, die, resources=Resources(Checkpoints(tmp_path / f"c{left}", "key"))
            )
        checkpoints = Checkpoints(tmp_path / f"c{left}", "key")
        steps: list[int] = []

        def step(phase: Phase, done: int, _: int, steps: list[int] = steps) -> None:
            if phase == "quantizing":
                steps.append(done)

        again = quantize_source(source, recipe, planned, step, resources=Resources(checkpoints))
        assert files(again, tmp_path / f"again{left}") == expected
        assert ("quantizing" in checkpoints.resumed) == (name != "cast")
        assert steps == list(range(left if name != "cast" else 1, len(planned.choices) + 1))


@pytest.fixture
def choices(opened: OpenExample) -> list[Choice]:
    return plan(opened(convolutional()), Recipe(activations=None), None).choices


def test_each_chunk_holds_the_layers_since_the_last(
    tmp_path: Path, choices: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [quantize_layer(choice, None) for choice in choices]
    finished = finished_layers(Checkpoints(tmp_path, "key"), choices)
    finished.add(layers[0].layer.name, layers[0])
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "due", False)
        finished.add(layers[1].layer.name, layers[1])
        assert [path.name for path in tmp_path.glob("layers-*")] == ["layers-0001.safetensors"]
    finished.add(layers[2].layer.name, layers[2])
    finished.close()
    assert sorted(path.name for path in tmp_path.glob("layers-*")) == [
        "layers-0001.safetensors",
        "layers-0002.safetensors",
    ]
    again = finished_layers(Checkpoints(tmp_path, "key"), choices)
    assert list(again.read()) == [layer.layer.name for layer in layers]


def test_a_chunk_that_is_lost_costs_its_layers_and_no_name_is_used_twice(tmp_path: Path, choices: list[Choice]) -> None:
    layers = [quantize_layer(choice, None) for choice in choices]
    finished = finished_layers(Checkpoints(tmp_path, "key"), choices)
    for layer in layers[:2]:
        finished.add(layer.layer.name, layer)
    (tmp_path / "layers-0001.safetensors").write_bytes(b"lost")
    again = finished_layers(Checkpoints(tmp_path, "key"), choices)
    assert list(again.read()) == [layers[1].layer.name]
    again.add(layers[0].layer.name, layers[0])
    assert sorted(path.name for path in tmp_path.glob("layers-*"))[-1] == "layers-0003.safetensors"
    assert len(finished_layers(Checkpoints(tmp_path, "key"), choices).read()) == 2


def test_a_chunk_of_other_weights_is_ignored(tmp_path: Path, choices: list[Choice]) -> None:
    finished_layers(Checkpoints(tmp_path, "key"), choices).add(choices[0].layer.name, quantize_layer(choices[0], None))
    other = replace(choices[1], layer=replace(choices[1].layer, name=choices[0].layer.name))
    assert finished_layers(Checkpoints(tmp_path, "key"), [other]).read() == {}
    assert finished_layers(Checkpoints(tmp_path, "key"), choices[1:]).read() == {}


@pytest.mark.parametrize("db", [None, 41.3, float("-inf"), float("nan")])
def test_what_has_no_number_in_json_comes_back_too(tmp_path: Path, choices: list[Choice], db: float | None) -> None:
    layer: QuantizedLayer = replace(quantize_layer(choices[0], None), weight_sqnr_db=db)
    finished_layers(Checkpoints(tmp_path, "key"), choices).add(layer.layer.name, layer)
    found = finished_layers(Checkpoints(tmp_path, "key"), choices).take(layer.layer.name)
    assert found is not None
    assert repr(found.weight_sqnr_db) == repr(db)


def test_a_short_phase_leaves_nothing(tmp_path: Path, choices: list[Choice]) -> None:
    finished = finished_layers(Checkpoints(tmp_path / "c", "key", 30.0), choices)
    finished.add(choices[0].layer.name, quantize_layer(choices[0], None))
    finished.close()
    assert not (tmp_path / "c").exists()
