"""Build a transformers network from its config without weights: never `from_pretrained`, never an Auto class.

The class is looked up by its exact name. Parameters are created on the meta device, so a config that claims a huge
network allocates nothing before its names and shapes are compared with the stored tensors.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from zeropoint.errors import InvalidModel, Unsupported

ATTENTION = ("sdpa", "eager")
"""Implementations in order of preference; every class has the second. Never a name from an upload."""
_BUILT_APART = ("architectures", "model_type", "dtype")


def build_empty(config: Mapping[str, Any]) -> Any:
    """Build the network on the meta device, buffers too. Raises Unsupported, or InvalidModel on a bad config."""
    with torch.device("meta"):
        return _build(config)


def build(config: Mapping[str, Any]) -> Any:
    """Build the network with real buffers and parameters on the meta device. Raises what `build_empty` raises."""
    with _parameters_on_meta():
        return _build(config).eval()


def initializes_weights(config: Mapping[str, Any]) -> bool:
    """Return whether transformers can't open the network with packed weights, whose layers have no `weight`.

    It runs the initialization of every layer after it loaded the tensors, which leaves these as they are; but the code
    of many networks, DINOv2's and T5's, reads `weight` of a linear layer nevertheless.
    """
    network = build_empty(config)
    for module in network.modules():
        vars(module).pop("_is_hf_initialized", None)  # as in a network whose tensors were just loaded
        if isinstance(module, nn.Linear):
            del module.weight
    try:
        network.initialize_weights()
    except AttributeError:
        return True
    return False


def _build(config: Mapping[str, Any]) -> Any:
    network = _class_of(config)
    values = {key: value for key, value in config.items() if key not in _BUILT_APART}
    for attention in ATTENTION:
        try:
            settings = network.config_class(**values | {"use_cache": False})
            return network._from_config(settings, attn_implementation=attention)
        except Exception as error:
            if attention == ATTENTION[-1]:
                raise InvalidModel(
                    "checkpoint_invalid",
                    f"{network.__name__} can't be built from config.json.",
                    "Check that config.json is the one that save_pretrained wrote with these weights.",
                ) from error
    raise AssertionError


def _class_of(config: Mapping[str, Any]) -> Any:
    try:
        transformers: Any = import_module("transformers")  # an extra
    except ImportError as error:
        raise Unsupported(
            "transformers_missing",
            "Hugging Face folders need the library transformers, which is not installed here.",
            "Ask the operator to install zeropoint[transformers], or export the model as a .pt2 program.",
        ) from error
    transformers.utils.logging.set_verbosity_error()
    name = config["architectures"][0]
    network: Any = getattr(transformers, name, None)
    known = isinstance(network, type) and issubclass(network, transformers.PreTrainedModel)
    if not known or network.config_class.model_type != config["model_type"]:
        raise Unsupported(
            "architecture_unsupported",
            f"The installed transformers has no network {name} with model_type {config['model_type']}.",
            "Export the model as a .pt2 program: torch.export takes any network.",
        )
    return network


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Move every parameter that a module registers to the meta device; tied parameters stay tied."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
