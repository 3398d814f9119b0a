"""Decide which layers can be quantized: a weight that anything else reads must stay as it is."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from torch.fx import Node

from zeropoint.graph.constants import Constants, is_check
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
        return any(self._leads_elsewhere(source) for source in large)

    def _is_read_otherwise(self, call: LayerCall) -> bool:
        """Return whether a node reads the stored weight but to multiply by it, or with other dimensions as outputs."""
        alike = [c for c in self._calls if c.weight is call.weight and not c.folded and c.transposed == call.transposed]
        operators = {other.node for other in alike}
        views = {view for other in alike for view in other.views}
        pending = [call.weight]
        while pending:
            for reader in pending.pop().users:
                if reader in views:
                    pending.append(reader)
                elif reader not in operators and not is_check(reader):
                    return True
        return False

    def _leads_elsewhere(self, source: Node) -> bool:
        """Return whether a stored tensor determines anything but the computed weights and biases of layers."""
        pending, seen = [source], {source}
        while pending:
            for reader in pending.pop().users:
                if reader in self._folded or reader in self._held or reader in seen or is_check(reader):
                    continue
                if reader not in self._constants and reader not in self._folded_views:
                    return True
                seen.add(reader)
                pending.append(reader)
        return False
