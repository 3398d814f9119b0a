"""Open `model.onnx`: checked by onnx, loaded by onnxruntime on the CPU."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeropoint.schema.formats import ONNX_FILE
from zeropoint.schema.report import Loaded

ERRORS_ALONE = 3


@dataclass(frozen=True)
class OpenedOnnx:
    """An onnxruntime session, and what opened it."""

    session: Any
    loaded: tuple[Loaded, ...]

    def run(self, batch: Mapping[str, Tensor]) -> list[object]:
        """Return the model's outputs; inputs go by position."""
        names = [value.name for value in self.session.get_inputs()]
        inputs = {name: tensor.contiguous().numpy() for name, tensor in zip(names, batch.values(), strict=True)}
        return [torch.from_numpy(array) for array in self.session.run(None, inputs)]


def open_onnx(folder: Path) -> OpenedOnnx:
    """Check and load the file. Raises what the libraries raise."""
    path = str(folder / ONNX_FILE)
    import_module("onnx.checker").check_model(path, full_check=True)
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with other jobs
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loaded = Loaded(name=ONNX_FILE, loader="onnxruntime.InferenceSession", version=runtime.__version__)
    return OpenedOnnx(session, (loaded,))


def load_runtime() -> Any:
    """Import onnxruntime with telemetry disabled: its published builds report usage to their maker."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251 - no setting is read, and it must be before the import
    runtime = import_module("onnxruntime")  # an extra
    runtime.set_default_logger_severity(ERRORS_ALONE)
    return runtime
