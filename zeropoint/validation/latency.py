"""Latency: measure a call of the float program and of a quantized one in onnxruntime, alternately.

Both run one batch in one thread, so that a busy machine slows both alike. Compiled programs are not measured, since no
compiler may run in a process that has opened an upload.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from torch import Tensor

from zeropoint.errors import Unsupported
from zeropoint.formats import WRITERS
from zeropoint.formats.onnx.writer import require_onnx
from zeropoint.layers.result import Quantized
from zeropoint.loading.readers.onnx import load_runtime
from zeropoint.model.source import Source
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED

ROUNDS = 15
WARM_UP = 3

Run = Callable[[], object]


def require_latency(source: Source) -> None:
    """Raise Unsupported, before any work, when the model can't become an ONNX file or ONNX files can't run here."""
    try:
        require_onnx(source)
    except Unsupported as refusal:
        remedy = "Leave latency out, or use a worker with zeropoint[onnx]; the rest of the table needs no ONNX."
        raise Unsupported(refusal.code, refusal.detail, remedy) from refusal


class Stopwatch:
    """Measures the latency of programs on one batch; their files are written into `scratch`."""

    def __init__(self, source: Source, batch: Sequence[Tensor], scratch: Path) -> None:
        self._arrays = [tensor.contiguous().numpy() for tensor in batch]
        self._scratch = scratch
        self._float = self._opened(Quantized(source, Recipe(), [], [], NOT_CALIBRATED, {}), "float.onnx")

    def time(self, quantized: Quantized) -> tuple[float, float]:
        """Return the median milliseconds per call of the quantized program, and of the float program in alternation."""
        runs = (self._opened(quantized, "quantized.onnx"), self._float)
        for _ in range(WARM_UP):
            _timed(runs)
        rounds = [_timed(runs) for _ in range(ROUNDS)]
        quantized_ms, float_ms = zip(*rounds, strict=True)
        return median(quantized_ms), median(float_ms)

    def _opened(self, quantized: Quantized, name: str) -> Run:
        path = self._scratch / name
        WRITERS["onnx"].write(quantized, path)
        runtime = load_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        path.unlink()
        feed = dict(zip((value.name for value in session.get_inputs()), self._arrays, strict=True))
        return lambda: session.run(None, feed)


def _timed(runs: tuple[Run, ...]) -> list[float]:
    """Return the milliseconds of one call of each program."""
    taken = []
    for run in runs:
        began = perf_counter()
        run()
        taken.append(1000 * (perf_counter() - began))
    return taken
