"""Formats: one writer per artifact file. To add one: its name in `recipe`, a file here, one entry below."""

from collections.abc import Callable, Iterator
from pathlib import Path

from quantization.formats.program import write_program
from quantization.formats.safetensors import write_safetensors
from quantization.layers import Quantized
from quantization.recipe import Recipe

WRITERS: dict[str, tuple[str, Callable[[Quantized, Path], None]]] = {
    "safetensors": ("model.safetensors", write_safetensors),
    "pt2": ("model.pt2", write_program),
}
"""Format -> (file name, writer)."""


def write_formats(quantized: Quantized, folder: Path) -> Iterator[Path]:
    """Write every format (validation needs them all), and give each file as it is done."""
    for file_name, write in WRITERS.values():
        write(quantized, folder / file_name)
        yield folder / file_name


def drop_unwanted(recipe: Recipe, folder: Path) -> None:
    """Remove the files that the recipe does not ask for (null: all are wanted; safetensors always is)."""
    wanted = {"safetensors", *(recipe.formats or WRITERS)}
    for name, (file_name, _) in WRITERS.items():
        if name not in wanted:
            (folder / file_name).unlink()
