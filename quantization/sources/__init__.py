"""Sources: an upload becomes a module with real leaves. One file per format; the engine knows none of them."""

from pathlib import Path

from quantization.artifacts import SourceFormat
from quantization.sources.huggingface import HuggingFaceSource, open_huggingface
from quantization.sources.program import open_program
from quantization.sources.source import ProgramSource


def open_source(
    path: Path, file_format: SourceFormat, device: str, *, fold: bool = False
) -> ProgramSource | HuggingFaceSource:
    """Open an upload by its format; `fold`: see `open_program`. Raises InvalidModel or Unsupported."""
    match file_format:
        case "pt2":
            return open_program(path, device, fold=fold)
        case "huggingface":
            return open_huggingface(path, device)
        case _:
            raise ValueError(f"unknown format {file_format}")
