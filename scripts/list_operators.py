"""Write the operators that programs may call, those that they may not, and docs/reference/operators.md with both.

python -m scripts.list_operators

`app/intake/program/operators.txt` has each operator in an export of tests/honest_programs.py, tests/operators.py or
tests/operator_samples.txt. Only aten operators and Python's arithmetic on sizes are taken; whatever else an export
holds fails the gate's tests. `refused_operators.txt` has all of torch's other operators, with the reason,
and `pointwise_operators.txt` those that work element by element.
"""

import io
import json
import logging
import textwrap
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram

from app.intake.program import growth, refused
from app.intake.program.operators import LIST, allowed
from scripts.operator_reasons import reason
from tests import operator_samples, operators
from tests.honest_programs import HONEST

KINDS = ("torch.ops.aten.", "_operator.", "torch.sym_")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "operators.md"
WIDTH = 120


def targets(program: ExportedProgram) -> Iterator[str]:
    """What the nodes of a program call, as its file says it."""
    file = io.BytesIO()
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/models/model.json"))
        nodes = json.loads(archive.read(name))["graph_module"]["graph"]["nodes"]
    yield from (node["target"] for node in nodes)


def taken() -> set[str]:
    """Export everything, with and without decompositions, and return what is called."""
    found = set(operator_samples.keys())
    for make in HONEST.values():
        found |= {target for program in make().programs() for target in targets(program)}
    for texts in operators.groups():
        found |= {target for program in operators.programs(texts) for target in targets(program)}
    return {target for target in found if target.startswith(KINDS)}


def refusals(known: Iterable[str]) -> dict[str, str]:
    """Return the word of `refused.REASONS` for each of aten's operators that is not known."""
    left = {operator_samples.name_of(operator): operator for operator in aten()}
    return {name: reason(left[name]) or "unseen" for name in sorted(left.keys() - {*known})}


def aten() -> Iterator[OpOverload]:
    """Yield every operator of aten, in every form."""
    names = {
        name.partition("::")[2].partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::")
    }
    for packet in (getattr(torch.ops.aten, name, None) for name in sorted(names)):
        for form in packet.overloads() if packet is not None else ():
            yield getattr(packet, form)


def page(known: Iterable[str], words: Mapping[str, str]) -> str:
    """Return the page of all operators."""
    known = [name for name in known if name.startswith(KINDS[0])]
    parts = [
        "# Operators",
        _wrapped(
            f"A program may call these {len(known)} operators of torch's aten, and Python's arithmetic on sizes. Each "
            "was exported, passed the gate, was loaded and run. A form in brackets is an overload: `add` "
            "(Scalar, Tensor) is `torch.ops.aten.add.Scalar` and `torch.ops.aten.add.Tensor`; without brackets it is "
            "`default`. `python -m scripts.list_operators` writes this page."
        ),
        "## Taken",
        _forms(known),
        "## Refused",
        _wrapped(
            "All other operators of aten, by the reason. Those that write into a tensor that they are given (`out=`) "
            "are counted and not listed: an export has none of them. Operators of other libraries are refused as "
            "custom operators, and `torch.cond`, `while_loop`, `scan` and `map` because they branch or loop by values. "
            "Regions without gradients, and of an autocast on the cpu, are inlined."
        ),
    ]
    for word, told in refused.REASONS.items():
        names = [name for name, why in words.items() if why == word]
        parts.append(f"### It {told.why} ({len(names)})")
        parts.append(_wrapped(told.remedy))
        if word != "out" and names:
            parts.append(_forms(names))
    return "\n\n".join(parts) + "\n"


def _forms(names: Iterable[str]) -> str:
    """Return operators with their overloads in brackets: `abs`, `add` (Scalar, Tensor)."""
    forms: dict[str, list[str]] = {}
    for name in sorted(names):
        operator, _, form = name.removeprefix(KINDS[0]).rpartition(".")
        forms.setdefault(operator, []).append(form)
    return _wrapped(
        ", ".join(
            f"`{name}`" + (f" ({', '.join(kinds)})" if kinds != ["default"] else "") for name, kinds in forms.items()
        )
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def pointwise(known: Iterable[str]) -> list[str]:
    """Return the operators that torch itself marks as working element by element."""
    aten = [name for name in sorted(known) if name.startswith(KINDS[0])]
    return [name for name in aten if torch.Tag.pointwise in attrgetter(name.removeprefix("torch.ops."))(torch.ops).tags]


def write(known: Iterable[str]) -> None:
    """Write both lists and the page."""
    known = sorted(known)
    words = refusals(known)
    growth.POINTWISE.write_text("".join(f"{name}\n" for name in pointwise(known)), "ascii")
    LIST.write_text("".join(f"{name}\n" for name in known), "ascii")
    refused.LIST.write_text("".join(f"{name} {word}\n" for name, word in words.items()), "ascii")
    PAGE.write_text(page(known, words), "utf-8")


def main() -> None:
    """Export everything, with and without decompositions."""
    logging.disable(logging.CRITICAL)
    before, found = allowed(), taken()
    write(found)
    print(f"{len(found)} operators; new: {sorted(found - before)}; gone: {sorted(before - found)}")


if __name__ == "__main__":
    main()
