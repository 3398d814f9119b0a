"""What a call costs, as ratios to the compiled float program: the float program as it is, `model.pt2` compiled to int8
kernels, and `model.onnx` in onnxruntime where both are there.

python -m benchmarks.latency [FOLDER ...] [--openvino PYTHON]
                                              float.pt2, model.pt2, dataset.safetensors, perhaps model.onnx

`--openvino`: an interpreter that has openvino and safetensors. There the float program as ONNX and `model.onnx` take
turns, and so they do in onnxruntime. With ONEDNN_MAX_CPU_ISA=AVX2, torch and OpenVINO, float and int8, run as on a
processor without VNNI; onnxruntime takes no advice.

Further programs of a folder (plain.pt2, of another recipe) are compiled and measured beside the others.

Calls are interleaved (float, compiled, int8, float, …), so that a busy machine slows all of them alike; a ratio is the
median over rounds with its quartiles, of wall time and of processor time, which other programs disturb less. Without a
folder: a ResNet-18 with random weights and calibrated normalizations, on 224 x 224 pixels.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torch.ao.quantization.fx._decomposed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from benchmarks.models.resnet18 import network
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.formats import WRITERS
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.processor import features
from zeropoint.sources import open_source

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

ROUNDS = 15
BATCHES = (1, 16)
SHORTEST_SECONDS = 0.05
"""So long at least is one variant called before the next one's turn."""
BASE = "float compiled"
Run = Callable[[], object]


def make_resnet18(folder: Path) -> None:
    """Put the folder's files there."""
    torch.manual_seed(0)
    net, coarse = network(), torch.randn(32, 3, 56, 56)
    pictures = nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    with torch.no_grad():
        net.train()(pictures[:16])  # normalizations learn what they see
    batch = {0: Dim("batch", min=1, max=1024)}
    torch.export.save(
        torch.export.export(net.eval(), (pictures[:2],), dynamic_shapes=({**batch},)), folder / "float.pt2"
    )
    save_file({"input": pictures}, folder / "dataset.safetensors")
    quantize_folder(folder)


def quantize_folder(folder: Path, **settings: Any) -> None:
    """float.pt2 and dataset.safetensors -> what programs are written as; `settings`: further keys of the recipe."""
    source = open_source(folder / "float.pt2", "pt2", "cpu")
    samples = open_dataset(folder / "dataset.safetensors", source.inputs, None)
    recipe = Recipe(formats=("pt2",) if onnxruntime is None else ("pt2", "onnx"), **settings)
    result = quantize_source(source, recipe, plan(source, recipe, samples), lambda *_: None)
    for name in recipe.formats or ():
        WRITERS[name].write(result, folder / WRITERS[name].file)


def variants(folder: Path, rows: dict[str, Tensor]) -> dict[str, Run]:
    """What is measured on these rows, each called once already: compiled, and warm."""
    programs = {path.stem: torch.export.load(path) for path in sorted(folder.glob("*.pt2"))}
    spec = programs["model"].call_spec.in_spec
    assert spec is not None
    arguments, options = pytree.tree_unflatten(list(rows.values()), spec)
    plain = programs["float"].module()
    runs: dict[str, Run] = {"float": lambda: plain(*arguments, **options)}
    for stem, program in programs.items():
        name = {"float": BASE, "model": "int8 compiled"}.get(stem, f"{stem} compiled")
        fast = torch.compile(program.module(), dynamic=False)
        runs[name] = lambda fast=fast: fast(*arguments, **options)  # type: ignore[misc]
        with torch._inductor.config.patch(freezing=stem != "float"):
            runs[name]()
    if onnxruntime is not None and (folder / "model.onnx").exists():
        runs["onnx"] = _session(folder / "model.onnx", rows)
    return runs


def _session(path: Path, rows: dict[str, Tensor]) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in rows.items()}
    return lambda: session.run(None, feed)


def seconds(run: Run, calls: int) -> tuple[float, float]:
    """Wall and processor time of one of so many calls."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    return (time.perf_counter() - wall) / calls, (time.process_time() - processor) / calls


def measure(runs: dict[str, Run]) -> None:
    """Print a line for each variant."""
    calls = {name: max(1, round(SHORTEST_SECONDS / seconds(run, 3)[0])) for name, run in runs.items()}
    rounds = [{name: seconds(run, calls[name]) for name, run in runs.items()} for _ in range(ROUNDS)]
    for name in runs:
        wall = [taken[BASE][0] / taken[name][0] for taken in rounds]
        processor = statistics.median(taken[BASE][1] / taken[name][1] for taken in rounds)
        low, middle, high = statistics.quantiles(wall, n=4)
        milliseconds = 1000 * statistics.median(taken[name][0] for taken in rounds)
        ratios = f"x{middle:5.2f} [{low:.2f} - {high:.2f}]; processor x{processor:5.2f}"
        print(f"  {name:15}{milliseconds:9.2f} ms   {ratios}")


def in_onnx_runtimes(folder: Path, inputs: Iterable[str], batch: int, openvino: str | None) -> None:
    """Print a line for each runtime, in a process of its own."""
    rows = {name: tensor for name, tensor in load_file(folder / "dataset.safetensors").items() if name in inputs}
    with tempfile.TemporaryDirectory() as scratch:
        program, samples = Path(scratch) / "float.onnx", Path(scratch) / "samples.safetensors"
        torch.onnx.export(torch.export.load(folder / "float.pt2"), f=program, dynamo=True, verbose=False)
        save_file(rows, samples)
        for library, python in {"onnxruntime": sys.executable, "openvino": openvino}.items():
            if python is not None:
                script = ["env", "OMP_NUM_THREADS=1", python, "-m", "benchmarks.comparison.onnx_latency", library]
                files = map(str, (program, folder / "model.onnx", samples, batch))
                subprocess.run([*script, *files], check=True)


def main(folder: Path, openvino: str | None = None) -> None:
    """Measure the programs of a folder."""
    print(features(), flush=True)
    tensors = load_file(folder / "dataset.safetensors")
    inputs = open_source(folder / "float.pt2", "pt2", "cpu").inputs
    fixed = inputs[0].shape[0]
    for batch in (fixed,) if isinstance(fixed, int) else BATCHES:
        rows = {spec.name: tensors[spec.name][:batch].contiguous() for spec in inputs}
        torch._dynamo.reset()
        with torch.no_grad():
            runs = variants(folder, rows)
            print(f"{folder.name}, batch {batch}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
            measure(runs)
        if "onnx" in runs:
            in_onnx_runtimes(folder, [spec.name for spec in inputs], batch, openvino)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--openvino", metavar="PYTHON", help="an interpreter that has openvino and safetensors")
    given = parser.parse_args()
    for folder in given.folders:
        main(folder, given.openvino)
    if not given.folders:
        with tempfile.TemporaryDirectory() as name:
            made = Path(name) / "resnet18"
            made.mkdir()
            make_resnet18(made)
            main(made, given.openvino)
