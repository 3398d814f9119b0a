"""The tensors of a pickle by their paths: {"model": {"a": tensor}, "steps": [tensor]} -> model.a, steps.0."""

from collections.abc import Iterator

from app.intake.parsing.names import is_name
from app.intake.parsing.typed import Wrong
from app.intake.pickles.values import NO_STATE_DICT, Foreign, Global, Pickle, Storage, TensorView

MAX_DEPTH = 64
MAX_VISITS = 2_000_000
ALONE = "tensor"
"""The name of a tensor that is the whole file."""

_MOST_SHOWN = 5

Path = tuple[str, ...]


def tensors_of(pickle: Pickle) -> dict[str, TensorView]:
    """Return the tensors by name. Raises Wrong, which names every object that is on no list, or the path it is at."""
    tensors: dict[str, TensorView] = {}
    foreign: dict[str, str] = {}
    for path, value in _leaves(pickle.value):
        if isinstance(value, TensorView):
            name = ".".join(path) or ALONE
            if name in tensors:
                raise Wrong("stands for two tensors", name)
            tensors[name] = value
        elif isinstance(value, Foreign | Storage) or (isinstance(value, Global) and value.dtype is None):
            foreign[".".join(path)] = _described(value)
    if foreign or pickle.foreign:
        raise Wrong(_refusal(foreign, pickle))
    return tensors


def _described(value: Foreign | Storage | Global) -> str:
    match value:
        case Foreign(what):
            return what
        case Global():
            return value.shown
    return "a storage without a tensor"


def _refusal(found: dict[str, str], pickle: Pickle) -> str:
    if list(found) == [""]:
        return f"is {found['']}, {NO_STATE_DICT}"
    named = [f"{_shown(name)} is {what}" for name, what in found.items()]
    named = named or [f"it names {foreign.what}" for foreign in pickle.foreign]
    more = f", and {len(named) - _MOST_SHOWN} more" if len(named) > _MOST_SHOWN else ""
    return f"holds more than tensors, numbers, text, lists and dicts: {'; '.join(named[:_MOST_SHOWN])}{more}"


def _shown(name: str) -> str:
    return name if is_name(name) else "something whose name is not shown"


def _leaves(root: object) -> Iterator[tuple[Path, object]]:
    """Yield every value that is neither a list nor a dict with its path, in the order of the pickle. Raises Wrong."""
    waiting: list[tuple[Path, object]] = [((), root)]
    for _ in range(MAX_VISITS):
        if not waiting:
            return
        path, value = waiting.pop()
        entries = _entries(value)
        if entries is None:
            yield path, value
        elif len(path) == MAX_DEPTH:
            raise Wrong(f"is nested deeper than {MAX_DEPTH} levels")
        else:
            waiting += [((*path, str(key)), entry) for key, entry in reversed(entries)]
    raise Wrong(f"holds more than {MAX_VISITS} values")


def _entries(value: object) -> list[tuple[object, object]] | None:
    match value:
        case dict():
            return list(value.items())
        case list() | tuple():
            return list(enumerate(value))
    return None
