"""The supported Hugging Face networks: classes of transformers by `model_type`. Nothing here imports them."""

from collections.abc import Mapping
from types import MappingProxyType


def _heads(prefix: str, heads: str) -> frozenset[str]:
    return frozenset(prefix + head for head in heads.split())


_TASKS = "ForSequenceClassification ForTokenClassification ForQuestionAnswering"
_ENCODER = f"Model ForMaskedLM ForMultipleChoice {_TASKS}"
_DECODER = f"Model ForCausalLM {_TASKS}"
_VISION = "Model ForImageClassification ForMaskedImageModeling"

ARCHITECTURES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # encoders
        "bert": _heads("Bert", f"{_ENCODER} ForPreTraining ForNextSentencePrediction LMHeadModel"),
        "distilbert": _heads("DistilBert", _ENCODER),
        "electra": _heads("Electra", f"{_ENCODER} ForPreTraining ForCausalLM"),
        "mpnet": _heads("MPNet", _ENCODER),
        "roberta": _heads("Roberta", f"{_ENCODER} ForCausalLM"),
        "xlm-roberta": _heads("XLMRoberta", f"{_ENCODER} ForCausalLM"),
        # decoders
        "gpt2": _heads("GPT2", f"Model LMHeadModel DoubleHeadsModel {_TASKS}"),
        "gpt_neox": _heads("GPTNeoX", _DECODER),
        "llama": _heads("Llama", _DECODER),
        "mistral": _heads("Mistral", _DECODER),
        "opt": _heads("OPT", "Model ForCausalLM ForSequenceClassification ForQuestionAnswering"),
        "qwen2": _heads("Qwen2", _DECODER),
        # encoders with decoders
        "bart": _heads(
            "Bart", "Model ForConditionalGeneration ForSequenceClassification ForQuestionAnswering ForCausalLM"
        ),
        "t5": _heads("T5", f"Model ForConditionalGeneration EncoderModel {_TASKS}"),
        # vision
        "deit": _heads("DeiT", f"{_VISION} ForImageClassificationWithTeacher"),
        "vit": _heads("ViT", _VISION),
    }
)
