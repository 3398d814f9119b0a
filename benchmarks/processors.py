"""What users get of an artifact, by runtime and processor: SQNR against the float program, as a Markdown table.

python -m benchmarks.processors FOLDER [OUT ...] [--samples 64] [--qemu] [--openvino PYTHON]

FOLDER: a job's, with the float model.pt2 and evaluation.safetensors. OUT: folders of artifacts (default: FOLDER/out).

| column | how |
|---|---|
| here | at this processor's own level |
| AVX2 | torch and OpenVINO with ONEDNN_MAX_CPU_ISA=AVX2; onnxruntime on an emulated processor (--qemu) |
| modelled | the program's integers by `zeropoint.simulation.saturation`, in the order of that runtime |

Each run is a process of its own, since a library chooses its kernels once.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file
from torch import Tensor

from zeropoint.metrics.sqnr import Noise
from zeropoint.simulation.processor import features

BATCH = 16
EMULATED = ("qemu-x86_64", "-cpu", "Haswell")
"""A processor with AVX2 and no VNNI."""
SCRIPT = Path(__file__).parent / "comparison" / "onnx_run.py"


@dataclass(frozen=True)
class Run:
    """One cell of the table: a runtime, a column, and the command that does it."""

    runtime: str
    column: str
    command: tuple[str, ...]
    isa: str | None = None


def runs(qemu: bool, openvino: str | None) -> Iterator[Run]:
    """Yield what is run, with the artifact's name at the end of each command."""
    program = (sys.executable, "-m", "benchmarks.comparison.program_run")
    onnx = (sys.executable, str(SCRIPT), "onnxruntime", "model.onnx")
    yield Run("torch, eager", "here", (*program, "eager", "model.pt2"))
    for column, isa in (("here", None), ("AVX2", "AVX2")):
        yield Run("torch, compiled", column, (*program, "compiled", "model.pt2"), isa)
    yield Run("torch, compiled", "modelled", (*program, "onednn", "model.pt2"))
    yield Run("onnxruntime", "here", onnx)
    if qemu:
        yield Run("onnxruntime", "AVX2", (*EMULATED, *onnx))
    yield Run("onnxruntime", "modelled", (*program, "mlas", "model.pt2"))
    for column, isa in (("here", None), ("AVX2", "AVX2")) if openvino else ():
        yield Run("OpenVINO", column, (str(openvino), str(SCRIPT), "openvino", "model.onnx"), isa)


def outputs(run: Run, artifacts: Path, samples: Path, result: Path) -> list[Tensor]:
    """Return all outputs of a run. Raises CalledProcessError."""
    *start, file = run.command
    command = [*start, str(artifacts / file), str(samples), str(result), str(BATCH)]
    settings = ["OMP_NUM_THREADS=1", *([f"ONEDNN_MAX_CPU_ISA={run.isa}"] if run.isa else [])]
    subprocess.run(["env", *settings, *command], check=True, stderr=subprocess.PIPE)
    made = load_file(result)
    return [made[str(place)] for place in range(len(made))]


def sqnr(expected: list[Tensor], found: list[Tensor]) -> str:
    """Return the SQNR of all outputs together, in dB."""
    noise = Noise()
    for one, other in zip(expected, found, strict=True):
        noise.add(one, other)
    return "exact" if noise.db is None else f"{noise.db:.1f}"


def few(folder: Path, count: int, file: Path) -> None:
    """Write evenly spread samples of an evaluation dataset."""
    tensors = load_file(folder / "evaluation.safetensors")
    step = max(1, len(next(iter(tensors.values()))) // count)
    save_file({name: tensor[::step][:count].contiguous() for name, tensor in tensors.items()}, file)


def measure(folder: Path, artifacts: Path, chosen: list[Run], count: int) -> dict[tuple[str, str], str]:
    """Return dB by runtime and column."""
    cells: dict[tuple[str, str], str] = {}
    with TemporaryDirectory() as scratch:
        samples, result = Path(scratch) / "samples.safetensors", Path(scratch) / "outputs.safetensors"
        few(folder, count, samples)
        expected = outputs(next(runs(False, None)), folder, samples, result)
        for run in chosen:
            try:
                cells[run.runtime, run.column] = sqnr(expected, outputs(run, artifacts, samples, result))
            except subprocess.CalledProcessError as error:
                cells[run.runtime, run.column] = "fails"
                print(error.stderr.decode(errors="replace")[-500:], file=sys.stderr)
    return cells


def main() -> None:
    """Print a table for each folder of artifacts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processors")
    parser.add_argument("folder", type=Path)
    parser.add_argument("artifacts", type=Path, nargs="*")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--qemu", action="store_true")
    parser.add_argument("--openvino", metavar="PYTHON", help="an interpreter that has openvino and safetensors")
    given = parser.parse_args()
    chosen, columns = list(runs(given.qemu, given.openvino)), ("here", "AVX2", "modelled")
    for artifacts in given.artifacts or [given.folder / "out"]:
        cells = measure(given.folder, artifacts, chosen, given.samples)
        print(f"\n{artifacts.name}, {given.samples} samples, SQNR in dB; {features()}\n")
        print(f"| | {' | '.join(columns)} |\n|---|---|---|---|")
        for runtime in dict.fromkeys(run.runtime for run in chosen):
            print(f"| {runtime} | {' | '.join(cells.get((runtime, column), '') for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
