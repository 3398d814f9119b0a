"""What the library refuses, and why.

    QuantizationError
    ├── InvalidModel        the upload is not a program that can be quantized
    ├── InvalidSamples      calibration or evaluation samples do not serve the model
    ├── InvalidProfile      the statistics to reuse belong to something else
    ├── InvalidRecipe       the recipe asks for something this model does not have
    ├── Unsupported         a sound wish that this version cannot fulfil
    └── ValidationFailed    the result is there, and a check says no

Every error carries a stable `code`, a `detail` that says what was wrong and where, and a `remedy` that says what to
do. Texts are written here for the reader of an API answer: never a path, never another library's words.
"""


class QuantizationError(Exception):
    """A refusal that a user can act on."""

    title = "The model could not be quantized"

    def __init__(self, code: str, detail: str, remedy: str) -> None:
        super().__init__(f"{detail} {remedy}")
        self.code = code
        self.detail = detail
        self.remedy = remedy


class InvalidModel(QuantizationError):
    """The upload is not a program that can be quantized."""

    title = "The model can't be used"


class InvalidSamples(QuantizationError):
    """Calibration or evaluation samples do not serve the model."""

    title = "The samples can't be used"


class InvalidProfile(QuantizationError):
    """The statistics to reuse belong to something else."""

    title = "The profile can't be used"


class InvalidRecipe(QuantizationError):
    """The recipe asks for something this model does not have."""

    title = "The recipe doesn't fit the model"


class Unsupported(QuantizationError):
    """A sound wish that this version cannot fulfil."""

    title = "Not supported"


class ValidationFailed(QuantizationError):
    """The result is there, and a check says no."""

    title = "Validation failed"
    report: object = None
    """The Report, where `quantize` raises it."""
