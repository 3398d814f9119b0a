"""What the metadata of a file of weights must hold: its JSON Schema, and the numbers of validation."""

import json
import tempfile
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from safetensors import safe_open

import zeropoint.schema.metadata
from zeropoint.schema.metadata import FILE_KEY

SCHEMA = json.loads(Path(zeropoint.schema.metadata.__file__).with_name("metadata.schema.json").read_text())


def parsed(content: bytes) -> dict[str, Any]:
    """Return the metadata of ours in a file's bytes, each value parsed; a Hugging Face folder's under the same key."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        Path(file.name).write_bytes(content)
        with safe_open(file.name, framework="pt") as opened:
            metadata = opened.metadata()
    found = {key: json.loads(value) for key, value in metadata.items() if key.startswith("zeropoint")}
    if "zeropoint.origin" in found:
        origin = found.pop("zeropoint.origin")
        assert origin.pop("layout") == "compressed-tensors"
        found[FILE_KEY] = origin
    return found


def check_metadata(content: bytes) -> dict[str, Any]:
    """Check a file of weights that a job left, and return its metadata."""
    found = parsed(content)
    Draft202012Validator(SCHEMA).validate(found)
    about = found[FILE_KEY]
    assert about["verdict"] in ("passed", "warned", "failed", "not_evaluated")
    assert (about["statistics"]["sqnr_db"] is None) == (about["verdict"] == "not_evaluated")
    assert about["statistics"]["compression_ratio"] > 0
    architecture = about["architecture"]
    layers = architecture["layers"]
    assert set(layers) == {*architecture["quantized"], *architecture["float"]}
    assert all(layer["tensors"] for layer in layers.values())
    assert {name for name, layer in layers.items() if layer["quantized"]} == set(architecture["quantized"])
    assert all(layer["quantized"] != (layer["reason"] is not None) for layer in layers.values())
    assert {"zeropoint", "torch"} <= set(about["versions"])
    return found
