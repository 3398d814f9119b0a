"""Quantize a module's exported program in its place, where code of the user's own multiplies by large weights.

In a module, layers are found by their class; in a program, by the operator that reads a weight, however it is written.
A module that calls `F.linear` on parameters of its own, or has parametrized weights, is quantized as a program if that
quantizes clearly more of its weights and computes the same. The weights of `nn.MultiheadAttention` are no reason.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from zeropoint.data.batches import Dim, Input, ModelInputs, require_names, require_shape
from zeropoint.entrypoints.module_program import EQUAL_DB, NoProgram, difference, example_of, exported, require_plain
from zeropoint.errors import InvalidRecipe, QuantizationError
from zeropoint.layers.selection import Choice, select
from zeropoint.metrics.sqnr import finite
from zeropoint.model.layer import Layer
from zeropoint.model.quiet import torch_is_quiet
from zeropoint.model.source import ProgramSource
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import ReportWarning
from zeropoint.sources.module import ModuleSource
from zeropoint.sources.program import program_source
from zeropoint.validation.in_float import MOST_IN_FLOAT

logger = logging.getLogger(__name__)

MOST_NAMES = 20
Addresses = set[int]
"""Where weights lie in memory: tied weights are one, under whatever name."""


@dataclass(frozen=True)
class ProgramInPlace:
    """A module's program, and how a call of the module becomes one of the program."""

    source: ProgramSource
    order: tuple[str, ...]
    """The names of a call's tensors in the order of the program's inputs."""

    def call(self, call: ModelInputs) -> ModelInputs:
        """Return a call of the module as one of the program. Raises InvalidSamples where it does not fit."""
        named = dict(zip(call.names, call, strict=True))
        inputs = self.source.inputs
        taken = tuple(replace(spec, name=name) for spec, name in zip(inputs, self.order, strict=True))
        require_names({name: tuple(tensor.shape) for name, tensor in named.items()}, taken)
        for spec in taken:
            require_shape(spec, tuple(named[spec.name].shape), named[spec.name].dtype)
        return ModelInputs((named[name] for name in self.order), [spec.name for spec in inputs], call.labels)


def program_in_place(source: ModuleSource, recipe: Recipe, calls: Sequence[ModelInputs]) -> ProgramInPlace | None:
    """Return the module's program if it quantizes more weights than the module, by a tenth of all their bytes.

    None too where torch.export does not take the module, or the program does not compute what the module computes.
    """
    weights = _Weights(source)
    module = weights.quantized(_choices(source.layers, recipe))
    if not calls or not weights.is_much(weights.in_float - weights.no_reason(module)):
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            return _better(source, recipe, calls, weights)
    except (NoProgram, QuantizationError) as reason:
        logger.info("The module is not quantized as a program: %s", reason)
    except Exception:  # an export of any module, as every other failure of it, leaves the module as it is
        logger.info("The module is not quantized as a program.", exc_info=True)
    finally:
        source.reset()
    return None


@dataclass(frozen=True)
class _Weights:
    """The weights of a module: its floating parameters of two dimensions or more."""

    source: ModuleSource

    @cached_property
    def sizes(self) -> Mapping[int, int]:
        """Address -> bytes."""
        return {_address(t): t.numel() * t.element_size() for t in self.by_name.values()}

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        parameters = self.source.module.named_parameters(remove_duplicate=False)
        return {name: t for name, t in parameters if t.dim() > 1 and t.is_floating_point() and _address(t)}

    @cached_property
    def in_float(self) -> Addresses:
        """What the module can't quantize, whatever the recipe says."""
        return self.of(
            layer for layer in self.source.layers if layer.reason in ("unsupported", "shared_weight_conflict")
        )

    def of(self, layers: Iterable[Layer]) -> Addresses:
        names = (name for layer in layers for name in layer.parameters)
        return {_address(self.by_name[name]) for name in names if name in self.by_name}

    def quantized(self, choices: Iterable[Choice]) -> Addresses:
        return self.of(choice.layer for choice in choices)

    def no_reason(self, quantized: Addresses) -> Addresses:
        """Return weights for which a module is not exported: those of attention, unless nothing else is quantized."""
        if not quantized:
            return set()
        modules = self.source.module.modules()
        attention = (module for module in modules if isinstance(module, nn.MultiheadAttention))
        return {_address(parameter) for module in attention for parameter in module.parameters()}

    def share(self, weights: Addresses) -> float:
        total = sum(self.sizes.values())
        return sum(self.sizes[address] for address in weights) / total if total else 0.0

    def is_much(self, weights: Addresses) -> bool:
        return self.share(weights) > MOST_IN_FLOAT


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _choices(layers: Iterable[Layer], recipe: Recipe) -> list[Choice]:
    """Return what the recipe quantizes, which may be nothing."""
    try:
        return select(layers, recipe)[0]
    except InvalidRecipe:
        return []


def _better(
    source: ModuleSource, recipe: Recipe, calls: Sequence[ModelInputs], weights: _Weights
) -> ProgramInPlace | None:
    """Return the program if it quantizes more. Raises NoProgram, or what torch.export and the program raise."""
    source.reset()
    program = exported(source.module, calls)
    require_plain(program)
    with torch_is_quiet():
        opened = program_source(program, torch.device(source.device).type, fold=recipe.folds)
    choices = _choices(opened.layers, recipe)
    module, whole = weights.quantized(_choices(source.layers, recipe)), weights.quantized(choices)
    gained = whole - module - weights.no_reason(module)
    if weights.share(gained) - weights.share(module - whole) <= MOST_IN_FLOAT:
        return None
    found = ProgramInPlace(replace(opened, inputs=tuple(map(_from_one_sample, opened.inputs))), _order(program))
    _require_batches(found, calls)
    for call in (example_of(calls[0]), _first_sample(calls[0]), calls[0], calls[-1]):
        _require_equal(source, found, call)
    names = [choice.layer.name for choice in choices if weights.quantized([choice]) & gained]
    note = _note(names, weights.share(module), weights.share(whole))
    return replace(found, source=replace(found.source, notes=(note,)))


def _from_one_sample(spec: Input) -> Input:
    """Return an input that takes a single sample too: torch.export says two or more, for it traces no size of one."""
    first = spec.shape[0] if spec.shape else None
    if not isinstance(first, Dim) or first.minimum == first.maximum:
        return spec
    return replace(spec, shape=(Dim(min(first.minimum, 1), first.maximum), *spec.shape[1:]))


def _first_sample(call: ModelInputs) -> ModelInputs:
    """Return the first sample of a call, or the call if it can't be cut."""
    return ModelInputs((tensor[:1] for tensor in call), call.keywords) if _is_cut(call) else call


def _is_cut(call: ModelInputs) -> bool:
    return all(tensor.dim() and len(tensor) == call.samples for tensor in call)


def _order(program: ExportedProgram) -> tuple[str, ...]:
    """Return the names of a call's tensors as `ModelInputs.names` has them, in the order of the program's inputs."""
    positional, keywords = program.call_spec.in_spec.children()
    return (*(f"argument {place}" for place in range(positional.num_leaves)), *(keywords.context or ()))


def _require_batches(found: ProgramInPlace, calls: Sequence[ModelInputs]) -> None:
    """Raise NoProgram unless the program takes any number of samples, and InvalidSamples unless it takes these calls.

    Calls that can't be cut between samples stay whole.
    """
    for call in calls:
        found.call(call)
    sizes = [spec.shape[0] for spec in found.source.inputs if spec.shape]
    if all(map(_is_cut, calls)) and not all(isinstance(size, Dim) and size.maximum is None for size in sizes):
        raise NoProgram("its program takes batches of one size alone")


def _require_equal(source: ModuleSource, found: ProgramInPlace, call: ModelInputs) -> None:
    """Raise NoProgram unless the float program gives what the float module gives, up to rounding."""
    pairs = ((source, call), (found.source, found.call(call)))
    outputs = []
    for model, batch in pairs:
        model.reset()
        torch.manual_seed(0)  # a module may draw random numbers
        with torch.no_grad(), torch_is_quiet():
            outputs.append(model.run(batch))
        model.reset()
    noise = difference(*outputs)
    db = finite(noise.db)
    if not noise.exact and (db is None or db < EQUAL_DB):
        raise NoProgram("the exported program does not compute what the module computes")


def _note(names: Sequence[str], module: float, program: float) -> ReportWarning:
    shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return ReportWarning(
        code="program_in_place",
        level="note",
        detail=f"The module multiplies by weights in code of its own ({shown}), which its exported program shows. The "
        f"program was quantized in its place: {100 * program:.0f} % of the bytes of all weights instead of "
        f"{100 * module:.0f} %.",
        remedy="Load the result without the module: load(path). To quantize the module itself, give export=False.",
        layers=list(names[:MOST_NAMES]),
    )
