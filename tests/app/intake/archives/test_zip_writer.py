"""Honest programs pass the gate, and what it wrote computes the same, bit for bit, and passes again unchanged."""

import io
import logging
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from app.intake.archives.zip_writer import archive_of, member_of
from app.intake.limits import Limits
from app.intake.program.layouts import PROGRAM
from app.intake.program.operators import allowed
from app.intake.program.read import read_program
from tests import operator_samples, operators
from tests.effort import in_turn
from tests.factories import fresh_of, members_of
from tests.honest_programs import HONEST

Exported = Callable[[str, bool], tuple[ExportedProgram, bytes]]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """torch logs each operator that it traces."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def rewritten(program: ExportedProgram, folder: Path) -> bytes:
    """What the gate makes of the saved program."""
    path = folder / "model.pt2"
    torch.export.save(program, path)
    return fresh_of(path)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An honest program by name, as it is or decomposed, and what the gate makes of it."""
    folder = tmp_path_factory.mktemp("honest")

    @cache
    def exported(name: str) -> tuple[ExportedProgram, ExportedProgram]:
        torch.manual_seed(0)
        return HONEST[name]().programs()

    @cache  # as the buffers are when it is asked for: to run the one program may change those of both
    def gated(name: str, decomposed: bool) -> tuple[ExportedProgram, bytes]:
        program = exported(name)[decomposed]
        return program, rewritten(program, folder)

    return gated


def outputs(program: ExportedProgram, arguments: object) -> list[object]:
    """Every leaf of the output; dropout of a train-mode export rolls the same dice each time."""
    args, kwargs = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, arguments)
    torch.manual_seed(0)
    return pytree.tree_leaves(program.module()(*args, **kwargs))


def assert_same(program: ExportedProgram, fresh: bytes) -> None:
    loaded = torch.export.load(io.BytesIO(fresh))
    before, after = outputs(program, program.example_inputs), outputs(loaded, program.example_inputs)
    assert len(before) == len(after)
    for left, right in zip(before, after, strict=True):
        if isinstance(left, Tensor):
            assert isinstance(right, Tensor)
            assert (left.dtype, left.shape) == (right.dtype, right.shape)
            assert torch.equal(left.nan_to_num(), right.nan_to_num())
        else:
            assert left == right


@pytest.mark.sampled(9)
@pytest.mark.parametrize("decomposed", [False, True], ids=["exported", "decomposed"])
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes_and_computes_the_same(
    tmp_path: Path, honest: Exported, name: str, decomposed: bool
) -> None:
    program, fresh = honest(name, decomposed)
    assert_same(program, fresh)
    (tmp_path / "again.pt2").write_bytes(fresh)
    assert fresh_of(tmp_path / "again.pt2") == fresh


def test_what_is_written_holds_nothing_of_the_user_but_the_program(tmp_path: Path, honest: Exported) -> None:
    (tmp_path / "fresh.pt2").write_bytes(honest("dict inputs and kwargs", False)[1])
    members = {name.partition("/")[2]: data for name, data in members_of(tmp_path / "fresh.pt2").items()}
    assert members["data/sample_inputs/model.pt"] == b""
    for word in (b"stack_trace", b"guards_code", b"honest_programs.py", b"from_node", b"torch_fn"):
        assert word not in members[PROGRAM]


@pytest.mark.slow
def test_every_allowed_operator_is_exported_gated_and_run(tmp_path: Path, honest: Exported) -> None:
    """The list is what `scripts/list_operators.py` writes: no more than these programs call, and all of it.

    What only torch's own samples call, other tests export, gate and run. A run of all tests takes a part of the
    programs, which cannot show the second.
    """
    groups, called = operators.groups(), set[str]()
    taken = [texts for position, texts in enumerate(groups) if in_turn(20, position)]
    for program in (program for texts in taken for program in operators.programs(texts)):
        fresh = rewritten(program, tmp_path)
        assert_same(program, fresh)
        called |= targets_of(fresh, tmp_path)
    if taken == groups:
        for name, decomposed in product(HONEST, (False, True)):
            called |= targets_of(honest(name, decomposed)[1], tmp_path)
        assert called | operator_samples.keys().keys() == allowed()
    assert called <= allowed()


def targets_of(archive: bytes, folder: Path) -> set[str]:
    (folder / "read.pt2").write_bytes(archive)
    nodes = read_program(folder / "read.pt2", Limits()).document["graph_module"]["graph"]["nodes"]
    return {node["target"] for node in nodes}


def test_the_writer_is_read_by_pythons_own_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"".join(archive_of([member_of("a", b"1"), member_of("b/c", b""), member_of("d", bytes(1000))])))
    assert members_of(path) == {"model/a": b"1", "model/b/c": b"", "model/d": bytes(1000)}
