"""Fuzzing, bounded: the gate raises nothing but its own refusal, and what it takes is harmless and passes again."""

import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import Invalid
from app.intake.limits import Limits
from app.intake.program.layouts import PROGRAM
from app.intake.program.read import read_program
from tests.effort import FUZZ_EFFORT, FUZZ_SEED
from tests.escape_canary import payload
from tests.factories import fresh_of
from tests.honest_archive import honest_members
from tests.servers import ROOT
from tests.upload_archives import CONSTANTS, INPUTS, WEIGHTS, Members, members_below_root, write

MUTANTS = round(750 * FUZZ_EFFORT)
FEW_MUTANTS = round(300 * FUZZ_EFFORT)
"""Of a short document."""
MOST_MUTANTS = 3000
"""Of a short document one mutant in a few hundred is taken: who has seen none yet goes on for so long."""
PER_TARGET = {
    target: round(runs * FUZZ_EFFORT)
    for target, runs in {
        "archive": 10_000,
        "program": 5_000,
        "document": 1_000,
        "regions": 1_000,
        "samples": 10_000,
        "pickle": 20_000,
        "saved": 5_000,
        "saved long ago": 10_000,
        "expression": 25_000,
        "tree": 10_000,
    }.items()
}
PATIENCE_SECONDS = 720 * max(1, FUZZ_EFFORT)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest export without its sample inputs, which nobody reads."""
    return write(honest_members() | {INPUTS: b""}, tmp_path_factory.mktemp("fuzz") / "model.pt2")


class Regions(torch.nn.Module):
    """An autocast around a region without gradients, and inputs whose names are not of ASCII."""

    def forward(self, größe: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = größe["ä"] @ größe["ä"]
            with torch.no_grad():
                z = torch.cat([y.exp(), größe["ä"]])
        return {"ü": y, "x": z.relu()}


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of operators with graphs inside."""
    path = tmp_path_factory.mktemp("fuzz") / "model.pt2"
    torch.export.save(torch.export.export(Regions(), ({"ä": torch.ones(4, 4)},)), path)
    return write(members_below_root(path) | {INPUTS: b""}, path)


@pytest.mark.sampled(7)
@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 60)
@pytest.mark.parametrize("target", PER_TARGET)
def test_a_reader_raises_its_own_refusal_or_nothing(model: Path, regions: Path, target: str) -> None:
    honest = regions if target == "regions" else model
    assert fresh_of(honest)
    arguments = [target, str(PER_TARGET[target]), str(FUZZ_SEED), str(honest)]
    command = [sys.executable, "-m", "tests.app.intake.fuzzing", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Done {PER_TARGET[target]} runs" in result.stderr


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value and key inside of a document."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def mutate(document: Any, text: str, dice: random.Random) -> None:
    """Change one place: a payload, a wrong type, a value from elsewhere, a key renamed, doubled or gone."""
    *way, last = dice.choice(list(places(document))[1:])
    holder = document
    for key in way:
        holder = holder[key]
    other: Any = document
    for key in dice.choice(list(places(document))):
        other = other[key]
    values = [text, f"x=({text})", None, True, -1, 2**70, 1.5, [], {}, [text], {text: text}, "x" * 100_000, other]
    match dice.randrange(4):
        case 0 if isinstance(holder, dict):
            holder[dice.choice([text, "x", "__class__"])] = holder.pop(last)
        case 1:
            del holder[last]
        case _:
            holder[last] = json.loads(json.dumps(dice.choice(values)))


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_SECONDS + 60)
@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS, CONSTANTS])
def test_mutants_of_honest_archives_are_refused_or_harmless(tmp_path: Path, name: str) -> None:
    """Structure-aware: one change at a time, each to a document that torch would read."""
    members, canary, taken = honest_members(), tmp_path / "CANARY", 0
    enough = MUTANTS if name == PROGRAM else FEW_MUTANTS
    for seed in range(FUZZ_SEED, FUZZ_SEED + MOST_MUTANTS + enough):
        if taken and seed >= FUZZ_SEED + enough:
            break
        document = json.loads(members[name])
        mutate(document, payload(canary), random.Random(seed))
        path = write(members | {name: json.dumps(document).encode()}, tmp_path / "mutant.pt2")
        try:
            fresh = fresh_of(path)
        except Invalid:
            continue
        taken += 1
        assert b"CANARY" not in fresh
        require_harmless(fresh, tmp_path / "fresh.pt2")
        assert not canary.exists(), seed
    assert taken > 0


def require_harmless(fresh: bytes, path: Path) -> None:
    """It passes again unchanged, and torch loads and runs it, or says no."""
    path.write_bytes(fresh)
    assert fresh_of(path) == fresh
    try:
        torch.export.load(io.BytesIO(fresh)).module()(torch.rand(4, 1, 8, 8))
    except Exception:  # a program may be nonsense, which the job that loads it finds out
        return


def test_a_member_of_an_honest_archive_may_not_be_missing(tmp_path: Path) -> None:
    members: Members = honest_members()
    for name in [*members]:
        if name in ("archive_version", "data/sample_inputs/model.pt") or name.startswith(".data"):
            continue  # torch needs them, and they are written anew whatever they held
        path = write({key: data for key, data in members.items() if key != name}, tmp_path / "model.pt2")
        with pytest.raises(Invalid):
            read_program(path, Limits())
