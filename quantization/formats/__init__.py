"""Formats: one writer per artifact file. To add one: its name in `recipe`, a file here, one entry below."""

from collections.abc import Callable, Iterator
from pathlib import Path

from quantization.formats.program import write_program
from quantization.formats.safetensors import write_safetensors
from quantization.layers import Quantized

WRITERS: dict[str, tuple[str, Callable[[Quantized, Path], None]]] = {
    "safetensors": ("model.safetensors", write_safetensors),
    "pt2": ("model.pt2", write_program),
}
"""Format -> (file name, writer)."""


def write_formats(quantized: Quantized, folder: Path) -> Iterator[Path]:
    """Write the formats that the recipe asks for (null: all; safetensors always), and give each file as it is done."""
    wanted = set(quantized.recipe.formats or WRITERS) | {"safetensors"}
    for name, (file_name, write) in WRITERS.items():
        if name in wanted:
            write(quantized, folder / file_name)
            yield folder / file_name
