"""Recognize an upload by its first bytes, or by the names in its zip, and say what to upload in place of it."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.errors import Invalid
from app.intake.archives.stored_zip import Archive
from app.intake.tensors.npy import SAVE_SAMPLES

EXPORT = "Export the model where its code is: torch.export.save(torch.export.export(model.eval(), args), 'model.pt2')."
ZIP = b"PK\3\4"
PROGRAMS = ("models/model.json", "serialized_exported_program.json")
"""The members that are a program, in each layout."""

_HEAD_BYTES = 4096
_TAKEN = "a torch.export archive (.pt2), a Hugging Face folder (tar, zip) or weights alone (.safetensors, .pt)"
_FROM_SOURCE = "Upload the PyTorch model that it was converted from. " + EXPORT
_KERAS = (
    "Load it with Keras 3 and KERAS_BACKEND=torch, where it is a torch module, and export that: "
    "torch.export.save(torch.export.export(model.eval(), args), 'model.pt2')."
)
_NO_NETWORK = (
    "Build what it computes as a torch module (a linear model is one nn.Linear) and export that: "
    "torch.export.save(torch.export.export(model.eval(), args), 'model.pt2')."
)


@dataclass(frozen=True)
class Look:
    """What a first look at an upload shows: its first bytes, and the members of a zip by their whole names."""

    head: bytes
    names: frozenset[str] = frozenset()

    @property
    def below(self) -> frozenset[str]:
        """Return the names below a root folder."""
        return frozenset(name.partition("/")[2] for name in self.names)

    @property
    def leaves(self) -> frozenset[str]:
        """Return the last parts of the names."""
        return frozenset(name.rpartition("/")[2] for name in self.names)

    @property
    def unpacked(self) -> bytes:
        """Return the first bytes, unpacked if they are zlib's, as joblib writes them."""
        try:
            return zlib.decompressobj().decompress(self.head, _HEAD_BYTES)
        except zlib.error:
            return self.head

    @property
    def is_zip(self) -> bool:
        """Return whether the file begins like a zip."""
        return self.head.startswith(ZIP)

    @property
    def is_tar(self) -> bool:
        """Return whether the file begins like a tar."""
        return self.head[257:262] == b"ustar"


def look_at(path: Path) -> Look:
    """Return the look at a file; a zip that can't be read has no names."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.startswith(ZIP):
        return Look(head)
    try:
        with Archive(path) as archive:
            return Look(head, frozenset(archive.names))
    except Invalid:
        return Look(head)


@dataclass(frozen=True)
class _Kind:
    """A kind of file that no model here is, in words, and what to do."""

    what: str
    fits: Callable[[Look], bool]
    remedy: str = _FROM_SOURCE


def _begins(*starts: bytes) -> Callable[[Look], bool]:
    return lambda look: look.head.startswith(starts)


def _says(place: int, *words: bytes) -> Callable[[Look], bool]:
    return lambda look: look.head[place:].startswith(words)


def _pickle_of(*packages: bytes) -> Callable[[Look], bool]:
    named = re.compile(rb"\b(" + b"|".join(packages) + rb")\b")
    return lambda look: look.unpacked.startswith(b"\x80") and named.search(look.unpacked) is not None


_JSON = re.compile(rb"\s*[{\[]\s*[\"{}\[\]]")
_MESSAGE = re.compile(rb"\x08(?P<version>[\x01-\x1f])(?P<next>[\x12\x1a\x22\x28\x32\x3a\x42])", re.DOTALL)
"""A protocol buffer that begins with a small version number."""


def _is_onnx(look: Look) -> bool:
    """Return whether it is ONNX: a version, then the producer's name as short text, or another of a model's fields."""
    match = _MESSAGE.match(look.head)
    if match is None or match["next"] != b"\x12":
        return match is not None
    length = look.head[3]
    return length < 128 and look.head[4 : 4 + length].isascii() and look.head[4:5] != b"\n"


def _is_nested(first: int, last: int) -> Callable[[Look], bool]:
    """Return a check for a version in a range, then a message whose first field is text or a message again."""

    def fits(look: Look) -> bool:
        match = _MESSAGE.match(look.head)
        nested = match is not None and match["next"] == b"\x12" and b"\x0a" in look.head[4:9]
        return nested and first <= look.head[1] <= last

    return fits


def is_torch_script(look: Look) -> bool:
    """Return whether it is a zip of TorchScript, for servers or for mobile devices."""
    code = any(name.startswith("code/") for name in look.below)
    return "constants.pkl" in look.below and (code or "bytecode.pkl" in look.below)


_TORCH_SCRIPT = (
    "Export the module that was scripted: torch.export.save(torch.export.export(model.eval(), args), 'model.pt2'). "
    "Or quantize its weights alone: torch.save(torch.jit.load('model.pt').state_dict(), 'weights.pt')."
)
_KINDS = (
    _Kind("a TorchScript archive", is_torch_script, _TORCH_SCRIPT),
    _Kind(
        "an archive that AOTInductor compiled",
        lambda look: (
            not look.below.intersection(PROGRAMS) and any(name.startswith("data/aotinductor/") for name in look.below)
        ),
        EXPORT,
    ),
    _Kind(
        "a Keras model (.keras)",
        lambda look: {"config.json", "model.weights.h5"} <= look.names,
        _KERAS,
    ),
    _Kind("a TensorFlow SavedModel", lambda look: "saved_model.pb" in look.leaves),
    _Kind(
        "a Core ML package",
        lambda look: "Manifest.json" in look.leaves and any("com.apple.CoreML" in name for name in look.names),
    ),
    _Kind(
        "an archive of numpy arrays (.npz)",
        lambda look: bool(look.names) and all(name.endswith(".npy") for name in look.names),
        "Save weights with safetensors: save_file({name: torch.from_numpy(array)}, 'model.safetensors').",
    ),
    _Kind(
        "a numpy array (.npy)",
        _begins(b"\x93NUMPY"),
        "Save weights with safetensors: save_file({name: torch.from_numpy(array)}, 'model.safetensors').",
    ),
    _Kind(
        "a GGUF file",
        _begins(b"GGUF", b"GGML", b"lmgg", b"tjgg", b"fmgg"),
        "Upload the Hugging Face folder that it was converted from (config.json and safetensors), which is in float.",
    ),
    _Kind("a Keras or other HDF5 file (.h5)", _begins(b"\x89HDF\r\n\x1a\n"), _KERAS),
    _Kind("a TensorFlow Lite model (.tflite)", _says(4, b"TFL3")),
    _Kind("an ExecuTorch program (.pte)", _says(4, b"ET12", b"ET13"), EXPORT),
    _Kind("an ONNX model", _is_onnx),
    _Kind("a TensorFlow SavedModel (saved_model.pb)", _is_nested(1, 1)),
    _Kind("a Core ML model (.mlmodel)", _is_nested(2, 31)),
    _Kind("a TensorRT engine", _begins(b"ptrt", b"ftrt"), _FROM_SOURCE),
    _Kind("a scikit-learn model", _pickle_of(b"sklearn"), _NO_NETWORK),
    _Kind("a model of gradient-boosted trees", _pickle_of(b"xgboost", b"lightgbm", b"catboost"), _NO_NETWORK),
    _Kind(
        "a pointer of Git LFS, not the file itself",
        _begins(b"version https://git-lfs"),
        "Fetch the file (git lfs pull) and upload that.",
    ),
    _Kind(
        "a web page",
        lambda look: look.head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")),
        "Download the model again, and check that the address gives the file itself.",
    ),
    _Kind(
        "a JSON text",
        lambda look: _JSON.match(look.head) is not None,
        "Upload the file of the model itself: curl -X POST -T FILE. A config.json belongs to the folder of a Hugging "
        "Face model: pack all of it, tar -chf model.tar -C FOLDER .",
    ),
    _Kind("an OpenVINO network (.xml)", lambda look: look.head.startswith(b"<?xml") and b"<net " in look.head),
)
"""Asked in this order: a zip with the files of two kinds is the first of them."""


def is_program(look: Look) -> bool:
    """Return whether it is a zip with a program among its members."""
    return PROGRAMS[0] in look.below or PROGRAMS[1] in look.names


def refuse_foreign(look: Look) -> None:
    """Raise Invalid, with what to upload, if the file is of a kind that is known and not accepted."""
    kind = next((kind for kind in _KINDS if kind.fits(look)), None)
    if kind is not None:
        raise _refused(kind.what, kind.remedy)


def require_program(look: Look) -> None:
    """Raise Invalid unless the file can be a program: a zip with one of its members."""
    refuse_foreign(look)
    if look.head.startswith(b"\x80"):
        raise _refused("a pickle", EXPORT)
    if not look.is_zip:
        raise _refused("not a torch.export archive", EXPORT)
    if not is_program(look) and look.names:
        what = "a pickle that torch.save wrote" if "data.pkl" in look.below else "an archive without models/model.json"
        raise _refused(what, EXPORT)


def refuse_models(look: Look) -> None:
    """Raise Invalid if a dataset is a model, or a pickle as torch.save writes it."""
    if is_program(look) or look.is_tar:
        what = "a program of torch.export" if look.is_zip else "a tar, as folders of models are packed"
        raise Invalid(
            "dataset_invalid",
            f"The file is {what}, and holds no samples.",
            f"Upload a model to POST /v1/models. {SAVE_SAMPLES}",
        )
    if "data.pkl" in look.below or look.head.startswith(b"\x80"):
        what = "The file is a pickle, as torch.save writes it: samples are not read from one."
        raise Invalid("dataset_invalid", what, SAVE_SAMPLES)


def _refused(what: str, remedy: str) -> Invalid:
    return Invalid("model_format_unsupported", f"The file is {what}; a model is {_TAKEN}.", remedy)
