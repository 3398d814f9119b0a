"""A module in memory becomes a source: one copy of every weight, names and reasons, outputs of any shape."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.networks import attention, convolutional, counting
from zeropoint.data.batches import ModelInputs
from zeropoint.errors import Unsupported
from zeropoint.sources.module import module_source, require_named


class Twice(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Hooked(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4), Twice(4, 4), nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)))
        self[0].register_forward_hook(lambda *_: None)


@dataclass
class Answer:
    logits: Tensor
    extra: dict[str, Tensor]


class Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, scale: Tensor) -> Answer:
        return Answer(self.linear(x) * scale, {"x": x})


class Silent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> str:
        return "done" if x.dim() else "nothing"


def test_weights_are_shared_with_the_users_module_and_buffers_are_not() -> None:
    model = convolutional().module
    source = module_source(model)
    assert source.module is not model
    assert source.module.get_parameter("head.weight") is model.get_parameter("head.weight")
    buffer = "features.1.running_mean"
    assert source.module.get_buffer(buffer).data_ptr() != model.get_buffer(buffer).data_ptr()
    assert source.original_bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())


def test_what_can_not_be_one_leaf_says_so() -> None:
    reasons = {layer.name: layer.reason for layer in module_source(Hooked()).layers}
    assert reasons.pop("2") is None
    assert set(reasons.values()) == {"unsupported"}
    assert {"0", "1", "3"} <= {name.partition(".")[0] for name in reasons}


def test_projections_of_attention_are_named_as_in_programs() -> None:
    layers = {layer.name: layer for layer in module_source(attention().module).layers}
    assert layers["attention.in_proj"].type == "MultiheadAttention"
    assert layers["attention.out_proj"].reason == "unsupported"


def test_buffers_start_again_after_reset() -> None:
    example = counting()
    source = module_source(example.module)
    with torch.no_grad():
        first, second = source.run(example.inputs), source.run(example.inputs)
        source.reset()
        again = source.run(example.inputs)
    assert not torch.equal(first[0], second[0])  # type: ignore[arg-type]
    assert torch.equal(first[0], again[0])  # type: ignore[arg-type]


def test_keywords_go_in_and_dataclasses_come_out_flat() -> None:
    x, scale = torch.randn(2, 4), torch.tensor(2.0)
    outputs = module_source(Answering()).run(ModelInputs([x, scale], ["scale"]))
    assert [isinstance(value, Tensor) for value in outputs] == [True, True]
    assert torch.equal(outputs[1], x)  # type: ignore[arg-type]


def test_an_output_without_tensors_can_not_be_measured() -> None:
    with pytest.raises(Unsupported) as refused:
        module_source(Silent()).run([torch.randn(2, 4)])
    assert refused.value.code == "unsupported_output"


def test_a_lone_leaf_is_told_to_be_wrapped() -> None:
    with pytest.raises(Unsupported, match="Sequential"):
        require_named(nn.Linear(4, 4))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(("kind", "shape"), [(nn.Linear, (4, 0)), (nn.Conv2d, (4, 0, 1)), (nn.Conv1d, (4, 0, 3))])
def test_a_weight_without_values_is_left_alone(kind: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    empty = kind(*shape)
    layers = module_source(nn.Sequential(nn.Linear(4, 4), empty)).layers
    assert [(layer.name, layer.reason) for layer in layers] == [("0", None), ("1", "unsupported")]
