"""List a program's layers: their names and types in the user's source, and why one can't be quantized."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn
from torch.export import ExportedProgram

from zeropoint.graph.calls import Calls, module_types, size_of
from zeropoint.model.layer import Layer, distinct_bytes, with_free_names
from zeropoint.model.layer_call import LayerCall
from zeropoint.schema.layer_names import layer_name, owner_and_leaf, weight_layer_name
from zeropoint.schema.report import SkipReason

UNKNOWN = "Module"


def module_classes(program: ExportedProgram) -> dict[str, str]:
    """Return path -> class of every module that ran."""
    return {path: kind for node in program.graph.nodes for path, kind in module_types(node)}


@dataclass(frozen=True)
class Found:
    """What was found in a program: its layers' calls, and what became of them."""

    calls: Calls
    reasons: Mapping[str, SkipReason]
    """Why layers can't be quantized, by name."""
    leaves: Mapping[str, nn.Module]
    fused_outputs: Mapping[str, nn.Module]
    classes: Mapping[str, str]
    """Path -> class of the user's modules."""
    folded: Collection[str] = ()
    """Normalizations and adapters that were folded into layers, by name."""


def list_layers(program: ExportedProgram, original: Mapping[str, Tensor], found: Found) -> tuple[Layer, ...]:
    """Return every module that owns parameters, in state dict order; dead and folded ones are marked as such.

    `original`: the uploaded state dict.
    """
    stored = [call.weight_name for places in found.calls.values() for call in places]
    taken = {*original, *program.state_dict, *program.constants, *stored}
    return tuple(with_free_names(_layers(program, original, found), taken | _owners(taken)))


def _owners(names: Iterable[str]) -> set[str]:
    """Return the paths of all modules in which tensors of these names lie: no tensor can have one of them."""
    parts = [name.split(".") for name in names]
    return {".".join(each[:length]) for each in parts for length in range(1, len(each))}


def _layers(program: ExportedProgram, original: Mapping[str, Tensor], found: Found) -> Iterator[Layer]:
    live = {tensor.untyped_storage().data_ptr() for tensor in program.state_dict.values()}
    owned = _owned(original, found.calls, found.folded)
    for name, tensors in owned.items():
        places, leaf = found.calls.get(name), found.leaves.get(name)
        alive = places is not None or any(parameter in program.state_dict for parameter in tensors)
        if not alive and all(tensor.untyped_storage().data_ptr() in live for tensor in tensors.values()):
            continue  # another name of a live tensor: an export reads tied weights under one name
        first = places[0] if places and leaf is not None else None
        yield Layer(
            name=name,
            type=_type(name, tensors, places, found),
            bytes=_bytes(tensors, places, owned),
            kind=places[0].kind if places else None,
            module=leaf,
            fused_output=found.fused_outputs.get(name),
            weight_name=None if first is None else first.weight_name,
            bias_name=None if first is None else first.bias_name,
            reason=_reason(name, places, found) if alive else "folded" if name in found.folded else "dead_code",
            parameters=tuple(tensors),
            transposed=first is not None and first.transposed,
            computed=first is not None and first.folded,
            has_own_bias=places is None or _alone_reads_its_bias(places),
        )


def _reason(name: str, places: Sequence[LayerCall] | None, found: Found) -> SkipReason | None:
    """Return why a live layer can't be quantized; None when it can."""
    return "unsupported" if places is None else found.reasons.get(name)


def _alone_reads_its_bias(places: Sequence[LayerCall]) -> bool:
    if places[0].bias is None or places[0].bias_folded:
        return True
    readers = {node for call in places for node in (call.node, call.addition)}
    return set(places[0].bias.users) <= readers


def _type(name: str, tensors: Mapping[str, Tensor], places: Sequence[LayerCall] | None, found: Found) -> str:
    """Return the class of the module that owns a layer's weight, or that has the layer's name; else its operator."""
    main = _main(places[0], tensors) if places else next(iter(tensors))
    base = weight_layer_name(main) if places else name
    if name == base or name.removeprefix(f"{base}.").isdigit():
        return found.classes.get(owner_and_leaf(main)[0], UNKNOWN)
    return found.classes.get(name, places[0].kind if places else UNKNOWN)


def _main(call: LayerCall, tensors: Mapping[str, Tensor]) -> str:
    """Return the uploaded tensor that determines most of a call's weight."""
    known = [source for source in call.sources if source in tensors]
    return max(known, key=lambda name: size_of(tensors[name])) if known else next(iter(tensors))


def _bytes(
    tensors: Mapping[str, Tensor], places: Sequence[LayerCall] | None, owned: Mapping[str, Mapping[str, Tensor]]
) -> int:
    """Return the uploaded bytes of a layer; of a tensor that several slices share, those of its own slice."""
    if not places or not (places[0].folded or places[0].bias_folded):
        return distinct_bytes(tensors.values())
    shared = {name for other in owned.values() if other is not tensors for name in other}
    size = distinct_bytes(tensor for name, tensor in tensors.items() if name not in shared)
    for node, names in ((places[0].weight, places[0].sources), (places[0].bias, places[0].bias_sources)):
        common = [tensors[name] for name in names if name in shared and name in tensors]
        if node is not None and common:
            size += node.meta["val"].numel() * common[-1].element_size()
    return size


def _owned(original: Mapping[str, Tensor], calls: Calls, folded: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """Return layer name -> its tensors; a layer that reads another layer's weight lists that one."""
    borrowed = {name for name, places in calls.items() if not places[0].folded and not _is_own(name, places[0])}
    readers: dict[str, list[str]] = {}
    for name, places in calls.items():
        own = (() if name in borrowed else call.sources for call in places)
        biases = (call.bias_sources for call in places)
        for source in dict.fromkeys(chain(chain.from_iterable(own), chain.from_iterable(biases))):
            readers.setdefault(source, []).append(name)
    owned: dict[str, dict[str, Tensor]] = {}
    for name, tensor in original.items():
        if isinstance(tensor, nn.Parameter) or layer_name(name) in calls or name in readers:
            usual = weight_layer_name(name)
            for layer in readers.get(name) or [usual if usual in folded else layer_name(name)]:
                owned.setdefault(layer, {})[name] = tensor
    for name, places in calls.items():
        weight = {source: original[source] for source in places[0].sources if source in original}
        if name in borrowed or name not in owned:
            owned[name] = {**weight, **owned.get(name, {})}
    return owned


def _is_own(name: str, call: LayerCall) -> bool:
    return any(name == weight_layer_name(source) for source in call.sources)
