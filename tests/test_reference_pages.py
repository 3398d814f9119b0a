"""The tables of docs/reference say what the code says: recipe keys, settings, commands, addresses."""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import zeropoint.__main__
from app import cli
from app.main import create_app
from app.settings import Settings
from tests.servers import ROOT
from zeropoint.schema.algorithms import AlgorithmSettings
from zeropoint.schema.job import JobSpec
from zeropoint.schema.metadata import FileMetadata, FileStatistics, LayerMetadata, LayerStatistics, WeightMetadata
from zeropoint.schema.recipe import (
    ActivationSettings,
    CalibrationSettings,
    ObserverSettings,
    Override,
    Recipe,
    ValidationSettings,
    WeightSettings,
)
from zeropoint.schema.report import WarningCode
from zeropoint.schema.runtimes import Basis, ProcessorLevel, RuntimeName, RuntimeReport
from zeropoint.schema.target import AccuracyTarget, MaxDrop

REFERENCE = ROOT / "docs" / "reference"
ROW = re.compile(r"^\| (`[^|]+`) \| ([^|]*) \| ([^|]*) \| [^|]+ \|$", re.MULTILINE)

KINDS: Mapping[str, type[BaseModel]] = {
    model.model_fields["kind"].default: model
    for union in (AlgorithmSettings, ObserverSettings)
    for model in get_args(get_args(union)[0])
}
MODELS: Mapping[str, type[BaseModel]] = {
    "The recipe": Recipe,
    "`weights`": WeightSettings,
    "`activations`": ActivationSettings,
    "`overrides`": Override,
    "`calibration`": CalibrationSettings,
    "`validation`": ValidationSettings,
    "`target`": AccuracyTarget,
    "`target.max_drop`": MaxDrop,
    **{f"`{kind}`": model for kind, model in KINDS.items()},
}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "under"}


def _words(schema: Mapping[str, Any]) -> str:
    """Return what a JSON schema allows, as the tables say it."""
    if "anyOf" in schema:
        return " or ".join(sorted((_words(choice) for choice in schema["anyOf"]), key=lambda words: words != "null"))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_words(schema['items'])}"
    if "$ref" in schema or "discriminator" in schema:
        return "object"
    bounds = [f"{word} {schema[key]}" for key, word in BOUNDS.items() if key in schema]
    return ", ".join([schema["type"], *bounds])


def _rows(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Return key, type and default of each field, as the table of the model must have them."""
    properties = model.model_json_schema()["properties"]
    rows = []
    for name, schema in properties.items():
        if name == "kind":  # the heading
            continue
        required = model.model_fields[name].is_required()
        default = "required" if required else f"`{json.dumps(schema['default'])}`"
        if isinstance(schema.get("default"), dict):
            default = "its defaults"
        rows.append((f"`{name}`", _words(schema), default))
    return rows


def _sections(page: str) -> dict[str, str]:
    """Return the text of each section of a page, by its heading."""
    parts = re.split(r"^#{2,4} (.+)$", (REFERENCE / page).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("heading", MODELS)
def test_the_recipe_page_has_every_key_with_its_type_and_default(heading: str) -> None:
    assert ROW.findall(_sections("recipe.md")[heading]) == _rows(MODELS[heading])


def test_the_command_line_page_has_every_key_of_a_job_folder() -> None:
    assert ROW.findall(_sections("cli.md")["The folder of a job"]) == _rows(JobSpec)


def test_the_report_page_has_every_warning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", _sections("report.md")["Warnings"], re.MULTILINE)
    assert rows == list(get_args(WarningCode))


def test_the_report_page_has_every_key_of_a_runtime() -> None:
    section = _sections("report.md")["Runtimes"]
    assert [name for name in RuntimeReport.model_fields if f"`{name}`" not in section] == []
    words = [word for field in (RuntimeName, ProcessorLevel, Basis) for word in get_args(field)]
    assert [word for word in words if f"`{word}`" not in section] == []


def test_the_artifacts_page_has_every_key_of_the_metadata() -> None:
    section = _sections("artifacts.md")["`model.safetensors`"]
    for model in (FileMetadata, LayerMetadata, FileStatistics, LayerStatistics, WeightMetadata):
        missing = {name for name in model.model_fields if not re.search(rf"`(\w+\.)?{name}[`.]", section)}
        assert missing <= {"quant_min", "quant_max"}, model


def _settings() -> Iterator[tuple[str, str, str]]:
    properties = Settings.model_json_schema()["properties"]
    for name, field in Settings.model_fields.items():
        yield f"`ZEROPOINT_{name.upper()}`", f"`{field.default}`", _words(properties[name])


def test_the_settings_page_has_every_setting_with_its_default_and_bounds() -> None:
    assert ROW.findall((REFERENCE / "settings.md").read_text()) == list(_settings())


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"`{parser.prog} {name}`", command


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            name = ", ".join(action.option_strings) or action.dest.upper()
            yield f"`{name}`", "" if action.default is None or not action.option_strings else f"`{action.default}`"


@pytest.mark.parametrize("parser", [cli._parser(), zeropoint.__main__._parser()], ids=["zeropoint", "python -m"])
def test_the_command_line_page_has_every_command_and_option(parser: argparse.ArgumentParser) -> None:
    sections = _sections("cli.md")
    for heading, command in _commands(parser):
        rows = re.findall(r"^\| (`[^|]+`) \| ([^|]*) \| [^|]+ \|$", sections[heading], re.MULTILINE)
        assert rows == list(_options(command)), heading


def test_the_api_page_has_every_call() -> None:
    app = create_app(Settings(database_url="sqlite://"), reconciles=False)
    served = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    page = (REFERENCE / "api.md").read_text()
    listed = {
        (method, path)
        for methods, path in re.findall(r"^\| `([A-Z, ]+) (/[^`?]*)(?:\?[^`]*)?` \|", page, re.MULTILINE)
        for method in methods.split(", ")
    }
    assert listed == served
