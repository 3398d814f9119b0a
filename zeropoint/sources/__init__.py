"""Sources: an upload becomes a module whose layers are real `nn` modules. One file per format."""

from pathlib import Path

from zeropoint.model.source import ProgramSource
from zeropoint.schema.formats import SourceFormat
from zeropoint.sources.huggingface.source import HuggingFaceSource, open_huggingface
from zeropoint.sources.program import open_uploaded_program


def open_source(
    path: Path, file_format: SourceFormat, device: str, *, fold: bool = False, merge_lora: bool = False
) -> ProgramSource | HuggingFaceSource:
    """Open an upload by its format; for the options see `open_uploaded_program`. Raises InvalidModel or Unsupported."""
    match file_format:
        case "pt2":
            return open_uploaded_program(path, device, fold=fold, merge_lora=merge_lora)
        case "huggingface":
            return open_huggingface(path, device)
        case _:
            raise ValueError(f"unknown format {file_format}")
