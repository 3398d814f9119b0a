"""Why jobs fail: every stable code and its class. docs/reference/errors.md gives each its cause and remedy.

A failure of the job itself is final; only the loss of infrastructure (the class `transient`) is retried.
"""

from enum import StrEnum


class FailureClass(StrEnum):
    USER_INPUT = "user_input"
    """The model, the samples or the recipe: change what was sent."""
    UNSUPPORTED = "unsupported"
    """A valid request that this version can't fulfil."""
    RESOURCE = "resource"
    """A limit was reached: request less, or ask for a higher limit."""
    SERVICE = "service"
    """A fault of the service: the operator must look."""
    TRANSIENT = "transient"
    """Infrastructure was lost on every allowed attempt."""


CLASSES = {
    "checkpoint_does_not_fit": FailureClass.USER_INPUT,
    "checkpoint_invalid": FailureClass.USER_INPUT,
    "dataset_does_not_fit": FailureClass.USER_INPUT,
    "dataset_invalid": FailureClass.USER_INPUT,
    "dataset_required": FailureClass.USER_INPUT,
    "job_invalid": FailureClass.USER_INPUT,
    "model_failed": FailureClass.USER_INPUT,
    "non_finite_activations": FailureClass.USER_INPUT,
    "non_finite_samples": FailureClass.USER_INPUT,
    "non_finite_weights": FailureClass.USER_INPUT,
    "nothing_to_quantize": FailureClass.USER_INPUT,
    "profile_does_not_match": FailureClass.USER_INPUT,
    "profile_incomplete": FailureClass.USER_INPUT,
    "profile_invalid": FailureClass.USER_INPUT,
    "program_invalid": FailureClass.USER_INPUT,
    "recipe_does_not_fit": FailureClass.USER_INPUT,
    "recipe_invalid": FailureClass.USER_INPUT,
    "recipe_matches_nothing": FailureClass.USER_INPUT,
    "sandbox_violation": FailureClass.USER_INPUT,
    "validation_failed": FailureClass.USER_INPUT,
    "architecture_unsupported": FailureClass.UNSUPPORTED,
    "transformers_missing": FailureClass.UNSUPPORTED,
    "onnx_unavailable": FailureClass.UNSUPPORTED,
    "onnx_unsupported": FailureClass.UNSUPPORTED,
    "weights_invalid": FailureClass.USER_INPUT,
    "unsupported_input": FailureClass.UNSUPPORTED,
    "cpu_time_limit": FailureClass.RESOURCE,
    "disk_limit": FailureClass.RESOURCE,
    "no_such_worker": FailureClass.RESOURCE,
    "out_of_memory": FailureClass.RESOURCE,
    "pending_time_limit": FailureClass.RESOURCE,
    "wall_time_limit": FailureClass.RESOURCE,
    "blob_missing": FailureClass.SERVICE,
    "crashed": FailureClass.SERVICE,
    "internal_error": FailureClass.SERVICE,
    "invalid_output": FailureClass.SERVICE,
    "killed": FailureClass.TRANSIENT,
    "storage_full": FailureClass.TRANSIENT,
    "storage_unavailable": FailureClass.TRANSIENT,
    "worker_lost": FailureClass.TRANSIENT,
}


def category_of(code: str) -> FailureClass:
    """Return the class of a code; one that isn't known is a fault of the service."""
    return CLASSES.get(code, FailureClass.SERVICE)


def is_transient(code: str) -> bool:
    """Return whether another attempt may succeed."""
    return category_of(code) is FailureClass.TRANSIENT
