"""The inputs of a transformers network, by the parameters of its `forward`: tokens, pictures, sounds."""

import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from zeropoint.data.batches import Dim, Input

ANY = Dim(1, None)


def inputs_of(network: Any) -> tuple[Input, ...]:
    """Return the inputs of a network, in the order in which a dataset's tensors are read."""
    parameters = inspect.signature(network.forward).parameters
    inputs = [*_texts(network, parameters), *_pictures(network, parameters), *_sounds(network, parameters)]
    has_text = "input_ids" in parameters
    if "attention_mask" in parameters and not has_text and any(entry.name == "input_values" for entry in inputs):
        inputs.append(Input("attention_mask", torch.int64, (ANY, ANY), optional=True))
    if "decoder_input_ids" in parameters and network.config.is_encoder_decoder:
        # Bart computes these from the encoder's tokens when they are missing
        is_optional = network.config.model_type == "bart"
        shape = _tokens(network) if has_text else (ANY, ANY)
        inputs.append(Input("decoder_input_ids", torch.int64, shape, optional=is_optional))
        if "decoder_attention_mask" in parameters:
            inputs.append(Input("decoder_attention_mask", torch.int64, shape, optional=True))
    return tuple(inputs)


def _texts(network: Any, parameters: Collection[str]) -> Iterator[Input]:
    if "input_ids" in parameters:
        shape = _tokens(network)
        yield Input("input_ids", torch.int64, shape)
        for name in ("attention_mask", "token_type_ids"):
            if name in parameters:
                yield Input(name, torch.int64, shape, optional=True)


def _pictures(network: Any, parameters: Collection[str]) -> Iterator[Input]:
    """Yield pixels; a network of texts that may hold pictures runs without them."""
    if "pixel_values" in parameters:
        config = _part(network.config, "vision_config")
        is_optional = "input_ids" in parameters and hasattr(network.config, "image_token_id")
        shape = (ANY, _channels(network, config), *_size(config))
        yield Input("pixel_values", torch.float32, shape, optional=is_optional)


def _sounds(network: Any, parameters: Collection[str]) -> Iterator[Input]:
    """Yield a wave [batch, samples], or a spectrogram [batch, mels, frames]."""
    config = _part(network.config, "audio_config")
    if "input_values" in parameters:
        yield Input("input_values", torch.float32, (ANY, ANY))
    if "input_features" in parameters:
        yield Input("input_features", torch.float32, (ANY, *_spectrogram(config)))


def _spectrogram(config: Any) -> tuple[int | Dim, int | Dim]:
    """Return [mels, frames] as Whisper has them, or [frames, mels] as networks with `input_feat_per_channel` do."""
    features = getattr(config, "input_feat_per_channel", None)
    if isinstance(features, int):
        return ANY, features
    mels, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    frames = 2 * positions if isinstance(positions, int) else ANY  # whose convolutions halve them
    return mels if isinstance(mels, int) else ANY, frames


def _part(config: Any, name: str) -> Any:
    """Return the config of one part of a network, or its whole config."""
    return getattr(config, name, None) or config


def _tokens(network: Any) -> tuple[int | Dim, ...]:
    """Return [batch, tokens], or [batch, choices, tokens] for networks that choose one of several texts."""
    length = Dim(1, _longest(network))
    choices = type(network).__name__.endswith(("ForMultipleChoice", "DoubleHeadsModel"))
    return (ANY, ANY, length) if choices else (ANY, length)


def _longest(network: Any) -> int | None:
    """Return the number of positions; None if the network has no table of positions."""
    config = _part(network.config, "text_config")
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    counted_from = config.pad_token_id + 1 if _counts_from_padding(network) else 0
    return max(1, longest - int(counted_from))


def _counts_from_padding(network: nn.Module) -> bool:
    """Return whether positions begin after the padding token's id, as in RoBERTa and what was made of it."""
    tables = (m for name, m in network.named_modules() if name.endswith("position_embeddings"))
    return any(isinstance(table, nn.Embedding) and table.padding_idx is not None for table in tables)


def _channels(network: nn.Module, config: Any) -> int | Dim:
    """Return the channels of a picture: those in the config, or of the first convolution."""
    for name in ("num_channels", "in_channels", "in_chans"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return ANY if first is None else first.in_channels


def _size(config: Any) -> tuple[int | Dim, int | Dim]:
    """Return height and width; networks without a size of their own take any."""
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == len(("height", "width")):
        return int(size[0]), int(size[1])
    return ANY, ANY
