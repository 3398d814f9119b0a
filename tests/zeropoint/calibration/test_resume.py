"""A pass that was left after any batch and gone on with elsewhere ends with the same statistics, bit for bit."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks import BATCH, Example, attention, convolutional, counting
from zeropoint.calibration.collect import Wanted, collect
from zeropoint.calibration.profile import Profile
from zeropoint.data.calls import IterableBatches, read_inputs
from zeropoint.data.dataset import Dataset, open_dataset
from zeropoint.files.checkpoints import NO_CHECKPOINTS, Checkpoints
from zeropoint.model.source import ProgramSource
from zeropoint.observers.statistics import LONGEST_HISTORY, Collector, Statistics
from zeropoint.sources.module import module_source
from zeropoint.sources.program import open_uploaded_program


class Dropping(nn.Module):
    """What comes out depends on the random numbers of all calls before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        second: Tensor = self.second(self.drop(self.first(x)))
        return second

    def eval(self) -> "Dropping":
        return self  # a user may export a model in training mode


class Exploding(Dropping):
    """Infinite from the third sample on."""

    def forward(self, x: Tensor) -> Tensor:
        second: Tensor = self.second(self.first(x) / (x.sum() - x.sum().floor()))
        return second


class Summing(nn.Module):
    """A buffer that every call changes, and that a layer reads."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.sum(0)
        output: Tensor = self.linear(x + self.total)
        return output


def small(network: nn.Module) -> Callable[[], Example]:
    def example() -> Example:
        torch.manual_seed(0)
        return Example(network, (torch.randn(2, 4),), {"x": {0: BATCH}}, {"x": torch.randn(8, 4)})

    return example


def exploding() -> Example:
    rows = torch.full((8, 4), 0.3)
    rows[2:] = 1.0
    return Example(Exploding(), (torch.full((1, 4), 0.3),), None, {"x": rows})


EXAMPLES: dict[str, Callable[[], Example]] = {
    "convolutional": lambda: convolutional(8),
    "attention": attention,
    "a buffer that changes": small(Summing()),
    "a buffer at the end": counting,
    "random numbers": small(Dropping()),
    "infinity": exploding,
}


class Death(Exception):
    """The machine is gone."""


def said(statistics: Statistics) -> list[object]:
    """Everything, so that equality means every bit."""
    histogram = statistics.histogram
    numbers = [repr(value) for value in (statistics.count, statistics.minimum, statistics.maximum, statistics.early)]
    return [*numbers, histogram and [histogram.exponent, histogram.zeros, histogram.counts.tolist()]]


def same(left: Profile, right: Profile) -> bool:
    return {name: said(one) for name, one in left.layers.items()} == {
        name: said(one) for name, one in right.layers.items()
    } and (left.samples, left.batches, left.batch_size) == (right.samples, right.batches, right.batch_size)


def opened(example: Example, folder: Path) -> tuple[ProgramSource, Dataset]:
    source = open_uploaded_program(example.export(folder / "model.pt2"), "cpu")
    samples = open_dataset(example.save_dataset(folder / "dataset.safetensors"), source.inputs, 1)
    torch.manual_seed(0)  # as every job begins
    return source, samples


def whole_pass(
    source: ProgramSource, samples: Dataset, checkpoints: Checkpoints = NO_CHECKPOINTS, *, dies_after: int = 0
) -> tuple[Profile, list[int], int]:
    """The statistics, what was said of progress, and how often the model ran."""
    steps: list[int] = []
    runs: list[int] = []

    def step(done: int, _: int) -> None:
        steps.append(done)
        if done == dies_after:
            raise Death

    handle = source.module.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        names = {layer.name for layer in source.layers}
        profile = collect(source, source.layers, samples, step, Wanted(names, outputs=True), checkpoints=checkpoints)
    finally:
        handle.remove()
    return profile, steps, len(runs)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", EXAMPLES)
def test_after_any_batch_it_goes_on_to_the_same_statistics(tmp_path: Path, name: str) -> None:
    source, samples = opened(EXAMPLES[name](), tmp_path)
    expected, steps, runs = whole_pass(source, samples)
    after = torch.rand(1)
    batches = len(samples)
    assert (steps, runs) == (list(range(1, batches + 1)), batches)
    for left in range(1, batches + 1):
        folder = tmp_path / str(left)
        torch.manual_seed(0)
        with pytest.raises(Death):
            whole_pass(source, samples, Checkpoints(folder, "key"), dies_after=left)
        torch.manual_seed(0)
        checkpoints = Checkpoints(folder, "key")
        found, steps, runs = whole_pass(source, samples, checkpoints)
        assert same(found, expected)
        assert (steps[0], steps[-1], runs) == (left, batches, batches - left)
        assert checkpoints.resumed == ["calibrating"]
        assert torch.equal(torch.rand(1), after)


def test_the_examples_show_what_they_should(tmp_path: Path) -> None:
    """Else the test above proves nothing: a second pass that forgets buffers or random numbers sees other values."""
    source, samples = opened(small(Summing())(), tmp_path)
    assert set(source.changing) == {"total"}
    source, samples = opened(small(Dropping())(), tmp_path)
    first, second = whole_pass(source, samples)[0], whole_pass(source, samples)[0]
    assert not same(first, second)
    source, samples = opened(exploding(), tmp_path)
    assert not all(statistics.finite for statistics in whole_pass(source, samples)[0].layers.values())


def test_one_of_other_layers_is_ignored(tmp_path: Path) -> None:
    source, samples = opened(convolutional(8), tmp_path)
    whole_pass(source, samples, Checkpoints(tmp_path / "c", "key"))
    checkpoints = Checkpoints(tmp_path / "c", "key")
    found = collect(source, source.layers, samples, lambda *_: None, Wanted({"head"}), checkpoints=checkpoints)
    assert found.layers["features.0"].histogram is None
    assert checkpoints.resumed == []


def test_a_short_pass_leaves_nothing(tmp_path: Path) -> None:
    source, samples = opened(convolutional(8), tmp_path)
    whole_pass(source, samples, Checkpoints(tmp_path / "c", "key", 30.0))
    assert not (tmp_path / "c").exists()


def test_a_long_pass_keeps_its_end_alone_when_nothing_was_due_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "due", False)
    source, samples = opened(convolutional(8), tmp_path)
    expected, _, _ = whole_pass(source, samples, Checkpoints(tmp_path / "c", "key"))
    found, steps, runs = whole_pass(source, samples, Checkpoints(tmp_path / "c", "key"))
    assert same(found, expected)
    assert (steps, runs) == ([len(samples)], 0)
    assert not found.reused


def test_batches_that_lie_in_no_file_are_read_and_not_run(tmp_path: Path) -> None:
    source = module_source(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    calls = [torch.full((1, 2), float(number)) for number in range(4)]

    def calibrated(checkpoints: Checkpoints, step: Callable[[int, int], None]) -> Statistics:
        samples = IterableBatches(calls, read_inputs)
        return collect(source, source.layers, samples, step, Wanted({"0"}), checkpoints=checkpoints).layers["0"]

    def die(done: int, _: int) -> None:
        if done == 2:
            raise Death

    expected = calibrated(NO_CHECKPOINTS, lambda *_: None)
    with pytest.raises(Death):
        calibrated(Checkpoints(tmp_path, "key"), die)
    steps: list[int] = []
    assert said(calibrated(Checkpoints(tmp_path, "key"), lambda done, _: steps.append(done))) == said(expected)
    assert steps == [2, 3, 4]


def observed(batches: Sequence[Tensor], collector: Collector) -> Collector:
    for batch in batches:
        collector.observe(batch)
    return collector


@given(st.integers(1, 3 * LONGEST_HISTORY), st.data(), st.sampled_from([torch.float32, torch.float16, torch.int64]))
def test_a_collector_goes_on_from_its_state(batches: int, data: st.DataObject, dtype: torch.dtype) -> None:
    left = data.draw(st.integers(0, batches))
    values = [torch.tensor([float(number * 37 % 100), -1.0]).to(dtype) for number in range(batches)]
    whole = observed(values, Collector(histogram=True))
    numbers, tensors = observed(values[:left], Collector(histogram=True)).state()
    resumed = observed(values[left:], Collector.restored(numbers, tensors, "cpu"))
    assert said(resumed.statistics()) == said(whole.statistics())
