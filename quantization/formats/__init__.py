"""Formats: one writer per artifact file. To add one: its name in `recipe`, a file here, one entry below."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from quantization.formats.checkpoint import write_checkpoint
from quantization.formats.program import write_program
from quantization.formats.safetensors import write_safetensors
from quantization.layers import Quantized
from quantization.recipe import Recipe

Writers = Mapping[str, tuple[str, Callable[[Quantized, Path], None]]]
"""Format -> (file name, writer)."""

SAFETENSORS_FILE = "model.safetensors"
PROGRAM_FILE = "model.pt2"
CHECKPOINT_FILE = "model.pt"

WRITERS: Writers = {
    "safetensors": (SAFETENSORS_FILE, write_safetensors),
    "pt2": (PROGRAM_FILE, write_program),
}
"""For programs."""
MODULE_WRITERS: Writers = {
    "safetensors": (SAFETENSORS_FILE, write_safetensors),
    "checkpoint": (CHECKPOINT_FILE, write_checkpoint),
}
"""For whole modules."""


def write_formats(quantized: Quantized, folder: Path, writers: Writers = WRITERS) -> Iterator[Path]:
    """Write every format (validation needs them all), and give each file as it is done."""
    for file_name, write in writers.values():
        write(quantized, folder / file_name)
        yield folder / file_name


def drop_unwanted(recipe: Recipe, folder: Path) -> None:
    """Remove the files that the recipe does not ask for (null: all are wanted; safetensors always is)."""
    wanted = {"safetensors", *(recipe.formats or WRITERS)}
    for name, (file_name, _) in WRITERS.items():
        if name not in wanted:
            (folder / file_name).unlink()
