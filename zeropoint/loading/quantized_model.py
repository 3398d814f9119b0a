"""A quantized model in Python: call it, read its report, save it, load it again."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators of model.pt2
from pydantic import ValidationError
from torch import nn

from zeropoint.errors import InvalidModel, Unsupported
from zeropoint.formats import TORCH_CHECKPOINT_FILE
from zeropoint.loading.described import report_of
from zeropoint.loading.float_programs import is_quantized
from zeropoint.loading.quantized_module import quantized_module
from zeropoint.loading.stored import Stored, read_safetensors, read_torch_checkpoint
from zeropoint.loading.summary import layer_table, overview
from zeropoint.model.quiet import torch_is_quiet
from zeropoint.schema.formats import ONNX_FILE, PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.job import REPORT_FILE
from zeropoint.schema.report import Report

FILES = (SAFETENSORS_FILE, PROGRAM_FILE, ONNX_FILE, TORCH_CHECKPOINT_FILE, REPORT_FILE)
READERS: Mapping[str, Callable[[Path], Stored]] = {
    TORCH_CHECKPOINT_FILE: read_torch_checkpoint,
    SAFETENSORS_FILE: read_safetensors,
}
"""How to read the files that hold tensors and metadata, the preferred one first."""


@dataclass(frozen=True, repr=False)
class QuantizedModel:
    """The result of `quantize` and of `load`. It is callable as the float model is."""

    told: Report | None
    """The report, where there is one (see `report`)."""
    module: Callable[..., Any]
    """Has the inputs and outputs of the float model; a torch.nn.Module that needs only torch."""
    files: Mapping[str, Path]
    """The files by the names under which they are saved; those of `quantize` are removed together with this object."""
    no_program: str = ""
    """Why a module that `quantize` got has no `model.pt2`; empty where it has one, or was loaded."""

    @property
    def report(self) -> Report:
        """Return the report. Raises InvalidModel for a program that was loaded from a file alone."""
        if self.told is None:
            raise InvalidModel(
                "saved_model_missing",
                f"The model was loaded from a program alone, which holds no report: there was no {REPORT_FILE}.",
                f"Load the folder with {REPORT_FILE} or {SAFETENSORS_FILE} beside the program.",
            )
        return self.told

    @property
    def folder(self) -> Path:
        """Return the folder of the files."""
        return next(iter(self.files.values())).parent

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the quantized model, with the arguments that the float model takes."""
        return self.module(*arguments, **options)

    def __repr__(self) -> str:
        told = ["(loaded from a program alone, without a report)"] if self.told is None else overview(self.told)
        note = [f"program  none: {self.no_program}"] if self.no_program else []
        return "\n  ".join([type(self).__name__, *told, *note])

    def summary(self) -> str:
        """Return a table of all layers as text. Raises what `report` raises."""
        return "\n".join([repr(self), "", *layer_table(self.report)])

    def save(self, path: str | Path) -> None:
        """Write the validated files into the folder `path`, which is created if needed.

        Raises OSError, and Unsupported for a file.
        """
        target = Path(path)
        if any(place.exists() and not place.is_dir() for place in (target, *target.parents)):
            raise Unsupported(
                "not_a_folder",
                f"{target.name!r} is a file, or lies in one.",
                "Give a folder: several files go into it.",
            )
        target.mkdir(parents=True, exist_ok=True)
        if all(source.resolve() == (target / name).resolve() for name, source in self.files.items()):
            return
        for name in FILES:
            (target / name).unlink(missing_ok=True)  # an older file of that name would be taken for this model's
            if name in self.files:
                shutil.copyfile(self.files[name], target / name)


def saved_files(folder: Path) -> dict[str, Path]:
    """Return the files of a result in its folder, by name."""
    return {name: folder / name for name in FILES if (folder / name).exists()}


def load(path: str | Path, model: nn.Module | None = None) -> QuantizedModel:
    """Open what `QuantizedModel.save` or a job wrote, a folder or one of its files.

    `model`: the float module, of the class and arguments that were quantized (its weights are not read), into which
    the quantized values are put, for bit-identical output; None runs `model.pt2`, which a module has where torch.export
    took it. Without `report.json`, the report has what the metadata of
    `model.safetensors` or `model.pt` tells. Raises InvalidModel or Unsupported when something is missing, was written
    by another version, or doesn't fit the module.
    """
    if not isinstance(path, str | PathLike):
        raise _missing(f"no path in {type(path).__name__}")
    place = Path(path)
    files = saved_files(place) if place.is_dir() else {_kind(place): place}
    if not files.keys() - {REPORT_FILE}:
        raise _missing(f"none of {', '.join(FILES[:-1])}")
    module = open_module(files, model)
    return QuantizedModel(_report(files), module, files)


def open_module(files: Mapping[str, Path], model: nn.Module | None) -> nn.Module:
    """Return the module in saved files, by name; see `load`."""
    if model is None:
        return _program(files)
    for name, read in READERS.items():
        if name in files:
            return quantized_module(model, _of_a_module(read(files[name])))
    raise _missing(f"neither {TORCH_CHECKPOINT_FILE} nor {SAFETENSORS_FILE}, from which a module is filled")


def _of_a_module(stored: Stored) -> Stored:
    """Return the tensors. Raises InvalidModel for those of a program that was quantized in a module's place."""
    if "program_in_place" in stored.about.get("warnings", ()):
        raise InvalidModel(
            "module_does_not_fit",
            "The tensors are those of the module's exported program (program_in_place in the report), whose layers are "
            "not those of the module.",
            "Load it without a model: load(path).",
        )
    return stored


def _program(files: Mapping[str, Path]) -> nn.Module:
    if PROGRAM_FILE in files:
        try:
            with torch_is_quiet():
                program = torch.export.load(files[PROGRAM_FILE])
        except Exception as error:
            raise InvalidModel(
                "saved_model_invalid", f"{PROGRAM_FILE} can't be loaded as a program.", "Save the model again."
            ) from error
        if len(files) == 1 and not is_quantized(program):
            raise InvalidModel(
                "saved_model_missing",
                "The program is in float: it was not quantized by Zeropoint.",
                "To quantize it: zeropoint.quantize(path, calibration_data). To run it as it is: torch.export.load.",
            )
        with torch_is_quiet():
            return program.module()
    tensors = next((read(files[name]) for name, read in READERS.items() if name in files), None)
    if tensors is not None:
        types = sorted({str(layer["type"]) for layer in tensors.layers.values()})
        raise InvalidModel(
            "float_module_required",
            f"The tensors are here ({len(tensors.layers)} quantized layers: {', '.join(types)}), but no program that "
            f"computes with them: there is no {PROGRAM_FILE}.",
            f"Pass the float module too: load(path, model=YourModule()), or put {PROGRAM_FILE} into the same folder.",
        )
    raise _missing(f"no {PROGRAM_FILE}")


def _report(files: Mapping[str, Path]) -> Report | None:
    """Return the report that lies beside the files, else what their metadata tells; None if only a program is there."""
    if REPORT_FILE not in files:
        return next((report_of(read(files[name])) for name, read in READERS.items() if name in files), None)
    try:
        return Report.model_validate_json(files[REPORT_FILE].read_bytes())
    except ValidationError as error:
        raise InvalidModel(
            "saved_model_invalid",
            f"{REPORT_FILE} is not a report of this version.",
            "Read it with the version of Zeropoint that wrote it, or quantize again.",
        ) from error


def _kind(path: Path) -> str:
    """Return which of FILES a file is, by its content: a download may have any name. Raises InvalidModel."""
    if not path.is_file():
        raise _missing(f"no file or folder {path.name!r}")
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"{":
        raise _missing("a JSON file in place of a model; a report has no tensors")
    if start != b"PK":
        return SAFETENSORS_FILE
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except BadZipFile as error:
        raise InvalidModel("saved_model_invalid", "The file is cut off.", "Download or save it again.") from error
    return PROGRAM_FILE if any(name.endswith("models/model.json") for name in names) else TORCH_CHECKPOINT_FILE


def _missing(what: str) -> InvalidModel:
    return InvalidModel(
        "saved_model_missing",
        f"There is {what}.",
        "Pass the folder that QuantizedModel.save or a job wrote, or one of its files.",
    )
