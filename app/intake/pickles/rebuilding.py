"""The functions that a pickle may name, each of which becomes a description here; none of torch's is called.

A list, written by hand from torch's own `_weights_only_unpickler`: rebuilt tensors, ordered dicts, sizes and devices.
Anything else becomes Foreign, and is refused by its name when the tensors are collected.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from app.intake.parsing.typed import Wrong
from app.intake.pickles.values import DTYPE_OF_STORAGE, NO_STATE_DICT, Foreign, Global, Storage, TensorView

MAX_RANK = 64
LARGEST = 2**63 - 1

Arguments = tuple[object, ...]

_MISFIT = "describes a tensor in another way than torch does"
_UTILS = "torch._utils."
_PLAIN_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")

UNUSUAL: Mapping[str, str] = MappingProxyType(
    {
        f"{_UTILS}_rebuild_qtensor": "a quantized tensor",
        f"{_UTILS}_rebuild_sparse_tensor": "a sparse tensor",
        f"{_UTILS}_rebuild_sparse_csr_tensor": "a sparse tensor",
        f"{_UTILS}_rebuild_nested_tensor": "a nested tensor",
        f"{_UTILS}_rebuild_meta_tensor_no_storage": "a tensor without values, of the device meta",
        f"{_UTILS}_rebuild_wrapper_subclass": "a tensor of a class of its own",
        f"{_UTILS}_rebuild_device_tensor_from_numpy": "a tensor of a device that stores it as numpy",
        f"{_UTILS}_rebuild_device_tensor_from_cpu_tensor": "a tensor of a device that stores it in its own way",
    }
)
"""Tensors that are named in a refusal as what they are."""


def rebuild(function: Global, arguments: Arguments) -> object:
    """Return what a call describes. Raises Wrong when it is on the list and its arguments are not torch's."""
    if function.path in UNUSUAL:
        return Foreign(UNUSUAL[function.path])
    known = _REBUILT.get(function.path)
    if known is None:
        named = next((value for value in arguments[:1] if isinstance(value, Global)), function)
        return Foreign(f"an object of {(named if function.module in ('copyreg', 'copy_reg') else function).shown}")
    return known(arguments)


def storage_of(identity: object) -> Storage | Foreign:
    """Return the storage that a persistent id names: ("storage", class, key, device, elements). Raises Wrong.

    Files of torch < 1.6 have a sixth entry: None, or (key, start, elements) of a part of another storage.
    """
    match identity:
        case ("storage", Global() as kind, str(key), str(), int(elements)):
            start = 0
        case ("storage", Global() as kind, str(key), str(), int(elements), None):
            start = 0
        case ("storage", Global() as kind, str(key), str(), int(), (str(), int(start), int(elements))):
            pass
        case ("module", Global() as kind, *_):  # torch < 1.6 stores a module's class with its source
            raise Wrong(f"is an object of {kind.shown}, {NO_STATE_DICT}")
        case _:
            raise Wrong("refers to something other than a storage")
    if not 0 <= elements <= LARGEST or not 0 <= start <= LARGEST or len(key) > 64:
        raise Wrong("refers to a storage of an impossible size")
    dtype = DTYPE_OF_STORAGE.get(kind.name)
    if kind.module in ("torch", "torch.cuda") and dtype is not None:
        return Storage(key, dtype, elements, start)
    if kind.path in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        return Storage(key, None, elements, start)
    return Foreign(f"numbers of {kind.shown}")


def _view(storage: object, offset: object, sizes: object, strides: object, dtype: str | None) -> TensorView | Foreign:
    if isinstance(storage, Foreign):
        return storage
    if not isinstance(storage, Storage):
        raise Wrong(_MISFIT)
    element = storage.dtype if dtype is None else dtype
    (start,), shape, steps = _sizes((offset,)), _sizes(sizes), _sizes(strides)
    if len(shape) != len(steps) or element is None or storage.dtype not in (None, element):
        raise Wrong(_MISFIT)
    return TensorView(storage, element, shape, steps, start)


def _sizes(values: object) -> tuple[int, ...]:
    """Return sizes, strides or an offset. Raises Wrong unless all are integers of 0 or more."""
    if not isinstance(values, tuple) or len(values) > MAX_RANK:
        raise Wrong(_MISFIT)
    if not all(type(value) is int and 0 <= value <= LARGEST for value in values):
        raise Wrong(_MISFIT)
    return values


def _tensor(arguments: Arguments) -> object:
    match arguments:
        case (storage, offset, sizes, strides):
            return _view(storage, offset, sizes, strides, None)
    raise Wrong(_MISFIT)


def _tensor_v2(arguments: Arguments) -> object:
    match arguments:
        case (storage, offset, sizes, strides, requires_grad, _, *metadata) if len(metadata) <= 1:
            return _finished(_view(storage, offset, sizes, strides, None), requires_grad, metadata)
    raise Wrong(_MISFIT)


def _tensor_v3(arguments: Arguments) -> object:
    match arguments:
        case (storage, offset, sizes, strides, requires_grad, _, Global() as dtype, *metadata) if len(metadata) <= 1:
            if dtype.dtype is None:
                return Foreign(f"a tensor of {dtype.shown.removeprefix('torch.')}")
            return _finished(_view(storage, offset, sizes, strides, dtype.dtype), requires_grad, metadata)
    raise Wrong(_MISFIT)


def _finished(view: TensorView | Foreign, requires_grad: object, metadata: list[object]) -> object:
    """Return the tensor, or say that its values are those of the storage turned into others: conjugates, negatives."""
    if isinstance(view, Foreign):
        return view
    for flags in metadata:
        if flags is not None and (not isinstance(flags, dict) or any(flags.values())):
            return Foreign("a tensor whose values are turned into others as they are read (conj, neg)")
    return replace(view, requires_grad=requires_grad is True)


def _parameter(arguments: Arguments) -> object:
    match arguments:
        case (TensorView() as data, bool(requires_grad), _) | (TensorView() as data, bool(requires_grad), _, _):
            return replace(data, requires_grad=requires_grad, is_parameter=True)
        case (Foreign() as foreign, *_):
            return foreign
    raise Wrong(_MISFIT)


def _from_type(arguments: Arguments) -> object:
    """Read a tensor with attributes, or of a subclass; the attributes of plain tensors are left out."""
    match arguments:
        case (Global() as function, Global() as kind, tuple(inner), _):
            if kind.path not in _PLAIN_CLASSES:
                return Foreign(f"a tensor of the class {kind.shown}")
            if function.path in _TENSORS:
                return rebuild(function, inner)
    raise Wrong(_MISFIT)


def _ordered_dict(arguments: Arguments) -> object:
    """Return a new dict; Python 2 wrote the entries as a list of lists."""
    match arguments:
        case ():
            return {}
        case (list(pairs),) if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return {key: value for key, value in pairs if isinstance(key, str | int)}
    raise Wrong("has an ordered dict that is none")


def _counter(arguments: Arguments) -> object:
    match arguments:
        case (dict(counts),):
            return dict(counts)
    return {}


def _device(_arguments: Arguments) -> object:
    return ""


def _size(arguments: Arguments) -> object:
    match arguments:
        case (tuple(sizes),):
            return sizes
    raise Wrong(_MISFIT)


_TENSORS: Mapping[str, Callable[[Arguments], object]] = {
    f"{_UTILS}_rebuild_tensor": _tensor,
    f"{_UTILS}_rebuild_tensor_v2": _tensor_v2,
    f"{_UTILS}_rebuild_tensor_v3": _tensor_v3,
    f"{_UTILS}_rebuild_parameter": _parameter,
    f"{_UTILS}_rebuild_parameter_with_state": _parameter,
}
_REBUILT: Mapping[str, Callable[[Arguments], object]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
}


def is_known(name: Global) -> bool:
    """Return whether the pickle may name it: a function of the list, a storage's class, an element type."""
    storage = name.module in ("torch", "torch.cuda") and name.name in DTYPE_OF_STORAGE
    untyped = name.path in ("torch.storage.UntypedStorage", "torch.UntypedStorage")
    return storage or untyped or name.dtype is not None or name.path in _REBUILT or name.path in _PLAIN_CLASSES
