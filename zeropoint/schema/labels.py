"""Ground truth in a dataset: `labels` and `references`, which metrics compare with the model's outputs.

A model input of such a name stays an input. Torch-free: checked at submit, and again when the dataset is opened.
"""

from collections.abc import Mapping, Sequence

from zeropoint.schema.target import MetricName

LABELS = "labels"
"""int64 [samples]: the class, an index into the last dimension of the first output; or [samples, k]: any of up to k
classes, padded with −1."""
REFERENCES = "references"
"""Floats in the shape of the first output."""
TRUTHS = (LABELS, REFERENCES)

NEEDS: Mapping[MetricName, str] = {"top1": LABELS, "top5": LABELS, "cosine": REFERENCES}
"""The tensor that each metric needs; agreement needs none, as it compares two models with each other."""

FLOATS = ("float16", "bfloat16", "float32", "float64")


def misfit(name: str, dtype: str, shape: Sequence[object]) -> str | None:
    """Return why a tensor can't be the ground truth of this name, in words for the API's user; None when it can."""
    actual = f"got {dtype} [{', '.join(map(str, shape))}]."
    if name == LABELS and (dtype != "int64" or len(shape) not in (1, 2)):
        return f"{name}: expected int64 [samples] or [samples, k], {actual}"
    if name == REFERENCES and (dtype not in FLOATS or not shape):
        return f"{name}: expected floats in the shape of the model's first output, {actual}"
    return None
