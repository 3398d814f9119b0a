"""The gate's process: what it answers, what it may reach, and that its memory doesn't grow with the upload."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import Invalid
from app.intake.confined import ask
from app.intake.gate import pass_gate, sandbox_for
from app.intake.limits import FREE_BYTES, Limits
from tests.factories import fresh_of
from tests.networks import convolutional


def test_facts_come_back_and_the_fresh_file_goes_on(tmp_path: Path) -> None:
    path, pieces = convolutional().export(tmp_path / "model.pt2"), list[bytes]()
    facts = pass_gate("model", path, Limits(), pieces.append)
    assert facts["format"] == "pt2"
    shape = [{"min": 1, "max": 1024}, 1, 8, 8]
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": shape, "optional": False}]
    assert b"".join(pieces) == fresh_of(path)


def test_a_refusal_comes_back_in_words(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"hello")
    with pytest.raises(Invalid) as refusal:
        pass_gate("model", tmp_path / "model.pt2", Limits(), lambda _: None)
    assert refusal.value.code == "model_format_unsupported"


def test_a_fault_of_the_gate_is_no_refusal(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="gate ended"):
        pass_gate("model", tmp_path / "missing.pt2", Limits(), lambda _: None)


def test_it_reads_the_upload_and_no_other_file(tmp_path: Path) -> None:
    upload, other = tmp_path / "upload", tmp_path / "other"
    for path in (upload, other):
        path.write_bytes(b"hello")
    sandbox = sandbox_for("model", str(upload), Limits())
    with pytest.raises(Invalid, match=r"not a torch\.export archive"):
        ask("gate", upload, ["model", str(upload), Limits().as_json(), ""], sandbox, Limits())
    with pytest.raises(RuntimeError, match="gate ended with 1"):
        ask("gate", upload, ["model", str(other), Limits().as_json(), ""], sandbox, Limits())


def _npz(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
        target.open("x.npy", "w") as array,
    ):
        array.write(bytes(FREE_BYTES + 1))


def _folder(path: Path) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as target:
        info = tarfile.TarInfo("model.safetensors")
        info.size = FREE_BYTES + 1
        with Path("/dev/zero").open("rb") as source:
            target.addfile(info, source)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pack"), [("dataset", _npz), ("model", _folder)])
def test_a_small_archive_that_unpacks_to_much_is_refused(
    kind: str, pack: Callable[[Path], None], tmp_path: Path
) -> None:
    pack(tmp_path / "upload.npz")
    with pytest.raises(Invalid, match=str(FREE_BYTES)):
        pass_gate(kind, tmp_path / "upload.npz", Limits(), lambda _: None)


def test_what_an_archive_may_unpack_to_grows_with_it() -> None:
    limits = Limits(folder_bytes=2**34, dataset_bytes=2**30)
    assert [limits.unpacked_bytes("model", size) for size in (1, 2**22, 2**30)] == [FREE_BYTES, 100 * 2**22, 2**34]
    assert limits.unpacked_bytes("dataset", 2**30) == 2**30
