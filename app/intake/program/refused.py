"""Why operators of torch are not taken, and what to do: `refused_operators.txt` has a word for each.

`python -m scripts.list_operators` writes that list, of all of torch's operators that are on no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("refused_operators.txt")
"""A target and a word of `REASONS` a line."""


@dataclass(frozen=True)
class Reason:
    """Why an operator is not taken ("it …"), and what its user can do."""

    why: str
    remedy: str


REASONS: Mapping[str, Reason] = {
    "random": Reason(
        "draws random numbers: make the noise an input",
        "Make the noise an input of the model.",
    ),
    "values": Reason(
        "has a result whose size depends on values",
        "Give the result a fixed size (torch.where, a mask), or export the part of the model without it.",
    ),
    "training": Reason(
        "is a step of training",
        "Export the forward pass alone, of model.eval().",
    ),
    "hardware": Reason(
        "runs on other hardware than a cpu",
        "Export the model on a cpu, or before a step that chooses kernels.",
    ),
    "layouts": Reason(
        "computes with sparse, nested, named or quantized tensors",
        "Export the float model with plain tensors.",
    ),
    "queries": Reason(
        "gives something other than a tensor, or is of TorchScript alone",
        "Compute with tensors, and with sizes that the export knows.",
    ),
    "internal": Reason(
        "is a kernel that torch calls by itself",
        "Call the function of torch or torch.nn.functional that is made of it.",
    ),
    "effects": Reason(
        "changes or checks more than its result",
        "Remove the check or the change of storage from the forward pass.",
    ),
    "out": Reason(
        "writes into a tensor that it is given as out=",
        "Call it without out=.",
    ),
    "unseen": Reason(
        "is on no list: no program with it was exported, loaded and compared",
        "Save program.run_decompositions() instead: it needs fewer operators. If it is refused too, ask for more.",
    ),
}


@cache
def words() -> Mapping[str, str]:
    """Return the word of each operator that is refused."""
    return dict(line.split() for line in LIST.read_text("ascii").splitlines())
