"""One item of calibration data becomes one call: which of its values the model takes, and which are labels.

A loader made for training yields `(inputs, labels)`, or a dict with further columns. What the model takes decides: its
inputs are taken by position or name, what is left over are labels, and what can't be decided is refused with both sides
in words. `model_inputs` decides in place of that.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zeropoint.data.batches import Input, ModelInputs
from zeropoint.errors import InvalidSamples
from zeropoint.schema.labels import LABELS

ModelInputsChoice = Callable[[Any], Any] | Iterable[int | str] | int | str
"""A function from an item to what the model is called with, or the names or positions of the inputs in an item."""
LABEL_KEYS = (LABELS, "label", "label_ids", "target", "targets")
"""Keys under which loaders hold labels: the first is left out even where a module would compute a loss from it."""
REMEDY = "Say which values the model takes: model_inputs=[0], model_inputs=['input_ids'], or a function of the batch."


@dataclass(frozen=True)
class Signature:
    """The names of what a model takes, in order; `required`: without these it can't be called."""

    names: tuple[str, ...]
    required: frozenset[str]
    by_keyword: frozenset[str] = frozenset()
    """Further names that go by keyword alone."""
    any_number: bool = False
    """Whether it takes any number of positional arguments."""
    any_name: bool = False
    """Whether it takes any keyword."""
    nested: bool = False
    """Whether nested values go in flat, as an exported program lists them."""

    def __str__(self) -> str:
        words = [name if name in self.required else f"{name} (optional)" for name in (*self.names, *self.by_keyword)]
        return ", ".join(words) or "nothing"


ANYTHING = Signature((), frozenset(), any_number=True, any_name=True)


def signature_of(module: nn.Module) -> Signature:
    """Return what a module's `forward` takes; ANYTHING where Python can't tell."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ANYTHING
    kinds = inspect.Parameter
    positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    return Signature(
        names=tuple(p.name for p in positional),
        required=frozenset(
            p.name for p in (*positional, *_of(parameters, kinds.KEYWORD_ONLY)) if p.default is kinds.empty
        ),
        by_keyword=frozenset(p.name for p in _of(parameters, kinds.KEYWORD_ONLY)),
        any_number=bool(_of(parameters, kinds.VAR_POSITIONAL)),
        any_name=bool(_of(parameters, kinds.VAR_KEYWORD)),
    )


def signature_of_inputs(inputs: Sequence[Input]) -> Signature:
    """Return what a program takes: its inputs, in order."""
    required = frozenset(spec.name for spec in inputs if not spec.optional)
    return Signature(tuple(spec.name for spec in inputs), required, nested=True)


def read_item(item: object, signature: Signature = ANYTHING, choice: ModelInputsChoice | None = None) -> ModelInputs:
    """Return one call of the model from an item, with the labels beside it, if any.

    Raises InvalidSamples when a value is no tensor, or it can't be decided which ones the model takes.
    """
    if callable(choice):
        return _call(choice(item), None)
    if choice is not None:
        return _chosen(item, [choice] if isinstance(choice, int | str) else list(choice))
    if isinstance(item, Mapping):
        return _by_name(item, signature)
    values = list(item) if isinstance(item, tuple | list) else [item]
    if len(values) > 1 and isinstance(values[0], Mapping) and not signature.nested:
        return _with_labels(_by_name(values[0], signature), values[1:])
    if len(values) > 1 and isinstance(values[0], tuple | list) and not signature.nested:
        return _with_labels(read_item(values[0], signature), values[1:])
    if signature.nested and any(isinstance(value, Mapping | tuple | list) for value in values):
        return _of_structure(values, signature)
    return _by_position(values, signature)


def _by_position(values: list[object], signature: Signature) -> ModelInputs:
    most = len(values) if signature.any_number else len(signature.names)
    surplus = len(values) - most
    undecided = surplus > 1 or (surplus == 1 and most > 0 and _like_labels(values[0]) and not _like_labels(values[-1]))
    if surplus <= 0 and not signature.any_number:
        optional = len(values) > max(1, sum(name in signature.required for name in signature.names))
        undecided = optional and _like_labels(values[-1], values[0])
    if undecided or (surplus == 1 and most == 0):
        raise _undecided(values, signature)
    return _call(tuple(values[:most]), values[most] if surplus == 1 else None)


def _by_name(item: Mapping[Any, object], signature: Signature) -> ModelInputs:
    known = {*signature.names, *signature.by_keyword}
    given = {name: value for name, value in item.items() if value is not None}
    wanted = {n: v for n, v in given.items() if n in known or (signature.any_name and n not in LABEL_KEYS)}
    if LABELS not in signature.required:
        wanted.pop(LABELS, None)
    missing = [name for name in (*signature.names, *signature.by_keyword) if name not in given]
    for name in given.keys() - known - set(LABEL_KEYS) if not signature.any_name else ():
        if near := get_close_matches(str(name), missing, n=1, cutoff=0.75):
            raise InvalidSamples(
                "dataset_does_not_fit",
                f"Tensor {name!r}: the model has no input of this name (near: {near[0]}).",
                REMEDY,
            )
    lacking = sorted(signature.required - wanted.keys())
    if lacking or not wanted:
        name = lacking[0] if lacking else str(signature)
        raise InvalidSamples(
            "dataset_does_not_fit",
            f"Tensor {name!r}: expected by the model, not in the batch, which holds {', '.join(map(repr, given))}. "
            f"The model takes {signature}.",
            REMEDY,
        )
    labels = next((given[key] for key in LABEL_KEYS if key in given and key not in wanted), None)
    return _call(wanted, labels)


def _of_structure(values: list[object], signature: Signature) -> ModelInputs:
    """Return the call of a program from nested values: by name if a dict has them, else its leaves in order."""
    first = values[0]
    if isinstance(first, Mapping) and signature.required <= first.keys():
        return _with_labels(_by_name(first, signature), values[1:])
    return _by_position(pytree.tree_leaves([dict(v) if isinstance(v, Mapping) else v for v in values]), signature)


def _chosen(item: object, keys: list[int | str]) -> ModelInputs:
    """Return the values at these positions as positional arguments, and those of these names as keywords."""
    holder: Any = item if isinstance(item, Mapping | tuple | list) else (item,)
    try:
        taken = [(key, holder[key]) for key in keys]
    except (KeyError, IndexError, TypeError) as error:
        held = ", ".join(map(repr, holder)) if isinstance(holder, Mapping) else f"{len(holder)} values, by position"
        raise _invalid(f"model_inputs names {keys}; the batch holds {held}.") from error
    by_position = [value for key, value in taken if isinstance(key, int)]
    by_name = {key: value for key, value in taken if isinstance(key, str)}
    rest = [holder[key] for key in LABEL_KEYS if key in holder] if isinstance(holder, Mapping) else []
    if not isinstance(holder, Mapping):
        rest = [value for position, value in enumerate(holder) if position not in keys]
    call = _call(tuple(by_position), None) if by_position else ModelInputs([])
    named = _call(by_name, None) if by_name else ModelInputs([])
    return _with_labels(ModelInputs([*call, *named], named.keywords), rest)


def _call(item: object, labels: object) -> ModelInputs:
    keywords = [str(name) for name in item] if isinstance(item, Mapping) else []
    values = (
        list(item.values()) if isinstance(item, Mapping) else list(item) if isinstance(item, tuple | list) else [item]
    )
    tensors: list[Tensor] = []
    for position, value in enumerate(values):
        tensor = as_tensor(value)
        if tensor is None:
            raise InvalidSamples(
                "calibration_item_invalid",
                f"Argument {keywords[position] if keywords else position!r} of a call is "
                f"{type(value).__name__}, not a tensor.",
                "Give each call as a tensor, or a tuple or dict of tensors; fix other arguments in a wrapper.",
            )
        tensors.append(tensor)
    if not tensors:
        raise InvalidSamples("calibration_item_invalid", "A call holds no tensor.", "Leave empty items out.")
    return _with_labels(ModelInputs(tensors, keywords), [labels])


def _with_labels(call: ModelInputs, rest: Sequence[object]) -> ModelInputs:
    """Return the call with the first of these values as its labels, if it looks like classes: int [N] or [N, k]."""
    labels = as_tensor(rest[0]) if rest else None
    if labels is None or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return call
    if labels.dim() not in (1, 2) or len(labels) != call.samples:
        return call
    return ModelInputs(call, call.keywords, labels.long())


def as_tensor(value: Any) -> Tensor | None:
    """Return a tensor or a numeric numpy array as a tensor; None for anything else.

    Raises InvalidSamples on a sparse tensor, and on one of the meta device.
    """
    if isinstance(value, Tensor):
        if value.is_meta or value.layout != torch.strided:
            kind = "on the meta device, without values" if value.is_meta else "sparse"
            raise InvalidSamples("calibration_item_invalid", f"A tensor is {kind}.", "Give dense tensors with values.")
        return value
    if is_array(value) and value.dtype.kind in "fiub":
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    return None


def is_array(value: Any) -> bool:
    """Return whether a value is a numpy array; the library runs without numpy."""
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _like_labels(value: object, beside: object = None) -> bool:
    """Return whether a value may be labels: integers [N]; with `beside`, for the N samples of another form."""
    tensor, other = as_tensor(value), as_tensor(beside)
    if tensor is None or tensor.dim() != 1 or tensor.is_floating_point():
        return False
    return other is None or (other.dim() > 1 and len(other) == len(tensor))


def _undecided(values: Sequence[object], signature: Signature) -> InvalidSamples:
    held = ", ".join(map(in_words, values))
    return _invalid(f"The batch holds {len(values)} values ({held}), and the model takes {signature}.")


def _invalid(detail: str) -> InvalidSamples:
    return InvalidSamples("calibration_item_invalid", detail, REMEDY)


def in_words(value: object) -> str:
    """Return `float32 [4, 16]` for a tensor, and the type's name for anything else."""
    tensor = as_tensor(value)
    if tensor is None:
        return type(value).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _of(parameters: Iterable[inspect.Parameter], kind: Any) -> list[inspect.Parameter]:
    return [parameter for parameter in parameters if parameter.kind is kind]
