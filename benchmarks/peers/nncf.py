"""nncf on OpenVINO models, with SmoothQuant as it comes and without. Needs nncf and openvino.

nncf smooths transformers alone, so on other models both are the same.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.comparison.spent import Stopwatch
from benchmarks.models.model import Call, Tensors, batches
from benchmarks.peers.peer import Peer, Quantized


def quantize(network: nn.Module, calibration: Tensors, folder: Path, *, smooth: bool) -> Quantized:
    """Quantize the OpenVINO model; the result runs in OpenVINO."""
    import nncf  # noqa: PLC0415 - an optional package
    import openvino  # noqa: PLC0415 - an optional package

    plain = openvino.convert_model(network, example_input=tuple(tensor[:2] for tensor in calibration.values()))
    watch = Stopwatch()
    made = nncf.quantize(
        plain,
        nncf.Dataset(_arrays(calibration)),
        model_type=nncf.ModelType.TRANSFORMER if _is_transformer(network) else None,
        advanced_parameters=None if smooth else _without_smoothing(),
    )
    spent = watch.spent()
    openvino.save_model(made, folder / "quantized.xml", compress_to_fp16=False)
    return Quantized(_compiled(made), (folder / "quantized.bin").stat().st_size, spent)


def _arrays(samples: Tensors) -> list[list[Any]]:
    """Batches as everyone gets them: sample by sample the digits come out 12 dB worse."""
    return [[tensor.numpy() for tensor in batch] for batch in batches(samples)]


def _is_transformer(network: nn.Module) -> bool:
    return any(isinstance(module, nn.LayerNorm) for module in network.modules())


def _without_smoothing() -> Any:
    import nncf  # noqa: PLC0415 - an optional package
    from nncf.quantization.advanced_parameters import (  # noqa: PLC0415 - an optional package
        AdvancedSmoothQuantParameters,
    )

    return nncf.AdvancedQuantizationParameters(smooth_quant_alphas=AdvancedSmoothQuantParameters(-1, -1))


def _compiled(made: Any) -> Call:
    import openvino  # noqa: PLC0415 - an optional package

    program = openvino.compile_model(made, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})

    def call(*tensors: Tensor) -> list[Tensor]:
        found = program([tensor.numpy() for tensor in tensors])
        return [torch.from_numpy(found[output].copy()) for output in program.outputs]

    return call


NEEDS = ("nncf", "openvino")
NNCF = Peer("nncf", NEEDS, partial(quantize, smooth=True))
NNCF_UNSMOOTHED = Peer("nncf-unsmoothed", NEEDS, partial(quantize, smooth=False))
