"""Latency: call the float program and a quantized one alternately, in one thread on one batch.

A sweep measures in onnxruntime, in this process. A job measures what it saved, in the processes that run it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Protocol

from torch import Tensor

from zeropoint.errors import Unsupported
from zeropoint.formats import WRITERS
from zeropoint.formats.onnx.writer import require_onnx
from zeropoint.layers.result import Quantized
from zeropoint.loading.readers.onnx import call_in_one_thread
from zeropoint.loading.timing import Rounds, Run, alternately
from zeropoint.model.source import Source
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED
from zeropoint.schema.runtimes import Latency, RuntimeReport
from zeropoint.simulation.processor import features
from zeropoint.validation.compiling import Compiled, Compiler, Wish, free_bytes
from zeropoint.validation.runs import RuntimeRuns, samples_in

logger = logging.getLogger(__name__)

NO_FLOAT = "The float program can't be written in this format."
NOT_CALLED = "It could not be called for this."
NO_MEMORY = "There is not enough memory for the float program beside the saved one."
IN_FLOAT = "transformers computes on quantized values in float arithmetic: its time would say nothing of int8 kernels."
NO_TIME = "The float program could not be compiled too in the time that compiling may take."
COPIES = 4
"""What opening the float program takes: it is written, read, and its weights are packed."""
LEAST_SECONDS = 5.0
"""No program compiles in less."""


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
        self._batch = batch
        self._scratch = scratch
        self._float = self._opened(_unquantized(source), "float.onnx")

    def time(self, quantized: Quantized) -> tuple[float, float]:
        """Return the median milliseconds per call of the quantized program, and of the float program in alternation."""
        rounds = alternately(self._opened(quantized, "quantized.onnx"), self._float)
        quantized_ms, float_ms = zip(*rounds, strict=True)
        return median(quantized_ms), median(float_ms)

    def _opened(self, quantized: Quantized, name: str) -> Run:
        path = self._scratch / name
        WRITERS["onnx"].write(quantized, path)
        run = call_in_one_thread(path, self._batch)
        path.unlink()
        return run


class Timer(Compiler, Protocol):
    """Calls the saved files again and again."""

    def time(self, batch: Sequence[Tensor], write: Callable[[Path], None]) -> Mapping[str, Rounds]:
        """Return the milliseconds of calls by runtime: of the saved program, and the float one that `write` saves."""

    def time_compiled(
        self, folder: Path, seconds: float, batch: Sequence[Tensor], write: Callable[[Path], None]
    ) -> Rounds | None:
        """Return those of both programs compiled, within so many seconds; None where that failed."""


def measure_latency(
    source: Source, runs: RuntimeRuns, timer: Timer, wish: Wish, folder: Path, *, compiled: Compiled
) -> dict[str, Latency]:
    """Return the latency of the programs in `folder`, by runtime, on the first batch; nothing if it isn't asked for."""
    if not wish.latency or not runs.batches:
        return {}
    if "huggingface" in wish.formats:
        return {"transformers": without_latency(IN_FLOAT)}
    if COPIES * source.original_bytes > free_bytes():
        return dict.fromkeys(("torch", "onnxruntime", "inductor"), without_latency(NO_MEMORY))
    batch, write = runs.batches[0], partial(_write_floats, source, wish.formats)
    found = {name: without_latency(NOT_CALLED) for name in ("torch", "onnxruntime")}
    for name, rounds in timer.time(batch, write).items():
        found[name] = latency(rounds, samples_in(batch))
    if wish.of_torch in compiled.levels:
        seconds = compiled.seconds_left
        measured = timer.time_compiled(folder, seconds, batch, write) if seconds > LEAST_SECONDS else None
        found["inductor"] = latency(measured, samples_in(batch)) if measured else without_latency(NO_TIME)
    source.reset()
    return found


def latency(rounds: Rounds, batch_size: int) -> Latency:
    """Return what rounds of calls say: of the quantized program first, and of the float one if it was called."""
    quantized, *floats = zip(*rounds, strict=True)
    number = {"ms": median(quantized), "ms_quartiles": _quartiles(quantized)}
    for calls in floats:
        number |= {"float_ms": median(calls), "float_ms_quartiles": _quartiles(calls)}
    about = {"rounds": len(rounds), "batch_size": batch_size, "processor": features()}
    return Latency.model_validate({**number, **about, "reason": None if floats else NO_FLOAT})


def without_latency(reason: str) -> Latency:
    """Return that no call was measured, and why."""
    return Latency(processor=features(), reason=reason)


def with_latency(rows: Iterable[RuntimeReport], found: Mapping[str, Latency], wish: Wish) -> list[RuntimeReport]:
    """Return the rows, those measured at the worker's own level with the latency in their runtime."""
    own = {"inductor": wish.of_torch}
    return [
        row.model_copy(update={"latency": found.get(row.runtime)})
        if row.basis == "measured" and row.level == own.get(row.runtime, wish.own)
        else row
        for row in rows
    ]


def _quartiles(calls: Sequence[float]) -> tuple[float, float]:
    low, _, high = quantiles(calls, n=4, method="inclusive") if len(calls) > 1 else 3 * [calls[0]]
    return low, high


def _unquantized(source: Source) -> Quantized:
    return Quantized(source, Recipe(), [], [], NOT_CALIBRATED, {})


def _write_floats(source: Source, formats: Iterable[str], folder: Path) -> None:
    """Write the float program as a program, and as an ONNX file if the saved one was written as such."""
    for name in ("pt2", *({"onnx"} & set(formats))):
        try:
            WRITERS[name].write(_unquantized(source), folder / WRITERS[name].file)
        except Exception:  # no job fails for a peer; the report then says what is missing
            logger.exception("The float program can't be written.")
