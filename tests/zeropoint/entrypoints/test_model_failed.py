"""A float model that can't run on the user's samples is the user's to repair, in whatever phase it shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.networks import BATCH, Example
from tests.zeropoint.entrypoints.test_job import failure, prepare
from zeropoint import quantize
from zeropoint.entrypoints.failures import model_errors
from zeropoint.entrypoints.job import run_by_hand
from zeropoint.errors import ModelFailed
from zeropoint.model.failure import MAX_TEXT, clean_text
from zeropoint.model.hooks import hooked
from zeropoint.schema.job import EXIT_FAILED
from zeropoint.sources.program import program_source

pytestmark = pytest.mark.sampled(3)

SAMPLES = 16
BAD = 99


class Reader(nn.Module):
    """Reads rows of a table by one of several operators; an index of 99 fits none of them."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"table": nn.Embedding(10, 8)})
        self.head = nn.Linear(8, 4)
        self.read = read

    def forward(self, ids: Tensor) -> Tensor:
        table: nn.Embedding = self.inner["table"]  # type: ignore[assignment]
        scores: Tensor = self.head(table(ids) if self.read is embedding else self.read(table.weight, ids))
        return scores


def embedding(_: Tensor, ids: Tensor) -> Tensor:
    """Mark a call of the module itself."""
    return ids


READS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding": embedding,
    "index": lambda table, ids: table[ids],
    "gather": lambda table, ids: table.gather(0, ids.reshape(-1, 1).expand(-1, 8)),
    "index_select": lambda table, ids: torch.index_select(table, 0, ids.flatten()),
    "beyond a storage": lambda table, ids: (
        table.as_strided((4, 8), (8, 1), 0)
        + table.as_strided(
            (4, 8),
            (8, 1),
            ids.max().item(),  # type: ignore[arg-type]
        )
    ),
    "a size that does not fit": lambda table, ids: table.reshape(int(ids.max()) + 1, -1),
}
PROGRAMS = ("embedding", "index", "gather", "index_select")
"""Those that export without assumptions on data; the others run as modules."""


def reader(name: str, bad_rows: slice | None = None) -> Example:
    torch.manual_seed(0)
    ids = torch.randint(0, 10, (SAMPLES,))
    if bad_rows is not None:
        ids[bad_rows] = BAD
    return Example(Reader(READS[name]), (torch.zeros(4, dtype=torch.int64),), {"ids": {0: BATCH}}, {"ids": ids})


def told_by(folder: Path) -> str:
    assert run_by_hand(folder) == EXIT_FAILED
    told = failure(folder)
    assert told.code == "model_failed"
    assert str(folder) not in told.model_dump_json()
    assert "Traceback" not in told.detail
    assert f"to {BAD}" in told.detail  # the range of what the model was given
    assert f"while {told.phase}" in told.detail
    return told.phase or ""


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("decompose", [False, True])
def test_every_operator_that_refuses_an_index_is_named_with_its_phase(
    tmp_path: Path, name: str, decompose: bool
) -> None:
    prepare(tmp_path, reader(name, slice(0, 1)))
    reader(name).export(tmp_path / "model.pt2", decompose=decompose)
    assert told_by(tmp_path) == "calibrating"
    detail = failure(tmp_path).detail
    place = "'inner.table' (Embedding), which takes 0 to 9" if name == "embedding" else "aten."
    assert place in detail
    assert "index" in detail.lower()


@pytest.mark.parametrize(
    ("rows", "recipe", "phase"),
    [
        (slice(0, 1), {}, "calibrating"),
        (slice(SAMPLES - 1, SAMPLES), {}, "validating"),
        (slice(SAMPLES - 1, SAMPLES), {"activations": None}, "validating"),
        (slice(11, 12), {"algorithms": [{"kind": "bias_correction"}]}, "quantizing"),
        (slice(0, 1), {"target": {"min_sqnr_db": 20}}, "calibrating"),
    ],
    ids=["calibration", "evaluation", "weight-only", "acceptance", "target"],
)
def test_the_rows_decide_the_phase(tmp_path: Path, rows: slice, recipe: dict[str, Any], phase: str) -> None:
    prepare(tmp_path, reader("embedding", rows), **recipe)
    assert told_by(tmp_path) == phase


def test_labels_run_the_model_while_loading(tmp_path: Path) -> None:
    example = reader("embedding", slice(0, 1))
    prepare(tmp_path, example)
    save_file({**example.dataset, "labels": torch.zeros(SAMPLES, dtype=torch.int64)}, tmp_path / "dataset.safetensors")
    assert told_by(tmp_path) == "loading"


def test_a_sweep_fails_the_same_way(tmp_path: Path) -> None:
    prepare(tmp_path, reader("embedding", slice(0, 1)))
    (tmp_path / "job.json").write_text(
        '{"model": "model.pt2", "dataset": "dataset.safetensors", "sweep": [{"name": "a", "recipe": {}}]}'
    )
    assert told_by(tmp_path) == "calibrating"


@pytest.mark.parametrize("name", READS)
def test_a_module_in_memory_fails_the_same_way(name: str) -> None:
    with pytest.raises(ModelFailed) as raised:
        quantize(reader(name).module, [torch.full((4,), BAD)], progress=False)
    assert raised.value.__cause__ is not None
    place = "'inner.table' (Embedding)" if name == "embedding" else "Reader"
    assert place in raised.value.detail


class Stubborn(nn.Module):
    """Raises an error of its own, which tells where a file lies."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.layer, self.message = nn.Linear(4, 4), message

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        raise KeyError(self.message)
        return output


@pytest.mark.parametrize(
    ("message", "kept", "hidden"),
    [
        ("no entry /home/somebody/models/secret.bin here", "no entry", "somebody"),
        ('Traceback (most recent call last):\n  File "/a/b.py", line 3\nno luck', "no luck", "/a/b.py"),
        ("x" * 10_000, "x" * 50, "x" * (MAX_TEXT + 1)),
        ("one\x1b[31m two", "one", "\x1b"),
    ],
)
def test_what_the_model_says_is_cleaned_and_short(message: str, kept: str, hidden: str) -> None:
    text = clean_text(ValueError(message))
    assert text.startswith("ValueError")
    assert kept in text
    assert hidden not in text
    with pytest.raises(ModelFailed):
        quantize(Stubborn(message), [torch.randn(4, 4)], progress=False)


def test_an_error_of_ours_is_not_blamed_on_the_model() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    source = program_source(torch.export.export(module, (torch.randn(2, 4),)))

    def observe(_: nn.Module, __: object) -> None:
        raise ZeroDivisionError("ours")

    with (
        pytest.raises(ZeroDivisionError),
        model_errors(source, lambda: "calibrating"),
        hooked(before=[(source.module, observe)]),
    ):
        source.run([torch.randn(2, 4)])


def test_an_error_between_two_passes_is_not_blamed_on_the_model() -> None:
    source = program_source(torch.export.export(nn.Sequential(nn.Linear(4, 4)), (torch.randn(2, 4),)))
    source.run([torch.randn(2, 4)])
    with pytest.raises(IndexError), model_errors(source, lambda: "calibrating"):
        raise IndexError("ours")
