"""A short load on a whole service, and what would not do."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.load import Outcome, Plan
from benchmarks.traffic.answers import NO_ANSWER, Answers, Refusal, percentile
from benchmarks.traffic.callers import World
from benchmarks.traffic.watching import Health, Memory
from tests.networks import convolutional
from tests.service.running import Running

SECONDS = 3.0


@pytest.mark.service
@pytest.mark.parametrize("rate", [None, 20.0], ids=["closed", "open"])
def test_a_busy_service_answers_all_that_callers_ask(running: Running, tmp_path: Path, rate: float | None) -> None:
    model = convolutional().export(tmp_path / "model.pt2").read_bytes()
    dataset = convolutional(40).save_dataset(tmp_path / "samples.safetensors").read_bytes()
    outcome = load.loaded(Plan(SECONDS, 8, "sqlite", rate), running, World(model, dataset))
    assert not outcome.answers.faults(), outcome
    assert {"GET /v1/jobs/{id}", "GET …/artifacts/{name}, Range"} <= outcome.answers.seconds.keys()
    assert outcome.health.seconds
    assert not outcome.health.refused
    assert all(max(mib) > 20 for mib in outcome.memory.mib.values())


def outcome(*, health: Sequence[float] = (0.1,), growth: float = 0, refusal: Refusal | None = None) -> Outcome:
    answers, probes, memory = Answers(), Health("http://127.0.0.1"), Memory(0)
    answers.seconds["GET /v1/jobs"] = [0.001, 0.003]
    if refusal:
        answers.refusals["GET /v1/jobs"][refusal] += 2
    probes.seconds.extend(health)
    memory.mib = {"API": [50.0] * 10 + [100 + growth * second / 40 for second in range(40)]}
    return Outcome(Plan(50, 1, "sqlite"), answers, probes, memory, 1, 50)


def test_what_sheds_load_is_no_fault() -> None:
    sound = outcome(growth=30, refusal=Refusal(503, "busy"))
    assert not sound.faults()
    assert "| `GET /v1/jobs` | 4 | 1 | 3 | 3 | 3 | 503 busy ×2 |" in str(sound)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (outcome(health=(0.1, 1.2)), "/healthz"),
        (outcome(growth=60), "grew: API"),
        (outcome(refusal=Refusal(500, "internal_error")), "500 internal_error, 2 times"),
        (outcome(refusal=Refusal(NO_ANSWER, "ReadTimeout")), "ReadTimeout, 2 times"),
    ],
    ids=["slow health", "growth", "error", "no answer"],
)
def test_what_would_not_do(bad: Outcome, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [fault for fault in bad.faults() if words in fault]
    monkeypatch.setattr(load, "load", lambda _: bad)
    assert load.main([]) == 1


def test_percentiles() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1)] == [50, 99, 100]


def test_arguments() -> None:
    assert load.plan_of(["--seconds", "5", "--open", "9"]) == Plan(5, 50, "sqlite", 9.0)
    assert load.plan_of(["--soak", "600", "--database", "postgresql"]).seconds == 600
