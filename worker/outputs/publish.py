"""Checks, stores and lists what the child wrote to out/. The child has read an upload, so nothing in out/ is trusted.

A sweep leaves one file, its table. A name that no format of the job has, a link, a missing file, too many bytes, a file
that is not what its name says, or a report that does not parse makes the whole output invalid.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.jobs.claims import Claim
from app.jobs.endings import Product
from app.jobs.taxonomy import CLASSES
from app.storage import Storage
from worker.outputs.folder_tar import store_tar
from worker.outputs.inspection import NotAnArtifact, inspect
from zeropoint.schema.checkpoint_files import CONFIG_FILE, FOLDER_FILE, INDEX_FILE, KINDS, WEIGHTS_FILE, shard_name
from zeropoint.schema.formats import FORMATS, kind_in
from zeropoint.schema.job import ERROR_FILE, OUT_FOLDER, REPORT_FILE, SWEEP_FILE, Failure
from zeropoint.schema.report import Report
from zeropoint.schema.runtimes import RuntimeReport
from zeropoint.schema.sweep import SweepReport

MANIFEST_FILE = "manifest.json"
REPORT_CAP = 64 << 20
SIZE_FACTOR = 4
ROOM_BYTES = 64 << 20
ERROR_CAP = 1 << 16

Document = TypeVar("Document", bound=BaseModel)


class OutputError(Exception):
    """The child's output is not what a child writes. The text is for operators."""


def read_failure(folder: Path) -> Failure:
    """Read out/error.json. Raises OutputError."""
    failure = _read(_out(folder) / ERROR_FILE, Failure, ERROR_CAP)
    if failure.code not in CLASSES:
        raise OutputError(f"{ERROR_FILE}: {failure.code[:64]!r} is no code")
    return failure


def read_report(folder: Path) -> Report:
    """Read out/report.json. Raises OutputError."""
    return _read(_out(folder) / REPORT_FILE, Report, REPORT_CAP)


def read_result(folder: Path, claim: Claim) -> Report | SweepReport:
    """Read out/report.json, or the out/sweep.json of a sweep. Raises OutputError."""
    return _read(_out(folder) / claim.work.result_file, claim.work.result_type, REPORT_CAP)


def outputs(folder: Path, claim: Claim) -> dict[str, Path]:
    """Return the files that a successful child must have written, by their paths in out/.

    Raises OutputError for any other content of out/.
    """
    names, document = claim.work.formats(claim.model_format), claim.work.result_file
    formats = [FORMATS[name] for name in names]
    required = {document, *(name for entry in formats for name in entry.required)}
    out = _out(folder)
    present = sorted(_names(out))
    if not required <= set(present) or not all(stat.S_ISREG((out / name).lstat().st_mode) for name in present):
        raise OutputError(f"expected the files {sorted(required)} in out/, found {present}")
    if unknown := [name for name in present if name != document and not any(kind_in(e, name) for e in formats)]:
        raise OutputError(f"no format of this job has the files {unknown}")
    if "huggingface" in names:
        require_whole_weights(present)
    paths = {name: out / name for name in present}
    total, cap = sum(path.stat().st_size for path in paths.values()), output_cap(claim)
    if total > cap:
        raise OutputError(f"out/ holds {total} bytes, more than {cap} for a model of {claim.model.bytes}")
    for path in paths.values():
        _inspect(path)
    return paths


def _names(out: Path) -> Iterator[str]:
    """Yield the paths of everything in out/ and in its folders, but for those folders."""
    for path in out.iterdir():
        if stat.S_ISDIR(path.lstat().st_mode):
            yield from (f"{path.name}/{below.name}" for below in path.iterdir())
        else:
            yield path.name


def require_whole_weights(names: Sequence[str]) -> None:
    """Raise OutputError unless the weights are one file, or all shards of a set and their index."""
    weights = sorted(name for name in names if KINDS["weights"].fullmatch(name))
    shards = [shard_name(number, len(weights)) for number in range(1, len(weights) + 1)]
    if weights != [WEIGHTS_FILE] and (not weights or weights != shards or INDEX_FILE not in names):
        raise OutputError(f"the weights are not whole: {weights}")


def store(paths: Mapping[str, Path], storage: Storage) -> list[Product]:
    """Put files into the storage, under these names; those of a Hugging Face folder once more as one tar."""
    products = [Product(name, artifact_kind(name), storage.put_file(path)) for name, path in paths.items()]
    folder = {name: path for name, path in paths.items() if name != REPORT_FILE}
    if CONFIG_FILE in folder:
        products.append(Product(name=FOLDER_FILE, kind="folder", blob=store_tar(folder, storage)))
    return products


def artifact_kind(name: str) -> str:
    """Return the kind under which the API lists a file that `outputs` accepted."""
    documents = {REPORT_FILE: "report", SWEEP_FILE: "sweep"}
    return documents.get(name) or next(kind for entry in FORMATS.values() if (kind := kind_in(entry, name)))


def store_manifest(
    claim: Claim, result: Report | SweepReport, products: Sequence[Product], storage: Storage
) -> Product:
    """Store the manifest: inputs, outputs and versions, enough to repeat the job and to check its files."""
    loaded = result.loaded if isinstance(result, Report) else []
    about: dict[str, dict[str, Any]] = {
        entry.name: {"loader": entry.loader, "version": entry.version} for entry in loaded
    }
    for row in result.runtimes if isinstance(result, Report) else ():
        about.setdefault(row.artifact, {}).setdefault("runtimes", []).append(_in_manifest(row))
    inputs = {"model": claim.model, "dataset": claim.dataset, "evaluation_dataset": claim.evaluation_dataset}
    manifest: dict[str, Any] = {
        "job": claim.job_id,
        "attempt": claim.attempt,
        "device": claim.device,
        "inputs": {
            role: {"sha256": blob.uploaded_sha256, "bytes": blob.uploaded_bytes, "stored_sha256": blob.sha256}
            for role, blob in inputs.items()
            if blob
        },
        "outputs": {
            p.name: {"sha256": p.blob.sha256, "bytes": p.blob.bytes, **about.get(p.name, {})} for p in products
        },
        **claim.work.manifest(),
        "versions": result.versions,
    }
    with storage.writer() as writer:
        writer.write(json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n")
        return Product(name=MANIFEST_FILE, kind="manifest", blob=writer.commit())


def _in_manifest(row: RuntimeReport) -> dict[str, Any]:
    """Return what the manifest says of a runtime: whatever the report does, but for what is as usual."""
    return row.model_dump(exclude={"artifact", "counts", "loss_db"}, exclude_none=True)


def output_cap(claim: Claim) -> int:
    """Return the most bytes that out/ may hold.

    Two files of the model's size, in types that are not wider; the rest is room for metadata and report.
    """
    return SIZE_FACTOR * claim.model.bytes + REPORT_CAP + ROOM_BYTES


def _inspect(path: Path) -> None:
    try:
        inspect(path)
    except NotAnArtifact as error:
        raise OutputError(str(error)) from error


def _out(folder: Path) -> Path:
    out = folder / OUT_FOLDER
    if out.is_symlink() or not out.is_dir():
        raise OutputError("there is no out/")
    return out


def _read(path: Path, kind: type[Document], cap: int) -> Document:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            content = file.read(cap + 1)
    except OSError as error:
        raise OutputError(f"{path.name}: {error.strerror}") from error
    if len(content) > cap:
        raise OutputError(f"{path.name} is larger than {cap} bytes")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise OutputError(f"{path.name}: {error}") from error
