"""Facts about an upload, in the same words in the API, the database and the checks."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Format = Literal["pt2", "huggingface", "safetensors"]


@dataclass(frozen=True)
class Dim:
    """A dynamic dimension; `max` None is unbounded."""

    min: int
    max: int | None

    def admits(self, size: int) -> bool:
        """Return whether the dimension can have this size."""
        return self.min <= size and (self.max is None or size <= self.max)


@dataclass(frozen=True)
class Tensor:
    """A named tensor that a program takes or a dataset holds."""

    name: str
    dtype: str
    shape: tuple[int | Dim, ...]
    optional: bool = False
    """Whether the network runs without it."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data; a dynamic dimension becomes {"min", "max"}."""
        shape = [asdict(size) if isinstance(size, Dim) else size for size in self.shape]
        return {"name": self.name, "dtype": self.dtype, "shape": shape, "optional": self.optional}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Tensor":
        """Return the tensor that `as_json` was made from."""
        shape = tuple(Dim(**size) if isinstance(size, dict) else size for size in data["shape"])
        return cls(data["name"], data["dtype"], shape, data.get("optional", False))


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters: its name and type in the user's source."""

    name: str
    type: str
    weight_shape: tuple[int, ...] | None
    parameters: int
    tensors: tuple[str, ...] = field(default=(), compare=False)
    """The names of the parameters; a recipe may name the layer by any of them."""


@dataclass(frozen=True)
class Warning:
    """Something about an upload that its owner should know: it is taken, but results may be useless."""

    code: Literal["no_layers", "torch_release", "training_mode"]
    detail: str
    remedy: str
    layers: tuple[str, ...]
    """Modules by their paths, at most `MOST_NAMES`."""


MOST_NAMES = 20


@dataclass(frozen=True)
class LeftOut:
    """A file, or a folder ending in "/", of an upload that was neither read nor kept, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Model:
    """A network: its upload format, its inputs, the layers that own its parameters, warnings, and files left out."""

    format: Format
    inputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    parameters: int
    warnings: tuple[Warning, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """Named tensors with an equal first dimension."""

    samples: int
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Weights:
    """Named tensors without the network that they belong to."""

    tensors: tuple[Tensor, ...]
    parameters: int
