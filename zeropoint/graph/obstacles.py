"""Decide which layers can be quantized: a weight that anything else reads must stay as it is."""

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain

from torch.fx import Node

from zeropoint.graph.constants import Constants, is_check
from zeropoint.model.layer import LayerKind
from zeropoint.model.layer_call import LayerCall
from zeropoint.schema.report import SkipReason

LEAST_BYTES = 2
"""A computed weight is stored in place of its sources only if these have so many bytes for each of its values."""
SMALL = 4
"""Sources with fewer values than the weight by this factor may stay, for whatever else reads them."""


def obstacles(calls: Mapping[str, Sequence[LayerCall]], constants: Constants) -> dict[str, SkipReason]:
    """Return why layers can't be quantized, by name; layers that can are absent."""
    readers = _Readers(list(chain.from_iterable(calls.values())), constants)
    found = {name: _obstacle(places, readers, constants) for name, places in calls.items()}
    return {name: reason for name, reason in found.items() if reason is not None}


def _obstacle(calls: Sequence[LayerCall], readers: "_Readers", constants: Constants) -> SkipReason | None:
    if any(not call.only_multiplied or (call.folded and _grows(call, constants)) for call in calls):
        return "unsupported"
    if any(readers.conflict(call) for call in calls):
        return "shared_weight_conflict"
    return None


def _grows(call: LayerCall, constants: Constants) -> bool:
    values = [source.meta["val"] for source in constants.sources(call.weight)]
    stored = sum(value.numel() * value.element_size() for value in values)
    return bool(stored < LEAST_BYTES * call.weight.meta["val"].numel())


class _Readers:
    """What reads the weights of all layers."""

    def __init__(self, calls: Iterable[LayerCall], constants: Constants) -> None:
        self._constants = constants
        self._calls = list(calls)
        folded = [call for call in self._calls if call.folded]
        self._folded = {call.node for call in folded}
        self._folded_views = {view for call in folded for view in call.views}
        self._held = {call.weight for call in folded if call.is_held}

    def conflict(self, call: LayerCall) -> bool:
        """Return whether quantizing the call's weight would change anything but the calls of layers like it."""
        if not call.folded:
            return not call.is_held and self._is_read_otherwise(call)
        size = call.weight.meta["val"].numel()
        large = (node for node in self._constants.sources(call.weight) if node.meta["val"].numel() * SMALL >= size)
        return any(self._leads_elsewhere(source, beside=self._beside(source, call.kind)) for source in large)

    def _is_read_otherwise(self, call: LayerCall) -> bool:
        """Return whether a node reads the stored weight but to multiply by it, or with other dimensions as outputs.

        Weights of layers of this kind may be computed from it: they are stored, too, if this one is quantized.
        """
        alike = [c for c in self._calls if c.weight is call.weight and not c.folded and c.transposed == call.transposed]
        operators = {other.node for other in alike}
        views = {view for other in alike for view in other.views}
        pending = [call.weight]
        while pending:
            for reader in pending.pop().users:
                if reader in views:
                    pending.append(reader)
                elif reader not in operators and not is_check(reader) and not self._is_only_folded(reader, call.kind):
                    return True
        return False

    def _is_only_folded(self, node: Node, kind: LayerKind) -> bool:
        """Return whether a node computes nothing but weights of layers of this kind, each of which can be stored."""
        others = {call.node for call in self._calls if call.folded and not (call.kind == kind and self._is_fit(call))}
        return node in self._constants and not self._leads_elsewhere(node, others)

    def _is_fit(self, call: LayerCall) -> bool:
        return call.only_multiplied and not call.is_held and not _grows(call, self._constants)

    def _beside(self, source: Node, kind: LayerKind) -> set[Node]:
        """Return what multiplies by a stored tensor as it is, and its views, if such layers can be quantized."""
        calls = [call for call in self._calls if call.weight is source and not call.folded]
        if any(call.kind != kind or call.is_held or self._is_read_otherwise(call) for call in calls):
            return set()
        return {node for call in calls for node in (call.node, *call.views)}

    def _leads_elsewhere(self, source: Node, others: Set[Node] = frozenset(), beside: Set[Node] = frozenset()) -> bool:
        """Return whether a stored tensor determines anything but the computed weights and biases of layers.

        `others`: calls of layers that count as something else. `beside`: readers that are allowed.
        """
        pending, seen = [source], {source}
        while pending:
            for reader in pending.pop().users:
                if reader in others:
                    return True
                if reader in self._folded or reader in self._held or reader in seen or is_check(reader):
                    continue
                if reader not in self._constants and reader not in self._folded_views and reader not in beside:
                    return True
                if reader in beside and reader not in self._constants:
                    continue
                seen.add(reader)
                pending.append(reader)
        return False
