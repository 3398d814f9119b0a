"""Tell a quantized program from a float one, which `load` does not take."""

import torch
from torch import Tensor
from torch.export import ExportedProgram

_CASTS = (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default)
_SMALL = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2)


def is_quantized(program: ExportedProgram) -> bool:
    """Return whether a program dequantizes or casts something: with Q/DQ operators, or from a smaller dtype."""
    if any(getattr(node.target, "namespace", "") == "quantized_decomposed" for node in program.graph.nodes):
        return True
    if any(isinstance(tensor, Tensor) and tensor.dtype in _SMALL for tensor in program.state_dict.values()):
        return True
    signature = program.graph_signature
    stored = {*signature.inputs_to_parameters, *signature.inputs_to_buffers}
    return any(
        node.target in _CASTS and node.all_input_nodes and node.all_input_nodes[0].name in stored
        for node in program.graph.nodes
    )
