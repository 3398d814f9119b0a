"""What users get of each artifact: its numbers in the runtimes that it is for, at two processor levels.

The processor's own level, and AVX2, where kernels saturate (docs/decisions/0036-the-number-that-users-get.md). What was
not run is modelled: at levels whose kernels add in 32 bits the saved program's own numbers hold, at others its sums are
computed as the kernels do.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from zeropoint.algorithms.pair_limits import may_saturate
from zeropoint.layers.result import Quantized
from zeropoint.loading.saved_runs import Also
from zeropoint.metrics.sqnr import finite
from zeropoint.schema.formats import ONNX_FILE, PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.report import Loaded
from zeropoint.schema.runtimes import Basis, ProcessorLevel, RuntimeName, RuntimeReport
from zeropoint.simulation.processor import SATURATING, lower_level
from zeropoint.validation.compiling import Compiled, Wish, free_bytes
from zeropoint.validation.evaluation import Evaluation
from zeropoint.validation.outputs import Outputs

NAMED: Mapping[str, ProcessorLevel] = {"vnni": "avx512_vnni", "amx": "amx_int8"}
"""The level that a recipe's `target_isa` means."""
NOT_NAMED = 'The recipe\'s "target_isa" says that the model does not run on such processors.'
EXACT_SUMS = "Its kernels add in 32 bits, so that the saved program's own numbers hold."
NOT_TOLD = "onnxruntime can't be told to use this level's kernels."
NO_RUN = "Its kernels could not be modelled for this program, or not in this memory."
WRITTEN_LATER = "A module's program is compared with the module; the saved program of a program is measured compiled."
BYTES_A_WEIGHT = 32
"""What the model of a kernel takes for each element of a weight while it looks for pairs."""
NOTHING_SATURATES = "No sum of two products can pass 16 bits, so that it computes the same at every level."


def wanted_runs(quantized: Quantized, wish: Wish) -> list[Also]:
    """Return the further runs that the second process must do on the first samples."""
    runs: list[Also] = []
    if wish.mode == "none" or not may_saturate(quantized.layers) or not _fits(quantized):
        return runs
    if "pt2" in wish.formats and (wish.of_torch in SATURATING or (lower_level(wish.of_torch) and wish.everywhere)):
        runs.append("onednn")
    if "onnx" in wish.formats and wish.own in SATURATING:
        runs.append("usual")
    elif "onnx" in wish.formats and lower_level(wish.own) and wish.everywhere:
        runs.append("mlas")
    return runs


def _fits(quantized: Quantized) -> bool:
    """Return whether there is memory to model the largest weight."""
    largest = max((layer.weight.numel() for layer in quantized.layers), default=0)
    return BYTES_A_WEIGHT * largest < free_bytes()


def not_compiled(level: ProcessorLevel) -> RuntimeReport:
    """Return the row of a module's program, which is written after the report was made."""
    subject = Subject(PROGRAM_FILE, "inductor", str(torch.__version__))
    return RuntimeReport(**subject._asdict(), level=level, basis="skipped", counts=False, reason=WRITTEN_LATER)


def runtime_reports(
    quantized: Quantized, evaluation: Evaluation, loaded: Iterable[Loaded], wish: Wish, compiled: Compiled
) -> list[RuntimeReport]:
    """Return a row for each artifact, runtime and level."""
    if wish.mode == "none":
        return []
    versions, eager = {entry.name: entry.version for entry in loaded}, str(torch.__version__)
    table = _Table(wish, evaluation, may_saturate(quantized.layers), compiled)
    rows: list[RuntimeReport] = []
    if "pt2" in wish.formats:
        rows += [table.eager(Subject(PROGRAM_FILE, "torch", eager)), *table.inductor()]
    elif "safetensors" in wish.formats and PROGRAM_FILE in versions:
        rows.append(table.eager(Subject(SAFETENSORS_FILE, "torch", eager)))
    if ONNX_FILE in versions and "onnx" in wish.formats:
        rows += table.onnx(versions[ONNX_FILE])
    if "huggingface" in wish.formats:
        file = next((name for name in versions if name.endswith(".safetensors")), SAFETENSORS_FILE)
        rows.append(table.eager(Subject(file, "transformers", versions.get(file, ""))))
    if "checkpoint" in wish.formats:
        rows += [table.eager(Subject(name, "torch", eager)) for name in versions if name.endswith(".pt")]
    return rows


class Subject(NamedTuple):
    """An artifact, what runs it, and the version of that."""

    artifact: str
    runtime: RuntimeName
    version: str


@dataclass(frozen=True)
class _Table:
    """Makes the rows of one result."""

    wish: Wish
    evaluation: Evaluation
    saturates: bool
    """Whether any kernel could pass 16 bits."""
    compiled: Compiled

    def eager(self, subject: Subject) -> RuntimeReport:
        """Return the row of what the second process ran on all samples."""
        return self._row(subject, self.wish.own, "measured", whole=self.evaluation.outputs)

    def inductor(self) -> Iterator[RuntimeReport]:
        """Yield the rows of the compiled program."""
        subject = Subject(PROGRAM_FILE, "inductor", str(torch.__version__))
        own, lower = self.wish.of_torch, lower_level(self.wish.of_torch)
        yield self._compiled(subject, own)
        if lower and self.wish.everywhere:
            yield self._compiled(subject, lower)
        elif lower:
            yield self._row(subject, lower, "skipped", reason=NOT_NAMED)
        yield from self._named(subject, own, self.evaluation.outputs)

    def onnx(self, version: str) -> Iterator[RuntimeReport]:
        """Yield the rows of the ONNX file."""
        subject = Subject(ONNX_FILE, "onnxruntime", version)
        own, lower, beside = self.wish.own, lower_level(self.wish.own), self.evaluation.beside.get(ONNX_FILE)
        if own in SATURATING and self.saturates:
            yield self._row(subject, own, "measured", run="usual", reason=self._left_out(own))
        else:
            yield self._row(subject, own, "measured", whole=beside)
        if lower and own not in SATURATING:
            if not self.wish.everywhere:
                yield self._row(subject, lower, "skipped", reason=NOT_NAMED)
            elif self.saturates:
                yield self._row(subject, lower, "modelled", run="mlas", reason=NOT_TOLD)
            else:
                yield self._row(subject, lower, "modelled", whole=beside, reason=NOTHING_SATURATES)
        yield from self._named(subject, own, beside)

    def _compiled(self, subject: Subject, level: ProcessorLevel) -> RuntimeReport:
        """Return the row of the program at a level: compiled, else modelled."""
        run, why, left_out = self.compiled.levels.get(level), self.compiled.reason or "", self._left_out(level)
        if run is not None and self.evaluation.runs.outputs(run) is not None:
            return self._row(subject, level, "measured", run=run, reason=left_out)
        if level in SATURATING and self.saturates:
            return self._row(subject, level, "modelled", run="onednn", reason=f"{why} {left_out or ''}".strip())
        same = EXACT_SUMS if self.saturates else NOTHING_SATURATES
        return self._row(subject, level, "modelled", whole=self.evaluation.outputs, reason=f"{why} {same}".strip())

    def _named(self, subject: Subject, own: ProcessorLevel, exact: Outputs | None) -> Iterator[RuntimeReport]:
        """Yield the row of the processors that a recipe names, if this one is not of them."""
        if not self.wish.everywhere and own in SATURATING:
            reason = f"This processor has no such kernels. {EXACT_SUMS}"
            yield self._row(subject, NAMED[self.wish.target_isa], "modelled", whole=exact, reason=reason)

    def _left_out(self, level: ProcessorLevel) -> str | None:
        return NOT_NAMED if level in SATURATING and not self.wish.everywhere else None

    def _row(
        self,
        subject: Subject,
        level: ProcessorLevel,
        basis: Basis,
        *,
        run: str | None = None,
        whole: Outputs | None = None,
        reason: str | None = None,
    ) -> RuntimeReport:
        """Return a row with the numbers of a run on the first samples, or with those of all samples."""
        runs = self.evaluation.runs
        outputs, base = (whole, self.evaluation.outputs) if run is None else (runs.outputs(run), runs.saved)
        counts = level not in SATURATING or self.wish.everywhere or subject.runtime in ("torch", "transformers")
        if outputs is None:
            why = reason if basis == "skipped" else NO_RUN
            return RuntimeReport(**subject._asdict(), level=level, basis="skipped", counts=False, reason=why)
        return RuntimeReport(
            **subject._asdict(),
            level=level,
            basis=basis,
            sqnr_db=finite(outputs.noise.db) if outputs.floating else None,
            exact=outputs.exact,
            agreement=outputs.worst_agreement,
            loss_db=_loss(base, outputs),
            samples=runs.samples if run is not None else self.evaluation.samples,
            counts=counts,
            reason=reason or None,
        )


def _loss(base: Outputs, outputs: Outputs) -> float | None:
    """Return by how many dB the outputs are worse; 0 where they are equal to the float model's, None if not known."""
    before, after = finite(base.noise.db), finite(outputs.noise.db)
    if outputs.noise.exact:
        return 0.0
    return None if before is None or after is None else before - after
