"""Networks that read and write texts."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from scripts.coverage.architecture import SAMPLES, Architecture, rows, words
from scripts.coverage.pretrained import pretrained

VOCABULARY = 200
LENGTH = Dim("length", min=2, max=64)


def masked(length: int = 12) -> dict[str, Tensor]:
    """Return ids, and a mask that ends some of them early."""
    ends = torch.randint(length // 2, length + 1, (SAMPLES, 1))
    return {"input_ids": words(length, VOCABULARY), "attention_mask": (torch.arange(length) < ends).long()}


def bert() -> Architecture:
    return pretrained(
        "BertForSequenceClassification", masked(),
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY,
    )  # fmt: skip


def gpt2() -> Architecture:
    return pretrained(
        "GPT2LMHeadModel", {"input_ids": words(12, VOCABULARY)},
        n_embd=64, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=32, n_inner=128,
    )  # fmt: skip


def llama() -> Architecture:
    return pretrained(
        "LlamaForCausalLM", {"input_ids": words(12, VOCABULARY)},
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCABULARY, head_dim=16,
    )  # fmt: skip


def t5() -> Architecture:
    samples = {**masked(), "decoder_input_ids": words(6, VOCABULARY)}
    return pretrained(
        "T5ForConditionalGeneration", samples,
        d_model=64, d_kv=16, d_ff=128, num_layers=2, num_decoder_layers=2, num_heads=4, vocab_size=VOCABULARY,
    )  # fmt: skip


def mixtral() -> Architecture:
    return pretrained(
        "MixtralForCausalLM", {"input_ids": words(12, VOCABULARY)},
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCABULARY, num_local_experts=4, num_experts_per_tok=2, head_dim=16,
    )  # fmt: skip


def mamba() -> Architecture:
    return pretrained(
        "MambaForCausalLM", {"input_ids": words(8, VOCABULARY)},
        hidden_size=64, num_hidden_layers=2, vocab_size=VOCABULARY, state_size=8, intermediate_size=128,
    )  # fmt: skip


def fnet() -> Architecture:
    return pretrained(
        "FNetForSequenceClassification", {"input_ids": words(12, VOCABULARY)},
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=VOCABULARY,
    )  # fmt: skip


def albert() -> Architecture:
    return pretrained(
        "AlbertModel", masked(),
        embedding_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        vocab_size=VOCABULARY,
    )  # fmt: skip


class Cached(nn.Module):
    """A step of a decoder: one token, and the keys and values of those before, which grow by one."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(VOCABULARY, width)
        self.joint = nn.ModuleList([nn.Linear(width, 3 * width) for _ in range(layers)])
        self.out = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.up = nn.ModuleList([nn.Linear(width, 128, bias=False) for _ in range(layers)])
        self.down = nn.ModuleList([nn.Linear(128, width, bias=False) for _ in range(layers)])
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, token: Tensor, past: list[dict[str, Tensor]]) -> dict[str, Any]:
        x, kept = self.embed(token), []
        for layer, before in enumerate(past):
            n, length, width = x.shape
            joint = self.joint[layer](self.norm(x)).view(n, length, 3, self.heads, width // self.heads)
            query, key, value = joint.permute(2, 0, 3, 1, 4)
            key, value = torch.cat([before["key"], key], 2), torch.cat([before["value"], value], 2)
            kept.append({"key": key, "value": value})
            attended = F.scaled_dot_product_attention(query, key, value)
            x = x + self.out[layer](attended.transpose(1, 2).reshape(n, length, width))
            x = x + self.down[layer](F.silu(self.up[layer](self.norm(x))))
        return {"logits": self.head(self.norm(x))[:, -1], "past": kept}


def decoder_with_cache() -> Architecture:
    past = [{"key": rows(4, 6, 16), "value": rows(4, 6, 16)} for _ in range(2)]
    return Architecture(Cached(), {"token": words(1, VOCABULARY), "past": past})


class Expert(nn.Module):
    """Experts in one tensor each, weighted by a router; all of them compute."""

    def __init__(self, width: int = 48, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, 64) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, 64, width) / 8)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        hidden = F.gelu(torch.einsum("nld,edh->nleh", x, self.up))
        return torch.einsum("nleh,ehd,nle->nld", hidden, self.down, weights)


class SoftMoe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(VOCABULARY, 48), nn.LayerNorm(48)
        self.first, self.second = Expert(), Expert()
        self.head = nn.Linear(48, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.first(self.norm(x))
        logits: Tensor = self.head(self.norm(x + self.second(self.norm(x))))
        return logits


def soft_moe() -> Architecture:
    return Architecture(SoftMoe(), {"ids": words(10, VOCABULARY)})


class Rwkv(nn.Module):
    """Time mixing by a recurrence that the export unrolls, and states that are inputs and outputs."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Parameter(torch.rand(3, width))
        self.decay, self.bonus = nn.Parameter(torch.rand(width)), nn.Parameter(torch.randn(width) / 4)
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.receptance, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = self.norm(self.embed(ids))
        shifted = F.pad(x, (0, 0, 1, -1))
        key, value, gate = (
            layer(x * mix + shifted * (1 - mix))
            for layer, mix in zip((self.key, self.value, self.receptance), self.mix, strict=True)
        )
        above, below = state
        outputs = []
        for step in range(ids.shape[1]):
            k, v = key[:, step].clamp(max=8), value[:, step]
            outputs.append((above + (self.bonus + k).exp() * v) / (below + (self.bonus + k).exp()))
            fade = (-self.decay.exp()).exp()
            above, below = fade * above + k.exp() * v, fade * below + k.exp()
        mixed = torch.sigmoid(gate) * torch.stack(outputs, 1)
        return self.head(x + self.out(mixed)), (above, below)


def rwkv() -> Architecture:
    state = (rows(48), rows(48).abs() + 1)
    return Architecture(Rwkv(), {"ids": words(6, VOCABULARY), "state": state})


class Tagger(nn.Module):
    """Characters by convolutions beside words, an LSTM both ways, and scores for transitions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.characters = nn.Embedding(VOCABULARY, 32, padding_idx=0), nn.Embedding(40, 12)
        self.spelled = nn.Conv1d(12, 16, 3, padding=1)
        self.lstm = nn.LSTM(48, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 9)
        self.transitions = nn.Parameter(torch.randn(9, 9))

    def forward(self, ids: Tensor, characters: Tensor) -> tuple[Tensor, Tensor]:
        n, length, width = characters.shape
        spelled = self.characters(characters).view(n * length, width, 12).transpose(1, 2)
        spelled = F.relu(self.spelled(spelled)).amax(-1).view(n, length, 16)
        scores = self.head(self.lstm(torch.cat([self.words(ids), spelled], -1))[0])
        best = scores[:, 0]
        for step in range(1, length):
            best = (best.unsqueeze(2) + self.transitions).amax(1) + scores[:, step]
        return scores, best.argmax(-1)


def lstm_tagger() -> Architecture:
    return Architecture(Tagger(), {"ids": words(8, VOCABULARY), "characters": words(48, 40).view(-1, 8, 6)})


class TextCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.kernels = nn.ModuleList([nn.Conv1d(32, 48, size, padding=size // 2) for size in (2, 3, 5)])
        self.head = nn.Linear(144, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).permute(0, 2, 1)
        pooled = [F.relu(kernel(x)).amax(-1) for kernel in self.kernels]
        logits: Tensor = self.head(F.dropout(torch.cat(pooled, 1), 0.5, self.training))
        return logits


def text_cnn() -> Architecture:
    return Architecture(TextCnn(), {"ids": words(16, VOCABULARY)}, dynamic={"ids": {1: LENGTH}})


class Seq2Seq(nn.Module):
    """A GRU that reads, and one that writes with additive attention, unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.reader, self.writer = nn.GRU(32, 48, batch_first=True), nn.GRUCell(80, 48)
        self.query, self.key, self.score = nn.Linear(48, 32), nn.Linear(48, 32), nn.Linear(32, 1, bias=False)
        self.head = nn.Linear(48, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        read, last = self.reader(self.embed(source))
        hidden, keys, outputs = last[0], self.key(read), []
        for token in self.embed(target).unbind(1):
            weights = self.score(torch.tanh(keys + self.query(hidden).unsqueeze(1))).softmax(1)
            hidden = self.writer(torch.cat([token, (weights * read).sum(1)], -1), hidden)
            outputs.append(self.head(hidden))
        return torch.stack(outputs, 1)


def seq2seq() -> Architecture:
    return Architecture(Seq2Seq(), {"source": words(8, VOCABULARY), "target": words(4, VOCABULARY)})


NETWORKS = {
    "bert": bert,
    "albert": albert,
    "fnet": fnet,
    "gpt2": gpt2,
    "llama": llama,
    "decoder_with_cache": decoder_with_cache,
    "t5": t5,
    "mixtral": mixtral,
    "soft_moe": soft_moe,
    "mamba": mamba,
    "rwkv": rwkv,
    "lstm_tagger": lstm_tagger,
    "seq2seq": seq2seq,
    "text_cnn": text_cnn,
}
