"""Open `model.onnx`: checked by onnx, loaded by onnxruntime on the CPU."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.schema.formats import ONNX_FILE
from zeropoint.schema.report import Loaded
from zeropoint.simulation.processor import SATURATING, this_level

ERRORS_ALONE = 3


@dataclass(frozen=True)
class OpenedOnnx:
    """An onnxruntime session, and what opened it.

    Where the processor's kernels saturate, `session` computes exact sums, and shows what the file says.
    """

    session: Any
    loaded: tuple[Loaded, ...]
    path: str
    usual: list[Any] = field(default_factory=list)
    """The session that users get, once it is needed."""

    def run(self, batch: Mapping[str, Tensor]) -> list[object]:
        """Return the model's outputs; inputs go by position."""
        return _outputs(self.session, batch)

    def run_as_usual(self, batch: Mapping[str, Tensor]) -> list[object]:
        """Return the outputs of a session without any option that changes numbers."""
        if not self.usual:
            self.usual.append(_session(self.path, exact=False))
        return _outputs(self.usual[0], batch)


def open_onnx(folder: Path) -> OpenedOnnx:
    """Check and load the file. Raises what the libraries raise."""
    path = str(folder / ONNX_FILE)
    import_module("onnx.checker").check_model(path, full_check=True)
    session = _session(path, exact=this_level() in SATURATING)
    loaded = Loaded(name=ONNX_FILE, loader="onnxruntime.InferenceSession", version=load_runtime().__version__)
    return OpenedOnnx(session, (loaded,), path)


def _session(path: str, *, exact: bool, threads: int | None = None) -> Any:
    """Return a session with all optimizations; `exact`: weights become uint8 in it, whose sums can't saturate."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with other jobs
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def call_in_one_thread(path: Path, tensors: Iterable[Tensor]) -> Callable[[], object]:
    """Return a call of a file on these tensors in a session with all optimizations and one thread."""
    session = _session(str(path), exact=False, threads=1)
    arrays = [tensor.contiguous().numpy() for tensor in tensors]
    feed = dict(zip((value.name for value in session.get_inputs()), arrays, strict=True))
    return lambda: session.run(None, feed)


def _outputs(session: Any, batch: Mapping[str, Tensor]) -> list[object]:
    names = [value.name for value in session.get_inputs()]
    inputs = {name: tensor.contiguous().numpy() for name, tensor in zip(names, batch.values(), strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, inputs)]


def load_runtime() -> Any:
    """Import onnxruntime with telemetry disabled: its published builds report usage to their maker."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251 - no setting is read, and it must be before the import
    runtime = import_module("onnxruntime")  # an extra
    runtime.set_default_logger_severity(ERRORS_ALONE)
    return runtime
