"""A Hugging Face folder in the compressed-tensors format: `AutoModel.from_pretrained(folder)` loads it, and vLLM does.

    config.json                    as uploaded, with `quantization_config`
    model.safetensors              or shards of less than 5 GB with model.safetensors.index.json
    tokenizer.json, …              as uploaded

Tensors go from the upload to the new files block by block.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor, nn

from zeropoint.files.safetensors import in_json
from zeropoint.files.stream_writer import ShardWriter
from zeropoint.formats.huggingface.compressed_tensors import compressed, quantization_config
from zeropoint.layers.quantized_layer import QuantizedLayer
from zeropoint.layers.result import Quantized
from zeropoint.schema.checkpoint_files import CONFIG_FILE
from zeropoint.sources.huggingface.source import HuggingFaceSource

MAX_SHARD_BYTES = 5 * 10**9


def write_folder(quantized: Quantized, path: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write the files into the folder `path`. Raises OSError when the disk doesn't take them.

    Raises TypeError when the source is not a Hugging Face folder, or a layer has what the format has no place for.
    """
    source = quantized.source
    if not isinstance(source, HuggingFaceSource):
        raise TypeError("only a Hugging Face folder can be written as one")
    for layer in quantized.layers:
        _require_a_place(layer)
    about = {"layout": "compressed-tensors", "recipe": quantized.recipe.model_dump(mode="json")}
    metadata = in_json({"zeropoint.origin": about | {"versions": quantized.versions}}) | {"format": "pt"}
    with ShardWriter(path, max_shard_bytes, metadata) as writer:
        for name, tensor, blocks in _tensors(quantized, source):
            writer.stream(name, tensor.dtype, tuple(tensor.shape), blocks)
        writer.finish()
    linears = [name for name, module in source.module.named_modules() if type(module) is nn.Linear]
    config = dict(source.folder.config) | {"quantization_config": quantization_config(quantized.layers, linears)}
    (path / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in source.folder.carried:
        shutil.copyfile(file, path / file.name)


def _require_a_place(layer: QuantizedLayer) -> None:
    """A Linear of the format has no product before its input, no inputs in float, and the bias of its own network."""
    product = layer.pre_quant_scale is not None and layer.scaled_by is None
    new_bias = layer.bias is not None and layer.layer.bias is None
    if product or new_bias or layer.outliers is not None:
        raise TypeError(f"compressed-tensors has no place for the corrections of {layer.layer.name!r}")


def _tensors(quantized: Quantized, source: HuggingFaceSource) -> Iterator[tuple[str, Tensor, Iterable[Tensor]]]:
    """Name, tensor, and its values in pieces, of everything that is stored, under the upload's own names.

    The parts of a quantized weight stand in its place.
    """
    weights = {layer.layer.weight_name: layer for layer in quantized.layers}
    changed = quantized.scaled_normalizations | {n.bias_name: n.bias for n in quantized.layers if n.bias is not None}
    for name, tensor in source.tensors.items():
        stored = source.stored_names[name]
        if name in weights:
            owner = stored.removesuffix("weight")
            yield from ((owner + part, value, [value]) for part, value in compressed(weights[name]).items())
            weights[name].release()
            continue
        if name in changed:
            yield stored, changed[name], [changed[name]]
            continue
        yield stored, tensor, source.files[name].blocks() if name in source.files else [tensor]
