"""Reopen the saved files of a whole module in this process: a second process could not import the module's class."""

import logging
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from zeropoint.formats import TORCH_CHECKPOINT_FILE
from zeropoint.loading.quantized_module import quantized_module
from zeropoint.loading.stored import Stored, read_safetensors, read_torch_checkpoint
from zeropoint.loading.timing import Rounds, alternately, one_thread
from zeropoint.schema.formats import SAFETENSORS_FILE
from zeropoint.schema.report import Loaded
from zeropoint.sources.module import call_module

logger = logging.getLogger(__name__)


class ReopenedModule:
    """A `SavedModel` in this process: errors are logged, and answered by False or None as in the second process."""

    def __init__(self, model: nn.Module, device: str) -> None:
        self._model = model
        self._device = device
        self._module: nn.Module | None = None
        self._outputs: dict[int, Tensor] | None = None
        self.loaded: list[Loaded] = []
        self.further_outputs: dict[str, dict[int, Tensor]] = {}
        self.also_outputs: dict[str, dict[int, Tensor]] = {}

    def open(self, folder: Path) -> bool:
        """Return whether both files open, agree bit for bit, and fit the float module."""
        try:
            stored = read_torch_checkpoint(folder / TORCH_CHECKPOINT_FILE)
            require_same(stored, read_safetensors(folder / SAFETENSORS_FILE))
            self._module = quantized_module(self._model, stored)
        except Exception:
            logger.exception("The saved files don't open.")
            return False
        self.loaded = [
            Loaded(name=TORCH_CHECKPOINT_FILE, loader="torch.load", version=str(torch.__version__)),
            Loaded(name=SAFETENSORS_FILE, loader="safetensors.safe_open", version=version("safetensors")),
        ]
        return True

    @property
    def compiles(self) -> bool:
        """Whether it can be compiled: its program alone could, which is written later."""
        return False

    def compiled(self, folder: Path, isa: str | None, seconds: float) -> NoReturn:
        """Raise NotImplementedError."""
        raise NotImplementedError(f"{folder} {isa} {seconds}")

    def time_compiled(self, folder: Path, seconds: float, batch: Sequence[Tensor], write: object) -> NoReturn:
        """Raise NotImplementedError."""
        raise NotImplementedError(f"{folder} {seconds} {batch} {write}")

    def time(self, batch: Sequence[Tensor], _write: object) -> dict[str, Rounds]:
        """Return the time of calls of the module and of the float one, under "torch"; nothing for those on a GPU."""
        if self._module is None or self._device != "cpu":
            return {}
        calls = [partial(call_module, module, batch, self._device) for module in (self._module, self._model)]
        with one_thread():
            return {"torch": alternately(*calls)}

    @property
    def module(self) -> nn.Module | None:
        """Return the opened module, which ran on the evaluation samples; None where the files didn't open."""
        return self._module

    def start(self, batch: Sequence[Tensor], _also: Sequence[str] = ()) -> None:
        """Run a batch; `finish` returns its outputs."""
        self._outputs = None
        if self._module is None:
            return
        try:
            with torch.no_grad():
                values = call_module(self._module, batch, self._device)
            self._outputs = {i: value.cpu() for i, value in enumerate(values) if isinstance(value, Tensor)}
        except Exception:
            logger.exception("The quantized module doesn't run.")

    def finish(self) -> dict[int, Tensor] | None:
        """Return the output tensors by position; None when the run failed."""
        return self._outputs


def require_same(left: Stored, right: Stored) -> None:
    """Raise ValueError, naming the tensor, unless two files hold the same tensors bit for bit."""
    for name in sorted(set(left.tensors) | set(right.tensors)):
        first, second = left.tensors.get(name), right.tensors.get(name)
        if first is None or second is None or first.dtype != second.dtype or not torch.equal(first, second):
            raise ValueError(f"{name} differs between the saved files")
