"""Decide whether a graph's operator behaves as in training: the model was exported without `.eval()`. Torch-free.

Dropout then destroys values at random, and a batch normalization uses the batch's own statistics and changes its
stored ones. Normalizations without stored statistics use the batch's in evaluation too, so these don't count.
"""

import re
from collections.abc import Mapping

_BATCH_NORMS = {
    "batch_norm",
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "_batch_norm_impl_index",
    "cudnn_batch_norm",
    "miopen_batch_norm",
}
_UPDATING = {"_batch_norm_with_update", "_batch_norm_with_update_functional"}
"""Batch normalizations that exist for training alone."""
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout"}
_NOISY_ACTIVATIONS = {"rrelu", "rrelu_with_noise", "rrelu_with_noise_functional"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_RANDOM = {"bernoulli", "rand", "rand_like", "native_dropout"}
"""What a decomposed dropout draws its mask with."""
_DROPPING = re.compile(r"drop|lstm|gru|rnn", re.IGNORECASE)
"""Modules that draw random numbers for nothing else."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def trains(operator: str, arguments: Mapping[str, object], module: str = "") -> bool:
    """Return whether a call behaves as in training.

    `operator`: its name without namespace, "batch_norm.default". `arguments`: by their names in the schema; absent ones
    have their default. `module`: the class of the module that makes the call, such as "Dropout".
    """
    name = operator.partition(".")[0].removesuffix("_")
    if name in _UPDATING:
        return True
    if name in _BATCH_NORMS:
        training = arguments.get("training", arguments.get("train"))
        return training is True and arguments.get("running_mean") is not None
    if name == "instance_norm":
        return arguments.get("use_input_stats") is True and arguments.get("running_mean") is not None
    if name in _DROPOUTS:
        return arguments.get("train") is True and _share(arguments, "p", 0.5) > 0
    if name in _NOISY_ACTIVATIONS:
        return arguments.get("training") is True
    if name in _RECURRENT:
        return arguments.get("train") is True and _share(arguments, "dropout", 0.0) > 0
    if "scaled_dot_product" in name:
        return _share(arguments, "dropout_p", 0.0) > 0
    return name in _RANDOM and _DROPPING.search(module) is not None


def updated_statistics(buffer: str) -> str | None:
    """Return the normalization whose statistics a graph changes by writing this buffer; None for another buffer."""
    owner, _, leaf = buffer.rpartition(".")
    return owner if leaf in _STATISTICS else None


def _share(arguments: Mapping[str, object], name: str, default: float) -> float:
    value = arguments.get(name, default)
    return float(value) if isinstance(value, int | float) else default


def describe(modules: Mapping[str, str]) -> tuple[str, str]:
    """Return detail and remedy for modules in training mode, path -> class, both in the order of the graph."""
    shown = [f"{path!r} ({kind})" if path else kind for path, kind in list(modules.items())[:5]]
    more = f" and {len(modules) - 5} more" if len(modules) > 5 else ""
    return (
        f"The model was exported in training mode: {', '.join(shown)}{more}. Dropout destroys values at random, and "
        "batch normalization uses the batch's own statistics.",
        "Call model.eval() before torch.export.export, and upload the new file.",
    )
