"""A Hugging Face folder in the compressed-tensors format, for `AutoModel.from_pretrained(folder)` and for vLLM.

    config.json                    as uploaded, with `quantization_config`
    model.safetensors              or shards of less than 5 GB with model.safetensors.index.json
    tokenizer.json, …              as uploaded
    modules.json, 1_Pooling/, …    of a sentence encoder, as the gate wrote them

Tensors are copied from the uploaded files to the new ones block by block, so memory stays small.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor, nn

from zeropoint.files.safetensors import in_json, replace_metadata
from zeropoint.files.stream_writer import ShardWriter
from zeropoint.formats.huggingface.compressed_tensors import compressed, expert, quantization_config
from zeropoint.formats.metadata import file_metadata, room_for_results
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.layers.stored_tensors import bias_name
from zeropoint.schema.checkpoint_files import CONFIG_FILE, KINDS
from zeropoint.schema.report import Report
from zeropoint.sources.huggingface.source import HuggingFaceSource
from zeropoint.sources.module import is_conv1d

MAX_SHARD_BYTES = 5 * 10**9


def write_folder(quantized: Quantized, path: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write the files into the folder `path`. Raises OSError when the disk can't take them.

    Raises TypeError when the source is not a Hugging Face folder, or a layer has corrections that the format can't
    store.
    """
    source = quantized.source
    if not isinstance(source, HuggingFaceSource):
        raise TypeError("only a Hugging Face folder can be written as one")
    for layer in quantized.layers:
        _require_storable(layer)
    with ShardWriter(path, max_shard_bytes, _metadata(quantized), room_for_results(quantized)) as writer:
        for name, tensor, blocks in _tensors(quantized, source):
            writer.stream(name, tensor.dtype, tuple(tensor.shape), blocks)
        writer.finish()
    config = dict(source.folder.config) | {"quantization_config": quantization_config(quantized.layers, _named(source))}
    (path / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in source.folder.carried:
        (path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.folder.path / name, path / name)


def record_folder(quantized: Quantized, path: Path, report: Report) -> None:
    """Write what validation measured into the metadata of every file of weights. Raises OSError."""
    for file in sorted(path.iterdir()):
        if KINDS["weights"].fullmatch(file.name):
            replace_metadata(file, _metadata(quantized, report))


def _metadata(quantized: Quantized, report: Report | None = None) -> dict[str, str]:
    """Return the metadata of a file of weights: that transformers needs, and where the file comes from."""
    origin = {"layout": "compressed-tensors", **file_metadata(quantized, {}, report)}
    return in_json({"zeropoint.origin": origin}) | {"format": "pt"}


def _require_storable(layer: QuantizedLayer) -> None:
    """Raise TypeError if the layer has its own input scale, outlier channels, or a bias that the network lacks."""
    has_input_scale = layer.pre_quant_scale is not None and layer.scaled_by is None
    has_new_bias = layer.bias is not None and layer.layer.bias is None
    if has_input_scale or has_new_bias or layer.outliers is not None:
        raise TypeError(f"compressed-tensors has no place for the corrections of {layer.layer.name!r}")


def _named(source: HuggingFaceSource) -> dict[str, str]:
    """Return name -> type of the modules that a target of the config could mean, and so those to ignore."""
    modules = source.module.named_modules()
    return {n: type(m).__name__ for n, m in modules if isinstance(m, nn.Linear) or is_conv1d(m)}


def _tensors(quantized: Quantized, source: HuggingFaceSource) -> Iterator[tuple[str, Tensor, Iterable[Tensor]]]:
    """Yield name, tensor and the tensor's values in blocks for everything stored, under the upload's own names.

    Each quantized weight is replaced by its parts.
    """
    weights = {layer.layer.weight_name: layer for layer in quantized.layers}
    changed = quantized.scaled_tensors | {bias_name(n): n.bias for n in quantized.layers if n.bias is not None}
    for name, tensor in source.tensors.items():
        stored = source.stored_names[name]
        if name in weights and name in source.experts:
            for piece, rows in source.experts[name]:
                parts = compressed(expert(weights[name], rows))
                yield from ((piece.removesuffix("weight") + part, value, [value]) for part, value in parts.items())
            weights[name].release()
            continue
        if name in weights:
            prefix = stored.removesuffix("weight")
            yield from ((prefix + part, value, [value]) for part, value in compressed(weights[name]).items())
            weights[name].release()
            continue
        if name in changed:
            yield stored, changed[name], [changed[name]]
            continue
        yield stored, tensor, source.files[name].blocks() if name in source.files else [tensor]
