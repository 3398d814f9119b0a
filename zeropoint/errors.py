"""The errors that the library raises for a user.

    QuantizationError
    ├── InvalidModel        the upload is not a model that can be quantized
    ├── InvalidJob          a job's folder is not complete, or its job.json not valid
    ├── InvalidSamples      the calibration or evaluation samples don't fit the model
    ├── InvalidProfile      the statistics to reuse belong to another model or dataset
    ├── InvalidRecipe       the recipe asks for something that this model does not have
    ├── Killed              a process that the work needs was killed from outside
    ├── ModelFailed         the float model raises an error on these samples
    ├── Unsupported         a valid request that this version can't fulfil
    └── ValidationFailed    the result was written, but a check failed

Every error has a stable `code`, a `detail` that says what was wrong and where, and a `remedy` that says what to do.
Users read these texts in API answers: they never contain a path or another library's message.
"""


class QuantizationError(Exception):
    """Base of every error that a user can act on."""

    title = "The model could not be quantized"

    def __init__(self, code: str, detail: str, remedy: str) -> None:
        super().__init__(f"{detail} {remedy}")
        self.code = code
        self.detail = detail
        self.remedy = remedy


class InvalidModel(QuantizationError):
    """The upload is not a model that can be quantized."""

    title = "The model can't be used"


class InvalidJob(QuantizationError):
    """A job's folder is not complete, or its job.json is not valid."""

    title = "The job can't be read"


class InvalidSamples(QuantizationError):
    """The calibration or evaluation samples don't fit the model."""

    title = "The samples can't be used"


class InvalidProfile(QuantizationError):
    """The statistics to reuse belong to another model or dataset."""

    title = "The profile can't be used"


class InvalidRecipe(QuantizationError):
    """The recipe asks for something that this model does not have."""

    title = "The recipe doesn't fit the model"


class Killed(QuantizationError):
    """A process that the work needs was killed from outside, or by a limit of the system's; `signal` says how."""

    title = "A process was killed"

    def __init__(self, signal: int) -> None:
        super().__init__(
            "killed",
            f"The process that reads the saved files back was ended by signal {signal}.",
            "Try again; if it ends so again, give it more memory.",
        )
        self.signal = signal


class ModelFailed(QuantizationError):
    """The float model raises an error on these samples."""

    title = "The model fails on these samples"


class Unsupported(QuantizationError):
    """A valid request that this version can't fulfil."""

    title = "Not supported"


class ValidationFailed(QuantizationError):
    """The result was written, but a check failed."""

    title = "Validation failed"
    report: object = None
    """The Report, where `quantize` raises it."""


class QuantizationWarning(UserWarning):
    """A result is there, but a check failed, a target is missed, or the report says why it can't be trusted."""


def invalid_recipe(pointer: str, problem: str) -> InvalidRecipe:
    """Return the error for a recipe that doesn't validate: what is wrong at a JSON pointer ("" is the whole recipe)."""
    return InvalidRecipe(
        "recipe_invalid",
        f"{pointer or 'The recipe'} {problem}.",
        "Correct it; the reference has every key and value (docs/reference/recipe.md).",
    )
