"""A `.pt2` (torch.export archive) becomes a source: prune the graph, find the layers, make them real `nn` modules.

The user's Python code is not needed: the graph holds the operators, the signature the parameters' names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree
from torch.utils._sympy.numbers import IntInfinity
from torch.utils._sympy.value_ranges import bound_sympy

from zeropoint.data.batches import Dim, Input
from zeropoint.errors import InvalidModel, Unsupported
from zeropoint.graph.batch_norm_folding import fold_normalizations
from zeropoint.graph.calls import layer_calls
from zeropoint.graph.constants import Constants
from zeropoint.graph.functional import functional
from zeropoint.graph.fused_outputs import insert_fused_outputs
from zeropoint.graph.layers import Found, list_layers, module_classes
from zeropoint.graph.leaves import insert_leaves
from zeropoint.graph.lora import merge_adapters
from zeropoint.graph.obstacles import obstacles
from zeropoint.graph.positions import by_position
from zeropoint.graph.pruning import prune
from zeropoint.graph.spelled_names import spelled
from zeropoint.graph.training_mode import modules_in_training
from zeropoint.model.layer import distinct_bytes
from zeropoint.model.quiet import torch_is_quiet
from zeropoint.model.source import ProgramSource
from zeropoint.sources.finite import require_finite

EXPORT_AGAIN = "Export the model again with torch.export.export and torch.export.save."
OTHER_FORMS = (
    "Give the path of a .pt2 file. Load the folder of a Hugging Face model with from_pretrained, and a file of weights "
    "into its module, and give the module; the service and `zeropoint job` take the files themselves."
)


def open_uploaded_program(path: Path, device: str, *, fold: bool = False, merge_lora: bool = False) -> ProgramSource:
    """Load and prune a program, and find its layers.

    `fold`: fold batch normalizations into the convolutions before them (`graph.batch_norm_folding`).
    `merge_lora`: merge low-rank adapters into the linears beside them (`graph.lora`).
    Raises InvalidModel if the file can't be loaded, Unsupported if the program takes something other than tensors and
    constants.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        remedy = OTHER_FORMS if path.is_dir() else "Give the path of a .pt2 file."
        raise InvalidModel("program_invalid", f"The file {path.name!r} {what}.", remedy)
    try:
        with torch_is_quiet():
            uploaded = torch.export.load(path)
    except Exception as error:
        raise InvalidModel(
            "program_invalid",
            "The file can't be loaded as a torch.export program.",
            EXPORT_AGAIN if path.suffix == ".pt2" else OTHER_FORMS,
        ) from error
    return program_source(uploaded, device, fold=fold, merge_lora=merge_lora)


def program_source(
    uploaded: ExportedProgram, device: str = "cpu", *, fold: bool = False, merge_lora: bool = False
) -> ProgramSource:
    """Return the source of a loaded program. Raises InvalidModel on weights that are not finite."""
    original = dict(uploaded.state_dict)
    require_finite(original)
    uploaded = by_position(uploaded)
    classes, structure = module_classes(uploaded), "\n".join(_operators(uploaded))
    program, folded = prune(functional(uploaded)), frozenset[str]()
    live_bytes = distinct_bytes(program.state_dict.values())
    if merge_lora:
        program, folded = merge_adapters(program)
    if fold:
        program, normalizations = fold_normalizations(program)
        folded |= normalizations
    if device != "cpu":
        program = move_to_device_pass(program, device)
    computed = Constants(program, program.graph)
    calls = layer_calls(program, computed, original)
    reasons = obstacles(calls, computed)
    runnable = spelled(program)
    module = _flat(runnable.module(check_guards=False))
    quantizable = {name: places for name, places in calls.items() if name not in reasons}
    fused_outputs = insert_fused_outputs(module, quantizable)
    leaves = insert_leaves(module, computed, quantizable)
    found = Found(calls, reasons, leaves, fused_outputs, classes, folded)
    inputs, constants = _inputs(program)
    return ProgramSource(
        module=module,
        layers=list_layers(program, original, found),
        tensors=program.state_dict,
        original_bytes=distinct_bytes(original.values()),
        dead_bytes=distinct_bytes(original.values()) - live_bytes,
        device=device,
        program=program,
        calls=calls,
        original=original,
        structure=structure,
        inputs=inputs,
        output_names=_output_names(program),
        training=modules_in_training(uploaded),
        constants=constants,
        changing=_detach_mutated(runnable, module),
    )


def _operators(program: ExportedProgram) -> Iterator[str]:
    """Give the graph's operators in order, but those that speak of shapes alone: a file may tell these otherwise."""
    for node in program.graph.nodes:
        if isinstance(node.target, OpOverload) and node.target.namespace == "aten" and "sym_" not in str(node.target):
            yield str(node.target)


def _flat(module: GraphModule) -> GraphModule:
    """Return the same graph with flat inputs and outputs, without the check of the user's call signature."""
    module.graph.set_codegen(CodeGen())
    return GraphModule(module, module.graph)


def _inputs(program: ExportedProgram) -> tuple[tuple[Input, ...], dict[int, object]]:
    """Return the input tensors, and by position the constants of the export. Raises Unsupported on other inputs."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    arguments = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    tensors: list[Input] = []
    constants: dict[int, object] = {}
    for position, argument in enumerate(arguments):
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


def _output_names(program: ExportedProgram) -> tuple[str, ...]:
    """Return the path of each flat output in the structure that the user's model returns: "logits", "0", "states.1"."""
    spec = program.call_spec.out_spec
    if spec is None:
        return ()
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(spec.num_leaves), spec))
    return tuple(".".join(map(_step, path)) or "0" for path, _ in paths)


def _step(key: object) -> str:
    """Return one step of a path: a key, a position or an attribute."""
    values = (getattr(key, name, None) for name in ("key", "idx", "name"))
    return str(next(value for value in values if value is not None))


def _dimension(program: ExportedProgram, size: int | torch.SymInt) -> int | Dim:
    if isinstance(size, int):
        return size
    bounds = bound_sympy(size.node.expr, program.range_constraints)
    return Dim(int(bounds.lower), None if isinstance(bounds.upper, IntInfinity) else int(bounds.upper))


def _detach_mutated(program: ExportedProgram, module: nn.Module) -> dict[str, Tensor]:
    """Copy the buffers that the runnable module writes; return the uploaded ones, which the program keeps."""
    uploaded: dict[str, Tensor] = {}
    for name in set(program.graph_signature.buffers_to_mutate.values()):
        owner, _, leaf = name.rpartition(".")
        uploaded[name] = module.get_buffer(name)
        setattr(module.get_submodule(owner), leaf, uploaded[name].clone())
    return uploaded
