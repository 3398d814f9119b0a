"""Which layers read the same values: a graph tells as a run does."""

import torch
from torch import Tensor, nn

from tests.networks import prenorm, residual
from tests.zeropoint.conftest import OpenExample
from zeropoint.algorithms.shared_inputs import same_inputs
from zeropoint.data.batches import ModelInputs
from zeropoint.sources.module import module_source


def test_a_graph_and_a_run_tell_the_same(opened: OpenExample) -> None:
    for example in (prenorm(), residual()):
        batch = ModelInputs(example.inputs)
        of_graph = same_inputs(opened(example), batch)
        of_run = same_inputs(module_source(example.module), batch)
        assert of_graph == of_run
        assert of_graph


def test_query_key_and_value_share_what_comes_out_of_the_normalization(opened: OpenExample) -> None:
    found = same_inputs(opened(prenorm()), ModelInputs([torch.zeros(2, 5, 8)]))
    first = found["query"]
    assert found["query"] == found["key"] == found["value"] == first
    assert found["down"] == "down"


class WritesBetween(nn.Module):
    """Two layers read one tensor, which changes in place between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + 1
        before = self.first(hidden)
        hidden.mul_(2)
        output: Tensor = before + self.second(hidden) + self.third(hidden)
        return output


def test_a_tensor_that_was_written_in_between_is_another(opened: OpenExample) -> None:
    found = same_inputs(module_source(WritesBetween()), ModelInputs([torch.zeros(2, 4)]))
    assert found == {"first": "first", "second": "second", "third": "second"}
