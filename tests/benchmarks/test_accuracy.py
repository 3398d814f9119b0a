"""The benchmark's own words and numbers, with models and peers of the test."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import accuracy
from benchmarks.comparison import timing, zeropoint
from benchmarks.comparison.fidelity import Fidelity, Truth
from benchmarks.comparison.rows import Row, algorithm_lines, disagreement, table
from benchmarks.comparison.spent import Spent
from benchmarks.comparison.timing import in_float_passes
from benchmarks.models import MODELS
from benchmarks.models.files import Missing, package_file
from benchmarks.models.model import Call, Model, Tensors, export, outputs
from benchmarks.models.stamps import labelled
from benchmarks.peers.peer import Peer, Quantized
from zeropoint.schema.job import OUT_FOLDER, REPORT_FILE
from zeropoint.schema.presets import PRESETS


def _samples(count: int) -> Tensors:
    return {"x": torch.randn(count, 4, generator=torch.Generator().manual_seed(count))}


def _quality(call: Call) -> dict[str, float]:
    return {"positive": float((outputs(call, _samples(64))[0] > 0).double().mean())}


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


class Named(nn.Module):
    """x [N, 4] -> [N, 3], as `_network`"""

    def __init__(self) -> None:
        super().__init__()
        self.network = _network()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)
        return result


SMALL = Model("small", Named, _samples, lambda count: _samples(count + 1), _quality, 40, 50)


def test_outputs_run_in_batches_of_any_size() -> None:
    network, samples = Named(), _samples(70)
    program = export(network, samples).module()
    torch.testing.assert_close(outputs(program, samples), [network(samples["x"]).detach()])


def test_fidelity_is_sqnr_agreement_and_quality() -> None:
    network = Named()
    truth = Truth(SMALL, network)
    exact = truth.judge(network)
    assert exact == Fidelity(None, 1.0, truth.quality)
    tenth = truth.judge(lambda x: 1.1 * network(x))
    assert tenth.sqnr_db == pytest.approx(20, abs=0.01)
    assert tenth.agreement == 1.0


def test_work_is_measured_in_float_passes() -> None:
    network, samples, done = Named(), _samples(8), []

    def work() -> Spent:
        done.append(1)
        return Spent(1e6, 1e6)

    assert min(in_float_passes(work, network, samples)) > 1e5
    assert len(done) == 5


def test_table_has_the_float_model_then_differences_in_points() -> None:
    rows = [
        Row(
            "int8-static",
            fidelity=Fidelity(31.24, 0.98, {"top-1": 0.79996}),
            size=0.2514,
            verdict="passed",
            passes=Spent(1.25, 1.04),
        ),
        Row("torchao", problem="not installed"),
    ]
    assert table({"top-1": 0.8}, rows).splitlines() == [
        "|  | SQNR dB | bytes | verdict | passes (wall) | passes (processor) | agreement | top-1 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| float |  | 1.000 |  |  |  |  | 80.0 % |",
        "| int8-static | 31.2 | 0.251 | passed | 1.2 | 1.0 | 98.0 % | +0.0 |",
        "| torchao | not installed |  |  |  |  |  |  |",
    ]


def test_algorithms_of_the_report_are_told_in_its_own_words() -> None:
    tried = {"algorithm": "smoothing", "settings": {"alpha": 0.8}, "kept": False, "before_db": 31.204, "reason": None}
    assert algorithm_lines("p", {"algorithms": [tried]}) == [
        "- p: smoothing not kept; settings alpha 0.80; before_db 31.20"
    ]
    assert algorithm_lines("p", {}) == []


@pytest.mark.parametrize(("said", "lines"), [(31.25, 0), (29.0, 1), (None, 1)])
def test_another_number_than_the_report_s_is_told(said: float | None, lines: int) -> None:
    found = Fidelity(31.2, 1.0, {})
    assert len(disagreement("p", found, {"summary": {"sqnr_db": said}})) == lines


def test_peers_that_fail_or_are_missing_have_a_row(tmp_path: Path) -> None:
    def missing(*_: object) -> Quantized:
        raise ModuleNotFoundError("No module named 'some_peer'")

    def failing(*_: object) -> Quantized:
        raise ValueError("first | line\nsecond")

    def working(network: nn.Module, _: Tensors, __: Path) -> Quantized:
        return Quantized(network, 67, Spent(0.5, 0.5))

    peers = [Peer(name, (), work) for name, work in (("a", missing), ("b", failing), ("c", working))]
    first, second, third = accuracy.Comparison(SMALL, tmp_path).peers(peers)
    assert first.problem == "not installed (No module named 'some_peer')"
    assert second.problem == "fails: first / line"
    assert third.fidelity is not None
    assert third.size == pytest.approx(67 / (4 * (4 * 8 + 8 + 8 * 3 + 3)))


@pytest.mark.slow
def test_a_preset_is_run_as_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 1)
    comparison = accuracy.Comparison(SMALL, tmp_path)
    (row,) = comparison.presets([PRESETS["int8-static"]])
    assert (row.problem, row.verdict, comparison.lines) == ("", "passed", [])
    assert row.fidelity is not None
    assert row.passes is not None
    assert min(row.passes) >= 0  # a job this small is over before its lines are read


def test_a_job_that_fails_does_not_give_the_report_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / OUT_FOLDER).mkdir()
    (tmp_path / OUT_FOLDER / REPORT_FILE).write_text("{}")
    with pytest.raises(zeropoint.JobFailed, match=r"model\.pt2"):
        zeropoint.run_job(tmp_path, PRESETS["int8-static"].recipe)


def test_a_model_whose_package_is_missing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def absent() -> nn.Module:
        raise Missing(f"{package_file('no_such_package', 'x')} can't be")

    accuracy.compare(Model("absent", absent, _samples, _samples, _quality), [], [])
    assert capsys.readouterr().out == "absent: not measured, the Python package no_such_package is not installed\n"


def test_every_model_says_what_it_lacks_and_nothing_else() -> None:
    for model in MODELS.values():
        with suppress(Missing, ModuleNotFoundError):
            assert {len(tensor) for tensor in model.calibration(2).values()} == {2}


def test_classes_are_read() -> None:
    try:
        stamps = labelled()
    except Missing:
        pytest.skip("tuxpaint-stamps-default is not installed")
    assert len({stamp.path for stamp in stamps}) == len(stamps) == 136
    assert all(stamp.path.exists() and max(stamp.classes) < 1000 for stamp in stamps)


def test_an_unknown_model_is_refused_with_the_names_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks.accuracy", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such model: nothing" in done.stderr


def test_a_job_s_seconds_begin_when_loading_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    phases = ["loading", "loading", "calibrating", "quantizing", "quantizing", "saving", "validating"]
    lines = (f'{{"phase": "{phase}"}}' for phase in phases)
    assert zeropoint._spent(lines, iter(range(0, 20, 2)).__next__) == (3, 6)
