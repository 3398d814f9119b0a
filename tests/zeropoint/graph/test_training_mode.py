"""Programs that were exported in training mode: by the library's graph, and by the gate, which has no torch."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest

from app.intake.program.training_mode import modules_in_training as seen_by_the_gate
from tests.networks_in_training import export, innocents, suspects
from zeropoint.graph.training_mode import modules_in_training

pytestmark = pytest.mark.sampled(8)


def both(module: str, folder: Path, *, train: bool, decompose: bool) -> list[dict[str, str]]:
    every = {**{name: module for name, (module, _) in suspects().items()}, **innocents()}
    path = folder / "model.pt2"
    program = export(every[module], path, train=train, decompose=decompose)
    with ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        document = json.loads(archive.read(member))
    return [modules_in_training(program), seen_by_the_gate(document)]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("decompose", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("module", suspects())
def test_what_behaves_otherwise_in_training_is_named(tmp_path: Path, module: str, decompose: bool) -> None:
    path = suspects()[module][1]
    if (module, decompose) == ("recurrent", True):
        return  # a decomposition of recurrent layers leaves dropout out
    for found in both(module, tmp_path, train=True, decompose=decompose):
        assert list(found) == [path], found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("decompose", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("module", suspects())
def test_after_eval_nothing_is_named(tmp_path: Path, module: str, decompose: bool) -> None:
    assert both(module, tmp_path, train=False, decompose=decompose) == [{}, {}]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("module", innocents())
def test_what_is_the_same_in_training_is_not_named(tmp_path: Path, module: str) -> None:
    assert both(module, tmp_path, train=True, decompose=False) == [{}, {}]
