"""What a network of transformers takes: its main input, and those that it can go without."""

import inspect
from typing import Any

import torch

from zeropoint.data.batches import Dim, Input

ANY = Dim(1, None)


def inputs_of(network: Any) -> tuple[Input, ...]:
    """The inputs of a network, in the order in which a dataset's tensors are read."""
    if network.main_input_name == "pixel_values":
        return (_pixels(network.config),)
    taken = inspect.signature(network.forward).parameters
    shape = _tokens(network)
    inputs = [Input("input_ids", torch.int64, shape), Input("attention_mask", torch.int64, shape, optional=True)]
    if "token_type_ids" in taken:
        inputs.append(Input("token_type_ids", torch.int64, shape, optional=True))
    if "decoder_input_ids" in taken:
        # Bart shifts the encoder's tokens by itself when there are none
        made_by_itself = network.config.model_type == "bart"
        inputs.append(Input("decoder_input_ids", torch.int64, shape, optional=made_by_itself))
        inputs.append(Input("decoder_attention_mask", torch.int64, shape, optional=True))
    return tuple(inputs)


def _tokens(network: Any) -> tuple[int | Dim, ...]:
    """[batch, tokens], or [batch, choices, tokens] where one of several texts is chosen."""
    length = Dim(1, _longest(network.config))
    choices = type(network).__name__.endswith(("ForMultipleChoice", "DoubleHeadsModel"))
    return (ANY, ANY, length) if choices else (ANY, length)


def _longest(config: Any) -> int | None:
    """As many tokens as have a position; None where positions are computed from their distance."""
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    counted_from = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "mpnet") else 0
    return max(1, longest - int(counted_from))


def _pixels(config: Any) -> Input:
    size = config.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return Input("pixel_values", torch.float32, (ANY, config.num_channels, height, width))
