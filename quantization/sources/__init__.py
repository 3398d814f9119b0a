"""Sources: an upload becomes a module with real leaves. One file per format; the engine knows none of them."""

from pathlib import Path

from quantization.sources.program import open_program
from quantization.sources.source import ProgramSource


def open_source(path: Path, file_format: str, device: str) -> ProgramSource:
    """Open an upload by its format. Raises InvalidModel or Unsupported."""
    match file_format:
        case "pt2":
            return open_program(path, device)
        case _:
            raise ValueError(f"unknown format {file_format}")
