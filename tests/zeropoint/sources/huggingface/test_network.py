"""What transformers does with a network while it opens it decides how quantized weights can be stored."""

import pytest
import transformers

from tests.tiny_networks import tiny_config
from zeropoint.sources.huggingface.network import initializes_weights


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BertModel", False),
        ("LlamaForCausalLM", False),
        ("T5EncoderModel", True),  # its initialization reads weights of the layers in a module
        ("SiglipModel", True),  # … and this one that of each layer
        ("FalconForCausalLM", True),
        ("MiniCPMV4_6Model", False),  # has a module with an initialization of another kind
    ],
)
def test_networks_that_read_a_weight_while_they_open_are_found(name: str, expected: bool) -> None:
    kind = getattr(transformers, name)
    config = kind.config_class(**tiny_config(kind)).to_dict() | {"architectures": [name]}
    assert initializes_weights(config) is expected
