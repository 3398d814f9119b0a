"""torchao, PT2E with the quantizer for Inductor on x86. Needs torchao and a program of torch.export."""

from pathlib import Path

from torch import nn

from benchmarks.comparison.spent import Stopwatch
from benchmarks.models.model import Tensors, export, outputs
from benchmarks.peers.peer import Peer, Quantized, stored_bytes


def quantize(network: nn.Module, calibration: Tensors, _: Path) -> Quantized:
    """Observe, then convert; the result computes in float on the integers' grids."""
    from torchao.quantization.pt2e.quantize_pt2e import (  # noqa: PLC0415 - an optional package
        convert_pt2e,
        prepare_pt2e,
    )
    from torchao.quantization.pt2e.quantizer import (  # noqa: PLC0415 - an optional package
        x86_inductor_quantizer as x86,
    )

    graph = export(network, calibration).module()
    graph.graph.eliminate_dead_code()  # on what nothing reads the quantizer stops with an IndexError
    graph.recompile()
    watch = Stopwatch()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(graph, quantizer)
    outputs(prepared, calibration)
    converted = convert_pt2e(prepared)
    return Quantized(converted, stored_bytes(converted), watch.spent())


TORCHAO = Peer("torchao", ("torchao",), quantize)
