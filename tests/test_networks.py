"""Networks of the table go the whole way: saved, through the gate, described, quantized, and opened again.

`scripts/list_networks.py` wrote the table from the same attempts with every class.
"""

import pytest

from app.intake.huggingface.architectures import ARCHITECTURES
from scripts.list_networks import attempt
from scripts.network_configs import model_classes

WAYS = {
    "clip": "CLIPModel",  # a config within the config, texts and pictures
    "detr": "DetrModel",  # a backbone
    "mixtral": "MixtralForCausalLM",  # experts that are stored one by one
    "nomic_bert": "NomicBertModel",  # queries, keys and values that are stored in one
    "wav2vec2": "Wav2Vec2Model",  # sounds
    "falcon": "FalconForCausalLM",  # a subclass of Linear
}
OTHERS = sorted(ARCHITECTURES.keys() - WAYS.keys())


@pytest.mark.parametrize("model_type", [pytest.param(name, marks=pytest.mark.sampled(3)) for name in WAYS])
def test_a_network_of_each_kind_goes_the_whole_way(model_type: str) -> None:
    require(model_type, WAYS[model_type])


@pytest.mark.sampled(120)
@pytest.mark.parametrize("model_type", OTHERS)
def test_a_network_of_the_table_goes_the_whole_way(model_type: str) -> None:
    names = [name for name in model_classes()[model_type] if name in ARCHITECTURES[model_type]]
    require(model_type, names[0])


def require(model_type: str, name: str) -> None:
    outcome = attempt(model_type, name)
    assert outcome.failed == "", outcome
    assert outcome.sqnr is None or outcome.sqnr > 10
