"""Formats: one writer per artifact format. To add one, see CONTRIBUTING.md."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zeropoint.formats.huggingface.writer import write_folder
from zeropoint.formats.onnx.writer import require_onnx, write_onnx
from zeropoint.formats.program.writer import write_program
from zeropoint.formats.safetensors import write_safetensors
from zeropoint.formats.torch_checkpoint import write_torch_checkpoint
from zeropoint.layers.result import Quantized
from zeropoint.model.source import Source
from zeropoint.schema.formats import FORMATS, ONNX_FILE, PROGRAM_FILE, SAFETENSORS_FILE

TORCH_CHECKPOINT_FILE = "model.pt"


class Write(Protocol):
    """Writes a result at a path. Raises OSError when the disk doesn't take it."""

    def __call__(self, quantized: Quantized, path: Path) -> None: ...


@dataclass(frozen=True)
class Writer:
    """A format's file in the folder, or "." for a format of several files, and what writes it."""

    file: str
    write: Write
    require: Callable[[Source], None] = lambda _: None
    """Raises Unsupported, before any work, when it can't write this model, or not here."""


WRITERS: Mapping[str, Writer] = {
    "safetensors": Writer(SAFETENSORS_FILE, write_safetensors),
    "pt2": Writer(PROGRAM_FILE, write_program),
    "onnx": Writer(ONNX_FILE, write_onnx, require_onnx),
    "huggingface": Writer(".", write_folder),
    "checkpoint": Writer(TORCH_CHECKPOINT_FILE, write_torch_checkpoint),
}
"""By the names of `artifacts.FORMATS`; a checkpoint is what the library alone writes, for a module in memory."""

VALIDATED: Mapping[str, tuple[str, ...]] = {"pt2": ("safetensors", "pt2")}
"""By source: what is written whether it is asked for or not, because validation runs the one and compares the other."""
MODULE_FORMATS = ("safetensors", "checkpoint")


def require_writers(source: Source, names: Iterable[str]) -> None:
    """Raises Unsupported when one of these formats can't be written of this model, or not here."""
    for name in names:
        WRITERS[name].require(source)


def write_formats(quantized: Quantized, folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Write these formats, and give each name as it is done."""
    for name in names:
        writer = WRITERS[name]
        writer.write(quantized, folder / writer.file)
        yield name


def drop_unwanted(folder: Path, written: Iterable[str], wanted: Iterable[str]) -> None:
    """Remove the files of formats that were written to be validated, and that nobody asked for."""
    for name in set(written) - set(wanted):
        for path in folder.iterdir():
            if any(names.fullmatch(path.name) for names in FORMATS[name].kinds.values()):  # type: ignore[index]
                path.unlink()
