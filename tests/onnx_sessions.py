"""A model in onnxruntime, as its makers optimize it and as the file says."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.processor import EXACT_ONNXRUNTIME, needs_exact_onnxruntime
from zeropoint.loading.readers.onnx import load_runtime


def session(model: bytes, *, optimized: bool) -> Any:
    """Open a model on the CPU; not optimized, each operator is computed for itself and in float."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def in_each_session(subtests: pytest.Subtests, check: Callable[[bool], None]) -> None:
    """Run a check, given `optimized`, of each session whose numbers can be compared here; the other is a skip."""
    for optimized in (False, True):
        with subtests.test("optimized" if optimized else "unoptimized"):
            if optimized and not EXACT_ONNXRUNTIME:
                pytest.skip(needs_exact_onnxruntime.kwargs["reason"])
            check(optimized)
