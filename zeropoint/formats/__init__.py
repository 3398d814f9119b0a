"""Formats: one writer per artifact format (CONTRIBUTING.md says how to add one)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zeropoint.formats.huggingface.writer import record_folder, write_folder
from zeropoint.formats.onnx.writer import require_onnx, write_onnx
from zeropoint.formats.program.writer import write_program
from zeropoint.formats.safetensors import record_safetensors, write_safetensors
from zeropoint.formats.torch_checkpoint import record_torch_checkpoint, write_torch_checkpoint
from zeropoint.layers.result import Quantized
from zeropoint.model.source import Source
from zeropoint.schema.formats import FORMATS, ONNX_FILE, PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.report import Report

TORCH_CHECKPOINT_FILE = "model.pt"


class Write(Protocol):
    """Write a result at a path. Raises OSError when the disk can't take it."""

    def __call__(self, quantized: Quantized, path: Path) -> None: ...


class Record(Protocol):
    """Write a result's report into the metadata of the file at a path. Raises OSError."""

    def __call__(self, quantized: Quantized, path: Path, report: Report) -> None: ...


@dataclass(frozen=True)
class Writer:
    """One format: its file name in the folder ("." for a format of several files), and the function that writes it."""

    file: str
    write: Write
    require: Callable[[Source], None] = lambda _: None
    """Raise Unsupported, before any work, when this model can't be written, or not on this machine."""
    record: Record | None = None
    """Write what validation measured into the file's metadata, if the format has any."""


WRITERS: Mapping[str, Writer] = {
    "safetensors": Writer(SAFETENSORS_FILE, write_safetensors, record=record_safetensors),
    "pt2": Writer(PROGRAM_FILE, write_program),
    "onnx": Writer(ONNX_FILE, write_onnx, require_onnx),
    "huggingface": Writer(".", write_folder, record=record_folder),
    "checkpoint": Writer(TORCH_CHECKPOINT_FILE, write_torch_checkpoint, record=record_torch_checkpoint),
}
"""Writers by the names in `schema.formats.FORMATS`; only the library writes "checkpoint", for a module in memory."""

VALIDATED: Mapping[str, tuple[str, ...]] = {"pt2": ("safetensors", "pt2")}
"""Formats written for a source even if not requested: validation runs one and compares it with the other."""
MODULE_FORMATS = ("safetensors", "checkpoint")


def require_writers(source: Source, names: Iterable[str]) -> None:
    """Raise Unsupported when one of these formats can't be written for this model, or not on this machine."""
    for name in names:
        WRITERS[name].require(source)


def write_formats(quantized: Quantized, folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Write these formats, and yield each name once its file is written."""
    for name in names:
        writer = WRITERS[name]
        writer.write(quantized, folder / writer.file)
        yield name


def record_results(quantized: Quantized, folder: Path, names: Iterable[str], report: Report) -> None:
    """Write what validation measured into the metadata of these formats. Raises OSError."""
    for name in names:
        writer = WRITERS[name]
        if writer.record is not None:
            writer.record(quantized, folder / writer.file, report)


def drop_unwanted(folder: Path, written: Iterable[str], requested: Iterable[str]) -> None:
    """Remove files that were written only for validation."""
    for name in set(written) - set(requested):
        for path in folder.iterdir():
            if any(names.fullmatch(path.name) for names in FORMATS[name].kinds.values()):  # type: ignore[index]
                path.unlink()
