"""What a dataset may hold beside the model's inputs: `labels` and `references`, which metrics compare outputs with.

An input of such a name is an input. Torch-free: asked at submit, and again when the dataset is opened.
"""

from collections.abc import Mapping, Sequence

from zeropoint.schema.target import MetricName

LABELS = "labels"
"""int64 [samples]: the class of the first output, along its last dimension; or [samples, k]: any of k, filled up
with −1."""
REFERENCES = "references"
"""A float dtype, in the shape of the first output."""
TRUTHS = (LABELS, REFERENCES)

NEEDS: Mapping[MetricName, str] = {"top1": LABELS, "top5": LABELS, "cosine": REFERENCES}
"""The tensor that a metric needs; agreement compares two models with each other."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


def misfit(name: str, dtype: str, shape: Sequence[object]) -> str | None:
    """Why a tensor of this name is no truth, in words for the API's user; None when it is one."""
    got = f"got {dtype} [{', '.join(map(str, shape))}]."
    if name == LABELS and (dtype != "int64" or len(shape) not in (1, 2)):
        return f"{name}: expected int64 [samples] or [samples, k], {got}"
    if name == REFERENCES and (dtype not in FLOATS or not shape):
        return f"{name}: expected floats in the shape of the model's first output, {got}"
    return None
