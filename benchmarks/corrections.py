"""What error compensation costs at run time: int8 as it is, with factors before the inputs, with inputs in float.

python -m benchmarks.corrections FOLDER [BATCH ...]     float.pt2, dataset.safetensors

Ratios of processor time on one thread to the plain int8 program, compiled and in onnxruntime, calls interleaved as in
`benchmarks.latency`; `folded` is the program opened with its normalizations in its convolutions. Factors and channels
are made up: they change no speed.
"""

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
import torch._inductor.config
from safetensors.torch import load_file
from torch import Tensor
from torch.utils import _pytree as pytree

from benchmarks.latency import SHORTEST_SECONDS, Run, seconds
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.formats.onnx.export import onnx_bytes
from zeropoint.formats.program.writer import quantized_program
from zeropoint.layers.quantized_layer import Outliers, QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.schema.recipe import Recipe
from zeropoint.simulation.processor import features
from zeropoint.sources import open_source

ROUNDS = 15
BASE = "int8"
VARIANTS = {BASE: (False, 0), "factors": (True, 0), "4 in float": (False, 4), "16 in float": (False, 16)}


def quantized(folder: Path, *, fold: bool) -> Quantized:
    """The folder's program with the default recipe."""
    source = open_source(folder / "float.pt2", "pt2", "cpu", fold=fold)
    samples = open_dataset(folder / "dataset.safetensors", source.inputs, None)
    recipe = Recipe(formats=("pt2", "onnx"))
    return quantize_source(source, recipe, plan(source, recipe, samples), lambda *_: None)


def dress(layer: QuantizedLayer, factors: bool, channels: int) -> QuantizedLayer:
    """Linears that read the same values get the same of it, as an algorithm gives them."""
    if layer.layer.kind != "Linear":
        return layer
    weight = layer.layer.weight
    if factors:
        layer = replace(layer, pre_quant_scale=torch.linspace(0.9, 1.1, weight.shape[1]))
    if channels:
        chosen = torch.linspace(1, weight.shape[1] - 2, channels).long()
        layer = replace(layer, outliers=Outliers(chosen, weight[:, chosen].contiguous()))
    return layer


def runs_of(result: Quantized, name: str, rows: list[Tensor]) -> dict[str, Run]:
    """The result compiled, and in onnxruntime."""
    program = quantized_program(result)
    assert program.call_spec.in_spec is not None
    arguments, options = pytree.tree_unflatten(rows, program.call_spec.in_spec)
    fast = torch.compile(program.module(), dynamic=False)
    with torch._inductor.config.patch(freezing=True):
        fast(*arguments, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(onnx_bytes(result), settings, providers=["CPUExecutionProvider"])
    feed = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), rows, strict=True)}
    return {f"compiled, {name}": lambda: fast(*arguments, **options), f"onnx, {name}": lambda: session.run(None, feed)}


def measure(runs: dict[str, Run]) -> None:
    """Print a line for each variant."""
    calls = {name: max(1, round(SHORTEST_SECONDS / seconds(run, 3)[1])) for name, run in runs.items()}
    rounds = [{name: seconds(run, calls[name])[1] for name, run in runs.items()} for _ in range(ROUNDS)]
    for name in runs:
        base = f"{name.partition(',')[0]}, {BASE}"
        low, middle, high = statistics.quantiles([taken[name] / taken[base] for taken in rounds], n=4)
        milliseconds = 1000 * statistics.median(taken[name] for taken in rounds)
        print(f"  {name:24}{milliseconds:9.2f} ms   x{middle:.3f} [{low:.3f} - {high:.3f}]")


def main(folder: Path, batches: list[int]) -> None:
    """Measure the program of a folder."""
    print(features(), flush=True)
    plain, folded = (quantized(folder, fold=fold) for fold in (False, True))
    tensors = load_file(folder / "dataset.safetensors")
    results = {
        name: replace(plain, layers=[dress(layer, *parts) for layer in plain.layers])
        for name, parts in VARIANTS.items()
    }
    if any(layer.reason == "folded" for layer in folded.source.layers):
        results |= {"folded": folded}
    for batch in batches:
        rows = [tensors[spec.name][:batch].contiguous() for spec in plain.source.inputs]  # type: ignore[attr-defined]
        torch._dynamo.reset()  # before all of a batch: it forgets what was compiled so far
        print(f"{folder.name}, batch {batch}")
        with torch.no_grad():
            measure({key: run for name, result in results.items() for key, run in runs_of(result, name, rows).items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), [int(batch) for batch in sys.argv[2:]] or [1, 16])
