"""A quantized model in Python: run it, save it, load it again."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from zeropoint.errors import InvalidModel
from zeropoint.formats import TORCH_CHECKPOINT_FILE
from zeropoint.loading.quantized_module import quantized_module
from zeropoint.loading.stored import read_safetensors, read_torch_checkpoint
from zeropoint.schema.formats import ONNX_FILE, PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.job import REPORT_FILE
from zeropoint.schema.report import Report

FILES = (SAFETENSORS_FILE, PROGRAM_FILE, ONNX_FILE, TORCH_CHECKPOINT_FILE, REPORT_FILE)


@dataclass(frozen=True)
class QuantizedModel:
    """The result of `quantize` and of `load`."""

    report: Report
    module: Callable[..., Any]
    """Has the inputs and outputs of the float model; a torch.nn.Module that needs only torch."""
    folder: Path
    """The validated files; the folder of a result of `quantize` is removed together with this object."""

    def save(self, path: str | Path) -> None:
        """Write the validated files into the folder `path`, which is created if needed. Raises OSError."""
        target = Path(path)
        target.mkdir(parents=True, exist_ok=True)
        if target.resolve() == self.folder.resolve():
            return
        for name in FILES:
            (target / name).unlink(missing_ok=True)  # an older file of that name would be taken for this model's
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, target / name)


def load(path: str | Path, model: nn.Module | None = None) -> QuantizedModel:
    """Open a folder that `QuantizedModel.save` or a job wrote: the same input gives bit-identical output.

    `model`: for a folder of a whole module, the float module, of the class and arguments that were quantized (its
    weights are not read); for a folder of a program, None. Raises InvalidModel or Unsupported when the folder is
    incomplete, was written by another version, or doesn't fit the module.
    """
    folder = Path(path)
    return QuantizedModel(_report(folder), open_module(folder, model), folder)


def open_module(folder: Path, model: nn.Module | None) -> nn.Module:
    """Return the module in a saved folder; see `load`."""
    if model is None:
        return _program(folder)
    if (folder / TORCH_CHECKPOINT_FILE).exists():
        return quantized_module(model, read_torch_checkpoint(folder / TORCH_CHECKPOINT_FILE))
    if (folder / SAFETENSORS_FILE).exists():
        return quantized_module(model, read_safetensors(folder / SAFETENSORS_FILE))
    raise _missing(f"neither {TORCH_CHECKPOINT_FILE} nor {SAFETENSORS_FILE}")


def _program(folder: Path) -> nn.Module:
    if (folder / PROGRAM_FILE).exists():
        try:
            return torch.export.load(folder / PROGRAM_FILE).module()
        except Exception as error:
            raise InvalidModel(
                "saved_model_invalid", f"{PROGRAM_FILE} can't be loaded as a program.", "Save the model again."
            ) from error
    if (folder / TORCH_CHECKPOINT_FILE).exists() or (folder / SAFETENSORS_FILE).exists():
        raise InvalidModel(
            "float_module_required",
            "The folder holds tensors, but no program that computes with them.",
            "Pass the float module too: load(path, model=YourModule()).",
        )
    raise _missing(f"no {PROGRAM_FILE}")


def _report(folder: Path) -> Report:
    if not (folder / REPORT_FILE).exists():
        raise _missing(f"no {REPORT_FILE}")
    try:
        return Report.model_validate_json((folder / REPORT_FILE).read_bytes())
    except ValidationError as error:
        raise InvalidModel(
            "saved_model_invalid",
            f"{REPORT_FILE} is not a report of this version.",
            "Read it with the version of Zeropoint that wrote it, or quantize again.",
        ) from error


def _missing(what: str) -> InvalidModel:
    return InvalidModel(
        "saved_model_missing", f"The folder has {what}.", "Pass the folder that QuantizedModel.save or a job wrote."
    )
