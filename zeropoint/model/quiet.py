"""Silence what torch says while it exports, loads or translates a program, such as which symbols a graph lost."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = (
    *("torch.export", "torch._export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes"),
    *("torch.onnx", "onnxscript", "onnx_ir"),
)


@contextmanager
def torch_is_quiet() -> Iterator[None]:
    """Keep torch's exporter from warning and logging until the block ends; errors are raised as ever."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
