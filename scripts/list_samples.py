"""Write tests/operator_samples.txt: a sample for each operator that tests/operators.py lacks.

python -m scripts.list_samples

Every sample of torch's own table is traced as an export sees it, and run as a decomposed export would. The first sample
that calls an operator, and whose program is exported, passes the gate, loads and gives what torch gives, is kept.
"""

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

from app.errors import Invalid
from app.intake.limits import Limits
from app.intake.program import operators as listed
from app.intake.program.read import read_program
from scripts.list_operators import targets
from scripts.operator_reasons import reason
from tests import operator_samples as table

DTYPES = (torch.float32, torch.complex64, torch.int64, torch.bool)
INLINED = {"torch.ops.higher_order.wrap_with_set_grad_enabled"}
MOST_KEYS = 4
"""Of an operator: where the first sample's program fails, the next is tried."""


def overloads(name: str) -> OpOverload | None:
    """Return an operator by the name that an export has for it, None for what is none of aten's."""
    parts = name.removeprefix("torch.ops.aten.").split(".")
    packet = getattr(torch.ops.aten, parts[0], None) if name.startswith("torch.ops.aten.") else None
    found = getattr(packet, parts[-1], None)
    return found if isinstance(found, OpOverload) else None


def candidates() -> dict[str, list[str]]:
    """Return the keys of samples by the operator that they call, but of those that have a reason not to be taken."""
    found: dict[str, list[str]] = {}
    for key, call in _calls():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, prefix in {**_within(call), **_traced(call)}.items():
                operator = overloads(name)
                if operator is not None and reason(operator) is None:
                    found.setdefault(name, []).append(f"{prefix}{key}")
    return found


def _calls() -> Iterator[tuple[str, table.Call]]:
    for name, entry in table.table().items():
        for dtype in [dtype for dtype in DTYPES if dtype in entry.supported_dtypes("cpu")][:2]:
            try:
                samples = list(table.samples(entry, dtype))
            except Exception:  # some samples need more than a cpu
                continue
            for number, sample in enumerate(samples):
                for variant, function in table.variants(entry).items():
                    word = str(dtype).removeprefix("torch.")
                    arguments = (sample.input, *sample.args)
                    yield f"{name}|{word}|{variant}|{number}", table.Call(function, arguments, sample.kwargs)


def _traced(call: table.Call) -> dict[str, str]:
    """Return the operators of an export of the call."""
    try:
        with torch.no_grad():
            graph = make_fx(table.Sampled(call), pre_dispatch=True, tracing_mode="fake")(*call.tensors).graph
    except Exception:
        return {}
    return {table.name_of(node.target): "" for node in graph.nodes if node.op == "call_function"}


def _within(call: table.Call) -> dict[str, str]:
    """Return the operators that torch calls, each with the beginning of the key of that call."""
    try:
        return {name: f"{name}@" for name in table.calls_within(call)}
    except Exception:
        return {}


def works(program: ExportedProgram, call: table.Call, known: set[str], folder: Path) -> bool:
    """Return whether a program passes the gate with these operators, loads, and gives what the call gives."""
    path = folder / "model.pt2"
    torch.export.save(program, path)
    listed.allowed.cache_clear()
    found, kept = set(targets(program)), listed.allowed
    listed.allowed = lambda: frozenset(known | found)  # type: ignore[assignment]
    fresh = io.BytesIO()
    try:
        read_program(path, Limits()).write(fresh)
        outputs = torch.export.load(io.BytesIO(fresh.getvalue())).module()(*call.tensors)
        expected = table.Sampled(call)(*call.tensors)
        return len(outputs) == len(expected) and all(map(_alike, outputs, expected))
    except Invalid:
        return False
    finally:
        listed.allowed = kept


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)


def chosen(found: dict[str, list[str]], known: set[str], folder: Path) -> dict[str, str]:
    """Return each operator that isn't known with the key of the first sample whose program works.

    A program may have operators that were found to work before, so all are tried again as long as one is found.
    """
    kept: dict[str, str] = {}
    while True:
        new = dict(
            _working(
                {name: found[name] for name in found if name not in known | kept.keys()}, known | kept.keys(), folder
            )
        )
        if not new:
            return kept
        kept |= new


def _working(found: dict[str, list[str]], known: set[str], folder: Path) -> Iterator[tuple[str, str]]:
    for name, keys in sorted(found.items()):
        for key in keys[:MOST_KEYS]:
            try:
                call = table.call_of(key)
                program = table.program(call)
                if {name} == set(targets(program)) - known - INLINED and works(program, call, known, folder):
                    yield name, key
                    break
            except Exception as error:
                logging.info("%s: %s", key, error)


def main() -> None:
    """Try everything."""
    logging.disable(logging.CRITICAL)
    known = set(listed.allowed()) - set(table.keys())
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{name} {key}" for name, key in sorted(chosen(candidates(), known, Path(folder)).items())]
    table.LIST.write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} operators have a sample")


if __name__ == "__main__":
    main()
