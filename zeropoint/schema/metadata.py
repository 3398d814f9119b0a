"""The metadata of `model.safetensors`: one JSON object for the file, and one for each quantized layer. Torch-free.

`metadata.schema.json` beside this module is their JSON Schema, for readers in any language
(`python -m scripts.write_metadata_schema` writes it, and a test compares both).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from zeropoint.schema.report import EvaluationSource, OutputReport, SkipReason, Verdict, WarningCode

SCHEMA_VERSION = 1
FILE_KEY = "zeropoint"
LAYER_KEY = "zeropoint.layer."


class Described(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid", allow_inf_nan=False)


class TensorShape(Described):
    """A tensor as it was uploaded."""

    dtype: str
    """float32, bfloat16, …"""
    shape: list[int]


class LayerArchitecture(Described):
    """A layer of the model, quantized or not."""

    type: str
    """The class in the user's source."""
    quantized: bool
    reason: SkipReason | None = None
    """Why it stays in float."""
    tensors: dict[str, TensorShape]
    """Its parameters and buffers by name, as uploaded."""


class Architecture(Described):
    """Every layer by name: types alone for quantized ones and those in float, and all about each in `layers`."""

    quantized: dict[str, str]
    float: dict[str, str]
    layers: dict[str, LayerArchitecture]


class FileStatistics(Described):
    """Sizes in bytes, and what the file was measured at; null where nothing was run."""

    original_bytes: int
    quantized_bytes: int
    compression_ratio: float
    sqnr_db: float | None = None
    """Of the whole model, in dB; null if nothing was run, or if all is equal (`exact`)."""
    exact: bool | None = None
    worst_output_db: float | None = None
    outputs: list[OutputReport] = []
    weights_in_float: float | None = None
    macs_in_float: float | None = None


class Evaluated(Described):
    """The samples that were run."""

    source: EvaluationSource
    samples: int


class FileMetadata(Described):
    """The object under the key `zeropoint`."""

    schema_version: Literal[1]
    recipe: dict[str, JsonValue]
    versions: dict[str, str]
    """Of zeropoint, torch and the libraries that took part."""
    architecture: Architecture
    statistics: FileStatistics
    tied: dict[str, str]
    """A further name of a tensor -> the name under which it is stored."""
    verdict: Verdict | None = None
    """What validation said; null before it was done."""
    warnings: list[WarningCode] = []
    evaluation: Evaluated | None = None


class WeightLayout(Described):
    """A weight of any rank as a matrix: its dimensions in this order, all but the last `inputs` taken together as out.

    Scales and zero points have the same dimensions, and size 1 or the number of groups along those that count inputs.
    """

    order: list[int]
    inputs: int


class WeightMetadata(Described):
    """How a weight is stored."""

    dtype: str
    scheme: Literal["symmetric", "asymmetric"]
    granularity: Literal["per_channel", "per_tensor", "per_group"]
    axis: int | None
    group_size: int | None
    observer: dict[str, JsonValue]
    tensor: str
    """The name of the quantized tensor."""
    shape: list[int]
    """That of the float weight."""
    transposed: bool = False
    """Whether the weight is stored as [in, out]; groups then lie along the first dimension."""
    layout: WeightLayout | None = None
    """How the stored weight becomes [out, in], where it is no matrix or convolution: experts, bilinear forms."""
    original_dtype: str
    scale: str | None = None
    """The name of the tensor of scales; absent for a cast."""
    zero_point: str | int | None = None
    """The name of its tensor, or the one number for all."""
    quant_min: float | None = None
    quant_max: float | None = None
    rounding: Literal["nearest", "gptq", "limited"] = "nearest"


class ActivationMetadata(Described):
    """How the layer's input is quantized: q = clamp(round(x / scale) + zero_point, quant_min, quant_max)."""

    dtype: str
    scheme: Literal["symmetric", "asymmetric"]
    granularity: Literal["per_tensor"]
    observer: dict[str, JsonValue]
    scale: str
    zero_point: str
    minimum: float
    maximum: float
    quant_min: float
    quant_max: float


class LayerStatistics(Described):
    """Sizes in bytes and SQNR in dB."""

    weight_sqnr_db: float | None
    output_sqnr_db: float | None = None
    """Of the layer's output on the same float input; null if nothing was run."""
    original_bytes: int
    bytes: int


class LayerMetadata(Described):
    """The object under the key `zeropoint.layer.<name>`."""

    type: str
    operator: str
    weight: WeightMetadata
    activation: ActivationMetadata | None
    statistics: LayerStatistics
    bias: str | None = None
    pre_quant_scale: str | None = None
    scaled_by: str | None = None
    outlier_channels: str | None = None
    outlier_weight: str | None = None


def metadata_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a file's metadata: its keys of ours, each value parsed as JSON."""
    definitions: dict[str, Any] = {}
    for model in (FileMetadata, LayerMetadata):
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= schema.pop("$defs", {})
        definitions[model.__name__] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Metadata of model.safetensors",
        "type": "object",
        "required": [FILE_KEY],
        "properties": {FILE_KEY: {"$ref": "#/$defs/FileMetadata"}},
        "patternProperties": {f"^{LAYER_KEY.replace('.', chr(92) + '.')}": {"$ref": "#/$defs/LayerMetadata"}},
        "$defs": dict(sorted(definitions.items())),
    }
