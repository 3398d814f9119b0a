"""What a job on a file of weights costs: the peak resident set of its program, torch included, as a share of the model,
and its time as a ratio to a plain read of the file; bfloat16, with names and shapes like those of a llama.

python -m benchmarks.weights_memory [MIB]
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from zeropoint.schema.job import JOB_FILE, OUT_FOLDER, REPORT_FILE
from zeropoint.simulation.processor import features

RECIPES: dict[str, dict[str, object]] = {
    "int8 per channel": {"activations": None},
    "int4 in groups of 32": {"weights": {"dtype": "int4"}},
    "bfloat16 to float16": {"weights": {"dtype": "float16"}},
    "int8 per tensor, mse": {
        "weights": {"granularity": "per_tensor", "observer": {"kind": "mse"}},
        "activations": None,
        "include": ["model.layers.0.*"],
    },
}
CHUNK_BYTES = 2**20
HIDDEN, INNER, KEY, VOCABULARY = 2048, 5632, 256, 32_000
"""Those of TinyLlama; its layers, 88 MiB each, are as many as fit."""


def shapes(mib: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of about `mib` MiB; small models have a smaller vocabulary."""
    vocabulary = min(VOCABULARY, max(256, mib * 2**20 // 8 // HIDDEN))
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    left, layer = mib * 2**20 // 2 - 2 * vocabulary * HIDDEN, 0
    parts: dict[str, tuple[int, ...]] = {
        **{"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEY, HIDDEN), "self_attn.v_proj": (KEY, HIDDEN)},
        **{"self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN)},
        **{"mlp.down_proj": (HIDDEN, INNER), "input_layernorm": (HIDDEN,)},
    }
    while left > 0:
        yield from ((f"model.layers.{layer}.{part}.weight", shape) for part, shape in parts.items())
        left, layer = left - sum(map(math.prod, parts.values())), layer + 1
    yield "lm_head.weight", (vocabulary, HIDDEN)


def write_model(path: Path, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """Random weights between 2^-9 and 2^-5, either sign. No torch: a program's peak counts what started it, too."""
    header: dict[str, object] = {}
    free = 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [free, free + 2 * math.prod(shape)]}
        free += 2 * math.prod(shape)
    text = json.dumps(header).encode()
    high = bytes(byte & 0x80 | 0x3B + byte % 2 for byte in range(256))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, free, CHUNK_BYTES):
            data = bytearray(random.randbytes(min(CHUNK_BYTES, free - start)))
            data[1::2] = data[1::2].translate(high)
            file.write(data)


def seconds_of_a_read(path: Path) -> float:
    """Once through the file, from the cache of pages if it is there, as the job reads it."""
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNK_BYTES):
            pass
    return time.perf_counter() - started


def measure(folder: Path, model: Path, name: str, spec: dict[str, object]) -> None:
    """One job in a process of its own; `model`: its file of weights."""
    (folder / JOB_FILE).write_text(json.dumps(spec))
    size, read = model.stat().st_size, seconds_of_a_read(model)
    started = time.perf_counter()
    command = [
        "env",
        "OMP_WAIT_POLICY=PASSIVE",
        sys.executable,
        "-m",
        "zeropoint.entrypoints.job",
        str(folder),
    ]  # as a worker
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, process.returncode, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    report = json.loads((folder / OUT_FOLDER / REPORT_FILE).read_text())
    peak, either = report["peak_memory_bytes"], usage.ru_maxrss * 1024
    phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in report["timings"].items())
    print(
        f"{name}: {size / 2**20:.0f} MiB in {took:.1f} s ({phases}), {took / read:.0f} plain reads; peak "
        f"{peak / 2**20:.0f} MiB, {peak / size:.2f} of the model; the larger of both processes {either / 2**20:.0f} MiB"
    )


def main(mib: int) -> None:
    """Print one line for each recipe."""
    print(features(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name) / "model.safetensors", shapes(mib))
        for recipe, settings in RECIPES.items():
            spec: dict[str, object] = {"model": "model.safetensors", "format": "safetensors", "recipe": settings}
            measure(Path(name), Path(name) / "model.safetensors", recipe, spec)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 128)
