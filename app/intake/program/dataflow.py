"""Check the flow of values through a program: each is computed once, before its use, and used as the kind that it is.

torch would overwrite values of the same name, and fail in its own way on a value that is used before it is computed.
Sizes that operators are asked to allocate are bounded here: a node may not claim more than a job could hold.
"""

import math
from collections.abc import Iterator
from typing import Any

from app.intake.limits import Limits
from app.intake.parsing.typed import Wrong, inside

MAKERS = frozenset(
    f"torch.ops.aten.{name}"
    for name in """full.default zeros.default ones.default empty.memory_format empty_permuted.default new_full.default
    new_zeros.default new_ones.default new_empty.default eye.default eye.m arange.default arange.start arange.start_step
    linspace.default expand.default repeat.default tile.default one_hot.default repeat_interleave.self_int
    constant_pad_nd.default pad.default broadcast_to.default upsample_nearest2d.vec hann_window.default
    hamming_window.default blackman_window.default bartlett_window.default kaiser_window.default logspace.default
    vander.default linalg_vander.default istft.default fft_fftfreq.default fft_rfftfreq.default fft_fft.default
    fft_ifft.default fft_rfft.default fft_irfft.default fft_hfft.default fft_ihfft.default fft_fft2.default
    fft_ifft2.default fft_rfft2.default fft_irfft2.default fft_fftn.default fft_ifftn.default fft_rfftn.default
    fft_irfftn.default fft_hfft2.default fft_hfftn.default fft_ihfft2.default fft_ihfftn.default empty_strided.default
    new_empty_strided.default linspace.Scalar_Tensor linspace.Tensor_Scalar linspace.Tensor_Tensor
    logspace.Scalar_Tensor logspace.Tensor_Scalar logspace.Tensor_Tensor nonzero_static.default max_unpool3d.default
    max_unpool2d.default histogram.bin_ct histogramdd.default expand_copy.default _upsample_nearest_exact1d.default
    upsample_bicubic2d.default upsample_bilinear2d.default upsample_linear1d.default upsample_nearest1d.default
    upsample_nearest2d.default upsample_trilinear3d.default reflection_pad1d.default reflection_pad2d.default
    reflection_pad3d.default replication_pad1d.default replication_pad2d.default replication_pad3d.default
    upsample_nearest3d.default _upsample_nearest_exact2d.default _upsample_nearest_exact3d.default
    as_strided_copy.default histc.default triu_indices.default tril_indices.default""".split()  # noqa: SIM905 - words
)
"""Operators whose integer arguments determine the size of their result."""


def check_flow(document: dict[str, Any], limits: Limits) -> None:
    """Raise Wrong, with the node, when a value is missing or computed twice, or one is asked for that is too large."""
    graph, signature = document["graph_module"]["graph"], document["graph_module"]["signature"]
    tensors, numbers = graph["tensor_values"], {**graph["sym_int_values"], **graph["sym_bool_values"]}
    made: set[str] = set()
    for argument in graph["inputs"]:
        _make(made, argument, tensors, numbers)
    _check_signature(graph, signature)
    for position, node in enumerate(graph["nodes"]):
        inside(f"node {position}", lambda node: _check_node(made, node, tensors, numbers, limits), node)
    for argument in graph["outputs"]:
        inside("outputs", lambda argument: _use(made, argument), argument)
    for spec in signature["output_specs"]:
        (content,) = spec.values()
        argument = content["arg"]
        _use(made, argument if "name" not in argument else {"as_tensor": argument})
    for name, meta in tensors.items():
        inside(name, _check_strides, meta)


def _check_signature(graph: dict[str, Any], signature: dict[str, Any]) -> None:
    """Raise Wrong unless the signature lists the graph's own inputs, in their order."""
    if len(signature["input_specs"]) != len(graph["inputs"]):
        raise Wrong("has another number of inputs than the graph", "signature")
    for spec, argument in zip(signature["input_specs"], graph["inputs"], strict=True):
        (kind, content), *_ = spec.items()
        if kind == "user_input" and content["arg"] != argument:
            raise Wrong("has its inputs in another order than the graph", "signature")
        if kind in ("parameter", "buffer", "tensor_constant") and argument != {"as_tensor": content["arg"]}:
            raise Wrong("has its parameters in another order than the graph", "signature")


def _check_node(
    made: set[str], node: dict[str, Any], tensors: dict[str, Any], numbers: dict[str, Any], limits: Limits
) -> None:
    for entry in node["inputs"]:
        inside(entry["name"], lambda argument: _use(made, argument), entry["arg"])
    for argument in node["outputs"]:
        _make(made, argument, tensors, numbers)
    if node["target"] in MAKERS:
        for entry in node["inputs"]:
            sizes = entry["arg"].get("as_ints", [entry["arg"].get("as_int", 0)])
            if math.prod(max(1, abs(size)) for size in sizes) > limits.tensor_bytes:
                raise Wrong(f"asks for a tensor of more than {limits.tensor_bytes} bytes", entry["name"])


def _use(made: set[str], argument: dict[str, Any]) -> None:
    for name in names_in(argument):
        if name not in made:
            raise Wrong("uses a value that no earlier node computes")


def _make(made: set[str], argument: dict[str, Any], tensors: dict[str, Any], numbers: dict[str, Any]) -> None:
    for name in names_in(argument):
        if name in made:
            raise Wrong("computes a value that already exists")
        known = numbers if "as_sym_int" in argument or "as_sym_bool" in argument else tensors
        if name not in known:
            raise Wrong("computes a value that has no description")
        made.add(name)


def names_in(argument: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the values that an argument refers to."""
    (content,) = argument.values()
    for entry in content if isinstance(content, list) else [content]:
        if isinstance(entry, dict):
            inner = entry.get("as_tensor", entry)
            name = inner.get("name", inner.get("as_name")) if isinstance(inner, dict) else None
            if name is not None:
                yield name


def _check_strides(meta: dict[str, Any]) -> None:
    if len(meta["sizes"]) != len(meta["strides"]):
        raise Wrong("has another number of strides than of sizes")
