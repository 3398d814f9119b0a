"""Recognize files of other formats that people upload as a model, and say how to export instead."""

from collections.abc import Iterable
from pathlib import Path

from app.errors import Invalid

EXPORT = "Export the model where its code is: torch.export.save(torch.export.export(model.eval(), args), 'model.pt2')."

_ZIP = b"PK\3\4"


def refuse_foreign_file(path: Path) -> None:
    """Raise Invalid unless the file begins like a zip archive."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head.startswith(_ZIP):
        raise _unsupported(_kind_of(head))


def refuse_foreign_archive(names: Iterable[str]) -> None:
    """Raise Invalid when the members, by their whole names, are those of another kind of torch file."""
    whole = set(names)
    members = {name.partition("/")[2] for name in whole}
    if "models/model.json" in members or "serialized_exported_program.json" in whole:
        return
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        raise _unsupported("a TorchScript archive")
    if "data.pkl" in members:
        raise _unsupported("a pickle that torch.save wrote")
    raise _unsupported("an archive without models/model.json")


def _kind_of(head: bytes) -> str:
    if head.startswith(b"\x80"):
        return "a pickle"
    return "not a torch.export archive"


def _unsupported(kind: str) -> Invalid:
    taken = "a torch.export archive (.pt2), a Hugging Face folder (tar, zip) or weights alone (.safetensors)"
    return Invalid("model_format_unsupported", f"The file is {kind}; a model is {taken}.", EXPORT)
