"""A call of a layer in an exported graph: the operator that multiplies an input with the layer's weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch.fx import Node

from zeropoint.model.layer import LayerKind

Terms = tuple[int, ...]
"""One number for each dimension of a tensor; dimensions with equal numbers belong together, as letters of einsum."""


@dataclass(frozen=True)
class Spelling:
    """How an operator that is no plain linear multiplies: result = Σ values · weight over the dimensions of both alone.

    `values` and `result` number every dimension; `weight` numbers those of the operator's argument, and -1 stands for
    one along which the weight only repeats.
    """

    values: Terms
    weight: Terms
    result: Terms
    sizes: Mapping[int, int]
    """The sizes of the dimensions of the weight, by number."""
    weight_first: bool = False
    """Whether the weight is the first factor of the operator."""

    @property
    def inputs(self) -> Terms:
        """The dimensions that the product sums over, in the order of the values."""
        return tuple(term for term in self.values if term in self.weight)

    @property
    def outputs(self) -> Terms:
        """The dimensions that only the weight has, in the order of the result."""
        return tuple(term for term in self.result if term in self.weight)

    @property
    def others(self) -> Terms:
        """The dimensions that only the values have, in their order."""
        return tuple(term for term in self.values if term not in self.weight)

    @property
    def is_plain(self) -> bool:
        """Whether values are [..., in] and the result [..., out], as for a linear."""
        one_each = len(self.inputs) == len(self.outputs) == 1
        return one_each and self.values == self.others + self.inputs and self.result == self.others + self.outputs


@dataclass(frozen=True)
class LayerCall:
    """One operator that multiplies an input with a layer's weight. All nodes belong to the program's graph."""

    node: Node
    kind: LayerKind
    operand: Node
    """The node of the input when the call was found."""
    weight: Node
    """The graph's input that holds the weight; for a weight that is computed, the node with its value."""
    bias: Node | None
    input_index: int = 0
    """The position of the input among the arguments of `node`; -1 if `node` takes a list of them, as an einsum does."""
    options: Mapping[str, Any] = field(default_factory=dict)
    spelling: Spelling | None = None
    """How the operator multiplies; None for the operator of the kind, and for addmm and mm with a transposing view."""
    order: tuple[int, ...] = ()
    """With a spelling: the dimensions of `weight` that count outputs, then inputs, then those of size 1."""
    views: tuple[Node, ...] = ()
    """The nodes between `weight` and the operator."""
    weight_name: str = ""
    """The weight's name in the state dict; a new one for a weight that is computed."""
    bias_name: str | None = None
    sources: tuple[str, ...] = ()
    """The names of the uploaded tensors that determine the weight."""
    bias_sources: tuple[str, ...] = ()
    """The names of those that determine the bias."""
    folded: bool = False
    """Whether the weight is computed from stored tensors."""
    bias_folded: bool = False
    """Whether the bias is."""
    addition: Node | None = None
    """The node that adds the bias, where the operator does not."""
    held_inputs: int = 0
    """For a weight that the operator reads as it is: how many dimensions, the last ones of `order`, count inputs."""
    only_multiplied: bool = True
    """For such a weight: whether everything that reads it multiplies by it, so that it can be quantized."""
    summand_index: int = 0
    """The position among its arguments of what the bias is added to."""

    @property
    def input(self) -> Node:
        """The node of the input, also after the graph was edited."""
        return self.operand if self.input_index < 0 else cast(Node, self.node.args[self.input_index])

    @property
    def is_held(self) -> bool:
        """Whether a `WeightHolder` is the leaf: it returns the weight, and what reads it stays as it is."""
        return self.held_inputs > 0

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as [in, out]."""
        return not self.folded and not self.is_held and self.order == (1, 0)

    @property
    def is_ready(self) -> bool:
        """Whether the operator reads a stored weight [out, in, ...] and bias in a way that every format can write."""
        return self.spelling is None and not self.folded and not self.bias_folded
