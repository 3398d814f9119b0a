"""Decide whether the float model itself fails on a batch, and find where: which layer, which operator.

An error during quantization may come from the model or from us. The float model is run once more on the batch without
hooks: only an error that it then raises itself is the model's.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from zeropoint.data.batches import ModelInputs
from zeropoint.errors import QuantizationError
from zeropoint.model.hooks import hooked
from zeropoint.model.source import ProgramSource, Source

MAX_TEXT = 300
"""Most characters of another library's message that are repeated."""
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.+~@-]+){2,}[/\\]?")
_QUOTED_FILE = re.compile(r'File "[^"]*"(, line \d+)?(, in \S+)?')


@dataclass(frozen=True)
class FloatFailure:
    """The error of the float model on a batch."""

    error: Exception
    where: str
    """`layer 'embed' (Embedding)` or `aten.view.default in 'head'`; empty when it is not known."""
    text: str
    """The error's own message, cleaned."""
    batch: str
    """The batch in words: names, dtypes, shapes, and the range of integers."""
    dtype: torch.dtype | None = None
    """That of the model's weights, where the batch has floating tensors of another one."""


def float_failure(source: Source) -> FloatFailure | None:
    """Run the batch of the last failed pass again; return None when there is none, or the float model runs on it."""
    batch = source.current.tensors
    if batch is None:
        return None
    try:
        with torch.no_grad():
            source.reset()
            source.forward(batch)
    except QuantizationError:
        return None
    except Exception as error:
        return FloatFailure(error, _place(source, batch), clean_text(error), _describe(batch), _other(source, batch))
    return None


def _other(source: Source, batch: Sequence[Tensor]) -> torch.dtype | None:
    """Return the one floating dtype of the weights, if the batch has floating tensors of another."""
    own = {tensor.dtype for tensor in source.module.parameters() if tensor.is_floating_point()}
    given = {tensor.dtype for tensor in batch if tensor.is_floating_point()}
    return own.pop() if len(own) == 1 and given - own else None


def clean_text(error: BaseException) -> str:
    """Return the first line of an error's message without paths, at most `MAX_TEXT` characters, with its type."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Traceback", "Exception raised from", "File "))]
    text = _PATH.sub("…", _QUOTED_FILE.sub("", lines[0] if lines else ""))
    text = "".join(character if character.isprintable() else " " for character in text).strip()
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "…"
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _describe(batch: Sequence[Tensor]) -> str:
    names = batch.names if isinstance(batch, ModelInputs) else [f"input {position}" for position in range(len(batch))]
    return "; ".join(_describe_tensor(name, tensor) for name, tensor in zip(names, batch, strict=True))


def _describe_tensor(name: str, tensor: Tensor) -> str:
    text = f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if tensor.numel() and not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool:
        text += f", {int(tensor.min())} to {int(tensor.max())}"
    return text


def _place(source: Source, batch: Sequence[Tensor]) -> str:
    """Return where the pass fails, by running it once more; empty when it is not found."""
    names = {id(layer.module): (layer.name, layer.type) for layer in source.layers if layer.module is not None}
    try:
        with torch.no_grad():
            source.reset()
            if isinstance(source, ProgramSource) and isinstance(source.module, GraphModule):
                locator = _Locator(source.module)
                try:
                    locator.run(*source.arguments(batch))
                except Exception:
                    return _node_place(source.module, locator.failed, names)
            else:
                with _entered(source.module) as stack:
                    try:
                        source.forward(batch)
                    except Exception:
                        return _module_place(*stack[-1], names) if stack else ""
    except Exception:  # a fault of this search must not hide the model's error
        return ""
    return ""


class _Locator(Interpreter):
    """Runs a graph node by node, and keeps the node that raises."""

    failed: Node | None = None

    def run_node(self, n: Node) -> Any:
        """Return the node's value. Raises whatever it raises."""
        try:
            return super().run_node(n)
        except Exception:
            self.failed = n
            raise


def _node_place(module: GraphModule, node: Node | None, names: dict[int, tuple[str, str]]) -> str:
    if node is None:
        return ""
    if node.op == "call_module":
        return _module_place("", module.get_submodule(str(node.target)), names)
    stack = [str(path).partition("@")[0] for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    inside = f" in {stack[-1]!r}" if stack and stack[-1] else ""
    return f"{node.target}{inside}"


def _module_place(path: str, module: nn.Module, names: dict[int, tuple[str, str]]) -> str:
    name, kind = names.get(id(module), (path, type(module).__name__))
    text = f"layer {name!r} ({kind})" if name else kind
    if isinstance(module, nn.Embedding):
        text += f", which takes 0 to {module.num_embeddings - 1}"
    return text


@contextmanager
def _entered(module: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield the modules, with their paths, that were entered and not left: the last one is where a pass failed."""
    stack: list[tuple[str, nn.Module]] = []
    paths = {id(child): path for path, child in module.named_modules()}
    children = list(module.modules())

    def enter(child: nn.Module, _: object) -> None:
        stack.append((paths[id(child)], child))

    def leave(_: nn.Module, __: object, ___: object) -> None:
        stack.pop()

    with hooked(before=((c, enter) for c in children), after=((c, leave) for c in children)):
        yield stack
