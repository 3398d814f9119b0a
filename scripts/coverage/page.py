"""The page docs/coverage.md: one table for each domain."""

import re
from collections.abc import Iterable, Mapping, Sequence

from scripts.coverage.attempt import Outcome
from scripts.coverage.networks import DOMAINS
from tests.servers import ROOT

PAGE = ROOT / "docs" / "coverage.md"
_ROW = re.compile(r"^\| `(\w+)` \|(.*)$", re.MULTILINE)

HEAD = """# Coverage

{accepted} of {all} exported architectures are accepted, quantized and read back.
`python -m scripts.coverage LOG` wrote this page; tests take some of these networks the same way with each commit.

Each is exported with `torch.export`, uploaded, quantized by a job with the presets `int8-static` and `int8` to
`model.pt2` and `model.onnx`, and opened again. Networks are small, and so are their layers; weights are random, but as
wide as in trained networks (each layer's output has unit variance). Read the SQNR of a row as a hint at what rounding
does to this kind of network, not as what a trained one will have: [measurements](explanation/accuracy.md) are on those.
There are 96 samples, which are few: 18 of them decide about the algorithms of `int8`, and what they keep need not help
the others. Complex weights (`fno`) stay in float and are not counted.

| column | means |
|---|---|
| weights, work | the share of the weights' bytes and of the multiply-accumulates that is quantized |
| `int8-static`, `int8` | SQNR in dB of the two presets, on samples that were held out |
| layers | how many are quantized; inputs of recurrent layers and of products with several weights stay float |
| compiled, onnx | calls on integers, in torch with Inductor and in onnxruntime; "–": torch can't write the ONNX file |
| in float, remarks | why weights stay in float, from a hundredth on; warnings |
"""

TABLE = """
## {title}

| network | weights | work | `int8-static` | `int8` | layers | compiled | onnx | verdict | in float, remarks |
|---|---|---|---|---|---|---|---|---|---|
"""


def write_page(outcomes: Mapping[str, Outcome]) -> None:
    """Write the page."""
    accepted = sum(not outcome.refused for outcome in outcomes.values())
    text = HEAD.format(accepted=accepted, all=len(outcomes))
    for domain, members in DOMAINS.items():
        text += TABLE.format(title=domain.capitalize())
        text += "".join(_row(outcomes[name]) for name in members if name in outcomes)
    PAGE.write_text(text)


def names_on_page() -> Sequence[str]:
    """Return the networks that the page has, in its order."""
    return [name for name, _ in _rows()]


def refused_on_page() -> Sequence[str]:
    """Return those of them that are refused."""
    return [name for name, row in _rows() if "| refused |" in row]


def _rows() -> Iterable[tuple[str, str]]:
    return _ROW.findall(PAGE.read_text())


def _row(outcome: Outcome) -> str:
    if outcome.refused:
        return f"| `{outcome.name}` | – | – | – | – | – | – | – | refused | {outcome.refused} |\n"
    values = [_percent(outcome.share), _percent(outcome.macs)]
    values += [_db(outcome.db[preset]) for preset in ("int8-static", "int8")]
    values += [
        str(outcome.layers),
        *("–" if count is None else str(count) for count in (outcome.compiled, outcome.onnx)),
    ]
    return f"| `{outcome.name}` | {' | '.join(values)} | {outcome.verdict} | {outcome.reasons} |\n"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _db(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"
