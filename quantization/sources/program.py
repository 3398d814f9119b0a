"""A `.pt2` (torch.export archive) becomes a source: prune, find the layers, put real leaves in.

Nothing of the user's Python is needed: the graph holds the operators, the signature the parameters' names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.utils._sympy.numbers import IntInfinity
from torch.utils._sympy.value_ranges import bound_sympy

from quantization.errors import InvalidModel, Unsupported
from quantization.names import layer_name
from quantization.report import SkipReason
from quantization.samples import Extent, Input
from quantization.sources.graph import Call, has_other_uses, layer_calls, module_types, stored_names
from quantization.sources.leaves import insert_leaves
from quantization.sources.pruning import functional, prune
from quantization.sources.source import Layer, ProgramSource, distinct_bytes

EXPORT_AGAIN = "Export the model again with torch.export.export and torch.export.save, and upload that file."


def open_program(path: Path, device: str) -> ProgramSource:
    """Load, prune and dissect a program. Raises InvalidModel if it does not load, Unsupported if it can not be fed."""
    try:
        uploaded = torch.export.load(path)
    except Exception as error:
        raise InvalidModel(
            "program_invalid", "The file can't be loaded as a torch.export program.", EXPORT_AGAIN
        ) from error
    return program_source(uploaded, device)


def program_source(uploaded: ExportedProgram, device: str = "cpu") -> ProgramSource:
    """Dissect a program. Raises InvalidModel on weights that are not finite."""
    original = dict(uploaded.state_dict)
    _require_finite(uploaded)
    types = _layer_types(uploaded)
    program = prune(functional(uploaded))
    if device != "cpu":
        program = move_to_device_pass(program, device)
    calls = layer_calls(program.graph, stored_names(program))
    module = _flat(program.module(check_guards=False))
    leaves = insert_leaves(module, program, {name: places for name, places in calls.items() if _reason(places) is None})
    inputs, constants = _inputs(program)
    return ProgramSource(
        module=module,
        layers=tuple(_layers(program, original, types, calls, leaves)),
        tensors=program.state_dict,
        original_bytes=distinct_bytes(original.values()),
        dead_bytes=distinct_bytes(original.values()) - distinct_bytes(program.state_dict.values()),
        device=device,
        program=program,
        inputs=inputs,
        constants=constants,
        changing=_detach_mutated(program, module),
    )


def _flat(module: GraphModule) -> GraphModule:
    """The same graph, called with flat inputs, giving flat outputs, without the check of the user's call signature."""
    module.graph.set_codegen(CodeGen())
    return GraphModule(module, module.graph)


def _layer_types(program: ExportedProgram) -> dict[str, str]:
    """Layer name -> class of the module that holds its parameters, from the nodes that read them."""
    types: dict[str, str] = {}
    stored = stored_names(program)
    for node in program.graph.nodes:
        paths = dict(module_types(node))
        for parameter in (stored[read.name] for read in node.all_input_nodes if read.name in stored):
            holder = parameter.rpartition(".")[0]
            if holder in paths:
                types.setdefault(layer_name(parameter), paths[holder])
    return types


def _layers(
    program: ExportedProgram,
    original: dict[str, Tensor],
    types: dict[str, str],
    calls: dict[str, list[Call]],
    leaves: dict[str, nn.Module],
) -> Iterator[Layer]:
    """Every module that owns parameters, in the order of the state dict; dead ones are listed as such."""
    parameters: dict[str, dict[str, Tensor]] = {}
    for name, tensor in original.items():
        if isinstance(tensor, nn.Parameter) or layer_name(name) in calls:
            parameters.setdefault(layer_name(name), {})[name] = tensor
    names = stored_names(program)
    live = {tensor.untyped_storage().data_ptr() for tensor in program.state_dict.values()}
    for name, own in parameters.items():
        places, leaf = calls.get(name), leaves.get(name)
        alive = any(parameter in program.state_dict for parameter in own)
        if not alive and all(tensor.untyped_storage().data_ptr() in live for tensor in own.values()):
            continue  # another name of a tensor that is alive: an export reads tied weights under one name
        yield Layer(
            name=name,
            type=types.get(name, "Module"),
            bytes=distinct_bytes(own.values()),
            kind=places[0].kind if places and leaf else None,
            module=leaf,
            weight_name=names[places[0].weight.name] if places and leaf else None,
            reason=("unsupported" if places is None else _reason(places)) if alive else "dead_code",
        )


def _reason(places: list[Call]) -> SkipReason | None:
    """Why a layer that the graph shows as linear or convolution can't be one leaf; None when it can."""
    if has_other_uses(places):
        return "shared_weight_conflict"
    first = places[0]
    alike = all((c.kind, c.options, c.bias) == (first.kind, first.options, first.bias) for c in places)
    return None if alike else "unsupported"


def _inputs(program: ExportedProgram) -> tuple[tuple[Input, ...], dict[int, object]]:
    """The tensors to feed, and the inputs that the export fixed, by position."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    user = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    tensors: list[Input] = []
    constants: dict[int, object] = {}
    for position, argument in enumerate(user):
        if isinstance(argument, TensorArgument):
            value = cast(Tensor, values[argument.name])
            shape = tuple(_dimension(program, size) for size in value.shape)
            tensors.append(Input(argument.name, value.dtype, shape))
        elif isinstance(argument, ConstantArgument):
            constants[position] = argument.value
        else:
            raise Unsupported(
                "unsupported_input",
                f"Input {argument.name!r} is a number that varies from call to call.",
                "Export the model with tensors as its only varying inputs.",
            )
    if not tensors:
        raise Unsupported("unsupported_input", "The model takes no tensor.", "Export it with its tensors as inputs.")
    return tuple(tensors), constants


def _dimension(program: ExportedProgram, size: int | torch.SymInt) -> int | Extent:
    if isinstance(size, int):
        return size
    bounds = bound_sympy(size.node.expr, program.range_constraints)
    return Extent(int(bounds.lower), None if isinstance(bounds.upper, IntInfinity) else int(bounds.upper))


def _detach_mutated(program: ExportedProgram, module: nn.Module) -> dict[str, Tensor]:
    """Give the runnable module its own copy of buffers that it writes, so that the program keeps the uploaded ones."""
    state: dict[str, Tensor] = {}
    for name in set(program.graph_signature.buffers_to_mutate.values()):
        owner, _, leaf = name.rpartition(".")
        state[name] = module.get_buffer(name)
        setattr(module.get_submodule(owner), leaf, state[name].clone())
    return state


def _require_finite(program: ExportedProgram) -> None:
    """NaN has no place in a weight; infinity has one in a buffer (an attention mask)."""
    for name, tensor in program.state_dict.items():
        if not tensor.is_floating_point():
            continue
        bad = ~torch.isfinite(tensor) if isinstance(tensor, nn.Parameter) else torch.isnan(tensor)
        if bool(bad.any()):
            raise InvalidModel(
                "non_finite_weights",
                f"Tensor {name!r} holds NaN or infinity, first at index {bad.nonzero()[0].tolist()}.",
                "Train or repair the model, then export and upload it again.",
            )
