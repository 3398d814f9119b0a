"""The inputs of a transformers network: its main input, and its optional ones."""

import inspect
from typing import Any

import torch

from zeropoint.data.batches import Dim, Input

ANY = Dim(1, None)


def inputs_of(network: Any) -> tuple[Input, ...]:
    """Return the inputs of a network, in the order in which a dataset's tensors are read."""
    if network.main_input_name == "pixel_values":
        return (_pixels(network.config),)
    parameters = inspect.signature(network.forward).parameters
    shape = _tokens(network)
    inputs = [Input("input_ids", torch.int64, shape), Input("attention_mask", torch.int64, shape, optional=True)]
    if "token_type_ids" in parameters:
        inputs.append(Input("token_type_ids", torch.int64, shape, optional=True))
    if "decoder_input_ids" in parameters:
        # Bart computes these from the encoder's tokens when they are missing
        is_optional = network.config.model_type == "bart"
        inputs.append(Input("decoder_input_ids", torch.int64, shape, optional=is_optional))
        inputs.append(Input("decoder_attention_mask", torch.int64, shape, optional=True))
    return tuple(inputs)


def _tokens(network: Any) -> tuple[int | Dim, ...]:
    """Return [batch, tokens], or [batch, choices, tokens] for networks that choose one of several texts."""
    length = Dim(1, _longest(network.config))
    choices = type(network).__name__.endswith(("ForMultipleChoice", "DoubleHeadsModel"))
    return (ANY, ANY, length) if choices else (ANY, length)


def _longest(config: Any) -> int | None:
    """Return the number of positions; None if the network has no table of positions."""
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    counted_from = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "mpnet") else 0
    return max(1, longest - int(counted_from))


def _pixels(config: Any) -> Input:
    size = config.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return Input("pixel_values", torch.float32, (ANY, config.num_channels, height, width))
