"""What a pickle of torch.save describes, as inert data: storages, tensors, and what is neither."""

import re
from dataclasses import dataclass, field
from types import MappingProxyType

from app.intake.tensors.dtypes import BY_NAME

_SHOWN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}([.][A-Za-z_][A-Za-z0-9_]{0,63}){0,15}")

DTYPE_OF_STORAGE = MappingProxyType(
    {
        "ByteStorage": "uint8",
        "CharStorage": "int8",
        "ShortStorage": "int16",
        "IntStorage": "int32",
        "LongStorage": "int64",
        "HalfStorage": "float16",
        "FloatStorage": "float32",
        "DoubleStorage": "float64",
        "ComplexFloatStorage": "complex64",
        "ComplexDoubleStorage": "complex128",
        "BoolStorage": "bool",
        "BFloat16Storage": "bfloat16",
    }
)
"""torch's classes of storages with one dtype."""


NO_STATE_DICT = "not a state dict"
"""What is said of a file that is one object, such as a module with its code."""


@dataclass(frozen=True)
class Global:
    """A name of a module, as a pickle refers to it. Nothing is imported by it."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Return the whole name: "collections.OrderedDict"."""
        return f"{self.module}.{self.name}"

    @property
    def shown(self) -> str:
        """Return the whole name, or generic words if it is unfit for a message."""
        return self.path if _SHOWN.fullmatch(self.path) else "a class whose name is not shown"

    @property
    def dtype(self) -> str | None:
        """Return the element type if it is one of torch's, such as `torch.float32`."""
        return self.name if self.module == "torch" and self.name in BY_NAME else None


@dataclass(frozen=True)
class Storage:
    """A run of numbers: its key in the file, element type, how many are claimed, and where it begins, in elements."""

    key: str
    dtype: str | None
    """None: bytes without a type."""
    elements: int
    start: int = 0


@dataclass(frozen=True)
class TensorView:
    """A tensor: a view of a storage, in elements."""

    storage: Storage
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    requires_grad: bool = False
    is_parameter: bool = False


@dataclass(frozen=True)
class Foreign:
    """Something that is not read: an object of a class that is on no list, or an unusual kind of tensor."""

    what: str
    """With its article: "an object of argparse.Namespace"."""


@dataclass
class Pickle:
    """The value of a pickle, and every foreign thing in it, also where the value no longer refers to it."""

    value: object = None
    foreign: list[Foreign] = field(default_factory=list)
