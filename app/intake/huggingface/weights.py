"""Read the weights of an unpacked folder: one file, or a complete set with its index; safetensors, or by torch.save."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import Invalid
from app.intake.huggingface.unpack import FolderFile, refused
from app.intake.parsing.names import is_name
from app.intake.parsing.strict_json import read_json
from app.intake.pickles.weights import stored_in
from app.intake.tensors.read import plan_stored, stored_weights
from app.intake.tensors.safetensors import MAX_TENSORS, Stored

MAX_INDEX_VALUES = 4 * MAX_TENSORS


@dataclass(frozen=True)
class Form:
    """A form of weights: the kinds of its files, their names, and what reads one."""

    kind: str
    index_kind: str
    stem: str
    suffix: str
    read: Callable[[Path], tuple[Stored, ...]]

    @property
    def whole(self) -> str:
        """Return the name of a file that holds all weights."""
        return f"{self.stem}.{self.suffix}"

    @property
    def index(self) -> str:
        """Return the name of the index."""
        return f"{self.whole}.index.json"

    def number_of(self, name: str) -> re.Match[str] | None:
        """Return the match of a shard's name, with its number and how many there are."""
        return re.fullmatch(rf"{self.stem}-([0-9]{{5}})-of-([0-9]{{5}})\.{self.suffix}", name)


FORMS = (
    Form("weights", "index", "model", "safetensors", stored_weights),
    Form("pickled_weights", "pickled_index", "pytorch_model", "bin", stored_in),
)
"""The first of which a folder has files is read."""


@dataclass(frozen=True)
class Shards:
    """The tensors of each file, by its name in the checkpoint, and our names of the files."""

    stored: Mapping[str, tuple[Stored, ...]]
    files: Mapping[str, str]
    parameters: int


def form_of(files: Sequence[FolderFile]) -> Form | None:
    """Return the form of a folder's weights, None if it has none."""
    kinds = {file.kind for file in files}
    return next((form for form in FORMS if form.kind in kinds), None)


def read_weights(folder: Path, files: Sequence[FolderFile], form: Form) -> Shards:
    """Check every value of a folder's weights. Raises Invalid with the location."""
    index = next((file for file in files if file.kind == form.index_kind), None)
    places = None if index is None else _read_index((folder / index.file).read_bytes(), form)
    named = {file.name: file.file for file in sorted(files, key=lambda file: file.name) if file.kind == form.kind}
    _check_names(set(named), places, form)
    stored: dict[str, tuple[Stored, ...]] = {}
    parameters = 0
    for name, file in named.items():
        plan = plan_stored(_in_file(form, folder / file, name))
        parameters += plan.facts.parameters
        stored[name] = plan.stored
        _check_places(name, plan.stored, places)
    found = {tensor.name for tensors in stored.values() for tensor in tensors}
    if places is not None and len(places) != len(found):
        raise refused(f"{min(set(places) - found)} is in the index but in no file.")
    return Shards(stored, named, parameters)


def _in_file(form: Form, path: Path, name: str) -> tuple[Stored, ...]:
    try:
        return form.read(path)
    except Invalid as refusal:
        raise Invalid(refusal.code, f"{name}: {refusal.detail}", refusal.remedy) from None


def _check_places(name: str, stored: tuple[Stored, ...], places: Mapping[str, str] | None) -> None:
    for tensor in stored:
        if places is not None and places.get(tensor.name) != name:
            raise refused(f"{tensor.name} is in {name}, but the index does not list it there.")


def _read_index(data: bytes, form: Form) -> dict[str, str]:
    """Return the file of each tensor, from the index."""
    document = read_json(data, lambda detail: refused(f"{form.index} {detail}."), MAX_INDEX_VALUES)
    places = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(places, dict) or not 1 <= len(places) <= MAX_TENSORS:
        raise refused(f"{form.index}: weight_map is missing, or not an object of 1 to {MAX_TENSORS} tensors.")
    for name, file in places.items():
        if not is_name(name) or not isinstance(file, str) or not (form.number_of(file) or file == form.whole):
            pattern = f"{form.stem}-NNNNN-of-NNNNN.{form.suffix}"
            raise refused(f"{form.index}: weight_map may map tensor names only to files {pattern}.")
    return places


def _check_names(names: set[str], places: Mapping[str, str] | None, form: Form) -> None:
    """Raise Invalid unless the weights are one whole file, or a complete set of shards with an index."""
    if places is None and names != {form.whole}:
        raise refused(f"Weights in more than one file need {form.index}.")
    if places is not None and set(places.values()) != names:
        raise refused(f"The files of weights are not the ones that {form.index} names.")
    matches = [match for match in map(form.number_of, names) if match]
    numbers = sorted(int(match[1]) for match in matches)
    if matches and (len(matches) != len(names) or {int(match[2]) for match in matches} != {len(numbers)}):
        raise refused("The files of weights are not one complete set.")
    if matches and numbers != list(range(1, len(numbers) + 1)):
        raise refused("The files of weights are not numbered from 00001 without a gap.")
