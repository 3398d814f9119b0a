"""Weights that torch.save wrote (`.pt`, `.pth`, `pytorch_model.bin`): read without unpickling, kept as safetensors."""

from functools import partial
from pathlib import Path

from app.errors import Invalid
from app.intake.archives.stored_zip import Archive
from app.intake.facts import Model
from app.intake.parsing.names import RULE, is_name
from app.intake.parsing.typed import Wrong
from app.intake.pickles.legacy import HEAD_BYTES, begins_legacy, read_legacy
from app.intake.pickles.saved import PICKLE, Saved, read_saved
from app.intake.pickles.values import NO_STATE_DICT, TensorView
from app.intake.recognition import EXPORT, Look, is_torch_script
from app.intake.tensors.dtypes import BY_NAME
from app.intake.tensors.read import Plan, plan_stored
from app.intake.tensors.safetensors import MAX_TENSORS, Stored, is_countable
from app.intake.tensors.strided import MAX_GATHERED_BYTES, is_row_major, pieces, row_major
from app.intake.tensors.weights import weights_model

SAVE_TENSORS = (
    "For the weights without the network, save the tensors alone: torch.save(model.state_dict(), 'model.pt'), or "
    "save_file(model.state_dict(), 'model.safetensors') with safetensors."
)
MOST_COPIES = 4
"""How many times the file's size all tensors together may have: names can share a storage, as tied weights do."""
SMALL_BYTES = 64 * 2**20
MAX_PIECES = 2**24
"""Of all tensors that are not row-major; a piece takes about two microseconds."""


def read_pickled_weights(path: Path) -> Plan[Model]:
    """Check a file of torch.save, including every value. Raises Invalid with what is wrong, and where."""
    return weights_model(plan_stored(stored_in(path)))


def is_pickled(look: Look) -> bool:
    """Return whether torch.save wrote the file."""
    return begins_legacy(look.head) or (PICKLE in look.below and not is_torch_script(look))


def stored_in(path: Path) -> tuple[Stored, ...]:
    """Return the tensors of a file of torch.save, sorted by name. Raises Invalid."""
    try:
        return _stored(_read(path), path.stat().st_size)
    except Wrong as wrong:
        place = "".join(f"{key}: it " for key in wrong.path if is_name(key)) or "The pickle in the file "
        remedy = f"{EXPORT} {SAVE_TENSORS}" if wrong.detail.endswith(NO_STATE_DICT) else SAVE_TENSORS
        raise _refused(f"{place}{wrong.detail}.", remedy) from None
    except Invalid as refusal:
        raise _refused(refusal.detail) from None


def _read(path: Path) -> Saved:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if begins_legacy(head):
        return read_legacy(path)
    with Archive(path) as archive:
        return read_saved(archive, path)


def _stored(saved: Saved, file_bytes: int) -> tuple[Stored, ...]:
    if len(saved.tensors) > MAX_TENSORS:
        raise Wrong(f"holds {len(saved.tensors)} tensors; at most {MAX_TENSORS} are read")
    stored = tuple(_one(saved, name, view) for name, view in sorted(saved.tensors.items()))
    total = sum(tensor.bytes for tensor in stored)
    if total > max(SMALL_BYTES, MOST_COPIES * file_bytes):
        raise Wrong(f"describes tensors of {total} bytes in a file of {file_bytes}: too many share their storage")
    if sum(pieces(view.sizes, view.strides) for view in saved.tensors.values()) > MAX_PIECES:
        raise Wrong("holds views whose elements lie too far apart; save them .contiguous()")
    return stored


def _one(saved: Saved, name: str, view: TensorView) -> Stored:
    if not is_name(name):
        raise Wrong(f"has a tensor whose name isn't {RULE}")
    if BY_NAME[view.dtype].safetensors_code is None:
        raise Wrong(f"is a tensor of {view.dtype}, which can't be kept; save its real and imaginary parts", name)
    if not is_countable(view.sizes, view.dtype):
        raise Wrong("has sizes that are too large to count its elements", name)
    storage = saved.storages[view.storage.key]
    if storage.size > MAX_GATHERED_BYTES and not is_row_major(view.sizes, view.strides):
        raise Wrong("is a view of a large storage in another order than its own; save it .contiguous()", name)
    offset = view.storage.start + view.offset
    chunks = partial(row_major, storage, view.dtype, view.sizes, view.strides, offset)
    return Stored(name, view.dtype, view.sizes, chunks)


def _refused(detail: str, remedy: str = SAVE_TENSORS) -> Invalid:
    return Invalid("weights_invalid", detail, remedy)
