"""Programs that other releases of torch exported: four small networks of each, with inputs and outputs beside them."""

import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from safetensors.torch import load_file
from torch import Tensor

ARCHIVE = Path(__file__).parent / "app/intake/program/exports.tar.xz"
RELEASES = ("2.6.0", "2.8.0", "2.9.1", "2.12.1", "2.13.0", "2.14.1", "2.15.0")
NETWORKS = ("cnn", "encoder", "recurrent", "attention")
PAIRS = tuple((release, network) for network in NETWORKS for release in RELEASES)


@dataclass(frozen=True)
class Exported:
    """The file, the inputs by name, and the float model's output that was recorded."""

    path: Path
    inputs: dict[str, Tensor]
    output: Tensor


def exported(release: str, network: str) -> Exported:
    """Return one of the recorded programs."""
    path = _folder() / release / f"{network}.pt2"
    inputs = load_file(path.with_suffix(".safetensors"))
    output = inputs.pop("output")
    return Exported(path, inputs, output)


@cache
def _folder() -> Path:
    folder = Path(mkdtemp())
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder
