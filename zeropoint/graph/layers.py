"""List a program's layers: their names and types in the user's source, and why one can't be quantized."""

from collections.abc import Collection, Iterator, Mapping
from itertools import chain

from torch import Tensor, nn
from torch.export import ExportedProgram

from zeropoint.graph.calls import LayerCall, is_read_elsewhere, module_types, stored_names
from zeropoint.model.layer import Layer, distinct_bytes
from zeropoint.schema.layer_names import layer_name
from zeropoint.schema.report import SkipReason


def layer_types(program: ExportedProgram) -> dict[str, str]:
    """Return layer name -> class of the module that holds its parameters, from the nodes that read them."""
    types: dict[str, str] = {}
    stored = stored_names(program)
    for node in program.graph.nodes:
        paths = dict(module_types(node))
        for parameter in (stored[read.name] for read in node.all_input_nodes if read.name in stored):
            holder = parameter.rpartition(".")[0]
            if holder in paths:
                types.setdefault(layer_name(parameter), paths[holder])
    return types


def obstacle(calls: list[LayerCall], all_calls: Mapping[str, list[LayerCall]]) -> SkipReason | None:
    """Return why a linear, convolution or embedding can't become one leaf; None when it can."""
    if is_read_elsewhere(calls[0].weight, chain.from_iterable(all_calls.values())):
        return "shared_weight_conflict"
    first = (calls[0].weight, calls[0].options, calls[0].bias)
    alike = all((call.weight, call.options, call.bias) == first for call in calls)
    return None if alike else "unsupported"


def list_layers(
    program: ExportedProgram,
    original: Mapping[str, Tensor],
    types: Mapping[str, str],
    calls: dict[str, list[LayerCall]],
    leaves: Mapping[str, nn.Module],
    *,
    fused_outputs: Mapping[str, nn.Module],
    folded: Collection[str] = (),
) -> Iterator[Layer]:
    """Yield every module that owns parameters, in state dict order; dead and folded ones are marked as such."""
    names = stored_names(program)
    live = {tensor.untyped_storage().data_ptr() for tensor in program.state_dict.values()}
    for name, parameters in _parameters(original, calls, names).items():
        places, leaf = calls.get(name), leaves.get(name)
        alive = places is not None or any(parameter in program.state_dict for parameter in parameters)
        if not alive and all(tensor.untyped_storage().data_ptr() in live for tensor in parameters.values()):
            continue  # another name of a live tensor: an export reads tied weights under one name
        weight_name = names[places[0].weight.name] if places else ""
        bias = places[0].bias if places and leaf else None
        yield Layer(
            name=name,
            type=types.get(name, places[0].kind if places and name != layer_name(weight_name) else "Module"),
            bytes=distinct_bytes(parameters.values()),
            kind=places[0].kind if places and leaf else None,
            module=leaf,
            fused_output=fused_outputs.get(name),
            weight_name=weight_name if leaf else None,
            bias_name=None if bias is None else names[bias.name],
            reason=_reason(places, calls) if alive else "folded" if name in folded else "dead_code",
        )


def _reason(places: list[LayerCall] | None, all_calls: Mapping[str, list[LayerCall]]) -> SkipReason | None:
    """Return why a live layer can't be quantized; None when it can."""
    return "unsupported" if places is None else obstacle(places, all_calls)


def _parameters(
    original: Mapping[str, Tensor], calls: Mapping[str, list[LayerCall]], names: Mapping[str, str]
) -> dict[str, dict[str, Tensor]]:
    """Return layer name -> its parameters; a layer that reads another layer's weight lists that one."""
    parameters: dict[str, dict[str, Tensor]] = {}
    for name, tensor in original.items():
        if isinstance(tensor, nn.Parameter) or layer_name(name) in calls:
            parameters.setdefault(layer_name(name), {})[name] = tensor
    for layer, places in calls.items():
        weight = names[places[0].weight.name]
        parameters.setdefault(layer, {weight: original[weight]})
    return parameters
