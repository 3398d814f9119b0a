"""Write `model.pt2` for a module in memory: export it, and put the quantized values into the exported program.

The module was quantized as it is. The export only gives it a form that runs without its class; where torch.export can't
take the module, or the program would not compute the same, there is none, and the reason is kept.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from zeropoint.data.batches import ModelInputs, own_copies
from zeropoint.formats.program.writer import write_program
from zeropoint.loading.readers.program import OpenedProgram, open_saved_program
from zeropoint.loading.restore import restore
from zeropoint.loading.stored import read_safetensors
from zeropoint.metrics.sqnr import Noise, finite
from zeropoint.model.quiet import torch_is_quiet
from zeropoint.model.source import ProgramSource
from zeropoint.schema.formats import PROGRAM_FILE, SAFETENSORS_FILE
from zeropoint.schema.report import Report
from zeropoint.sources.module import ModuleSource, call_module
from zeropoint.sources.program import program_source

logger = logging.getLogger(__name__)

EXAMPLE_ROWS = 4
"""Most samples of the example: tracing runs no arithmetic, but a batch of one would fix the batch dimension."""
BELOW_DB = 10.0
"""How far the difference between program and module must lie below the quantization error."""
EQUAL_DB = 60.0
"""From this SQNR of the program against the module on, the two agree whatever the quantization error."""
PLAIN = (tuple, list, dict, type(None))
"""Containers that torch.export.load rebuilds in any process; a class of the user's it does not know there."""


class NoProgram(Exception):
    """Why there is no program, in words for the user."""


@dataclass(frozen=True)
class Exportable:
    """The float module as source, the same module with the quantized values, and calls to export and compare with."""

    source: ModuleSource
    quantized: nn.Module
    """A copy of its own: comparing changes its buffers."""
    calls: Sequence[ModelInputs]


def add_program(subject: Exportable, folder: Path, report: Report) -> str:
    """Write the program beside the saved tensors in `folder`; return "", or the reason why there is none."""
    try:
        if not subject.calls:
            raise NoProgram("there are no samples to export it with")
        _write(subject, folder)
        with torch_is_quiet():
            opened = open_saved_program(folder)
        _start_again(subject)
        for call in (subject.calls[0], example_of(subject.calls[0])):
            _require_same(subject, opened, call, report)
    except NoProgram as reason:
        (folder / PROGRAM_FILE).unlink(missing_ok=True)
        return str(reason)
    except (MemoryError, torch.OutOfMemoryError):
        (folder / PROGRAM_FILE).unlink(missing_ok=True)
        return "there is not enough memory to export it"
    except Exception:
        logger.info("The module has no program.", exc_info=True)
        (folder / PROGRAM_FILE).unlink(missing_ok=True)
        return "its exported graph can't hold the quantized layers"
    return ""


def _write(subject: Exportable, folder: Path) -> None:
    subject.source.reset()
    program = exported(subject.source.module, subject.calls)
    require_plain(program)
    with torch_is_quiet():
        source = program_source(program, subject.source.device)
        stored = read_safetensors(folder / SAFETENSORS_FILE)
        alive = {name: layer for name, layer in stored.layers.items() if name not in _dead(source)}
        write_program(restore(source, replace(stored, layers=alive)), folder / PROGRAM_FILE)


def require_plain(program: ExportedProgram) -> None:
    """Raise NoProgram unless any process can rebuild the structure of the outputs."""
    strange = sorted({kind.__name__ for kind in _containers(program.call_spec.out_spec)} - {k.__name__ for k in PLAIN})
    if strange:
        raise NoProgram(f"it returns {strange[0]}, a class that only its own library can rebuild")


def _dead(source: ProgramSource) -> set[str]:
    """Return the layers that no output of the program needs: a module that calls them quantized them all the same."""
    return {layer.name for layer in source.layers if layer.reason == "dead_code"}


def exported(module: nn.Module, calls: Sequence[ModelInputs]) -> ExportedProgram:
    """Export the module with every dimension dynamic that is a batch, or differs between calls. Raises NoProgram."""
    example = example_of(calls[0])
    first = len(example) - len(example.keywords)
    shapes = {id(tensor): _dynamic(position, tensor, calls) for position, tensor in enumerate(example)}
    arguments, keywords = tuple(example[:first]), dict(zip(example.keywords, example[first:], strict=True))
    try:
        bound = inspect.signature(module.forward).bind(*arguments, **keywords).arguments
        if extra := sorted(keywords.keys() - bound.keys()):
            raise NoProgram(f"{extra[0]!r} goes into **kwargs, which torch.export can't keep dynamic")
        dynamic = pytree.tree_map(lambda tensor: shapes[id(tensor)], dict(bound))
        with torch_is_quiet(), torch.no_grad():
            return torch.export.export(module, arguments, keywords, dynamic_shapes=dynamic)
    except (NoProgram, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch.export raises whatever it meets in the module
        logger.info("torch.export does not take the module.", exc_info=True)
        raise NoProgram(f"torch.export does not take it ({type(error).__name__})") from error


def example_of(call: ModelInputs) -> ModelInputs:
    """Return a few rows of a call, at least two if it can be cut between samples."""
    if any(tensor.dim() == 0 or len(tensor) != call.samples for tensor in call):
        return ModelInputs(own_copies(call, str(call[0].device)), call.keywords)
    rows = [torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor[:EXAMPLE_ROWS] for tensor in call]
    return ModelInputs((row.clone() for row in rows), call.keywords)  # each its own tensor: shapes go by tensor


def _dynamic(position: int, tensor: Tensor, calls: Sequence[ModelInputs]) -> dict[int, Any]:
    """Return the dimensions of an input that may vary: torch fixes those that the module can't take otherwise."""
    others = [call[position].shape for call in calls if len(call) > position and call[position].dim() == tensor.dim()]
    varying = {axis for axis in range(1, tensor.dim()) if len({shape[axis] for shape in others}) > 1}
    if tensor.dim() and all(shape[0] == call.samples for shape, call in zip(others, calls, strict=False)):
        varying.add(0)
    return dict.fromkeys(sorted(varying), Dim.AUTO)


def _start_again(subject: Exportable) -> None:
    """Give the quantized module the buffers that the float one began with, as the program has them."""
    for name, value in subject.source.changing.items():
        owner, _, leaf = name.rpartition(".")
        subject.quantized.get_submodule(owner)._buffers[leaf] = value.clone()


def _require_same(subject: Exportable, opened: OpenedProgram, call: ModelInputs, report: Report) -> None:
    """Raise NoProgram unless program and quantized module give the same, up to what rounding alone explains."""
    device = subject.source.device
    with torch.no_grad(), torch_is_quiet():
        noise = difference(call_module(subject.quantized, call, device), opened.run(_named(call, device)))
    db, allowed = finite(noise.db), EQUAL_DB
    if report.summary.sqnr_db is not None:
        allowed = min(EQUAL_DB, report.summary.sqnr_db + BELOW_DB)
    if not noise.exact and (db is None or db < allowed):
        raise NoProgram("the exported program does not compute what the module computes")


def difference(expected: Iterable[object], found: Iterable[object]) -> Noise:
    """Return how the floating outputs of a program differ from a module's. Raises NoProgram if others differ."""
    pairs = ([value for value in outputs if isinstance(value, Tensor)] for outputs in (expected, found))
    noise = Noise()
    for left, right in zip(*pairs, strict=True):
        if left.shape != right.shape or left.dtype != right.dtype:
            raise NoProgram("the program gives outputs of another form than the module")
        if left.is_floating_point():
            noise.add(left.cpu(), right.cpu())
    return noise


def _named(call: ModelInputs, device: str) -> Mapping[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in zip(call.names, call, strict=True)}


def _containers(spec: Any) -> Iterator[type]:
    """Yield the type of every container in a structure."""
    if spec.is_leaf():
        return
    yield spec.type
    for child in spec.children():
        yield from _containers(child)
