"""The zip around a program: what it promises must be there, once."""

import io
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from app.errors import Invalid
from app.intake.archives.stored_zip import Archive
from app.intake.archives.zip_writer import Member, archive_of, member_of
from tests.factories import write_zip

MEMBERS = {"model/models/model.json": b'{"graph_module": 1}', "model/data/weights/weight_0": bytes(64)}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "model.pt2", MEMBERS)


def read(path: Path) -> bytes:
    with Archive(path) as archive:
        archive.check_members()
        return archive.read("models/model.json", 1000)


def refusal_of(path: Path) -> str:
    with pytest.raises(Invalid) as refusal:
        read(path)
    assert refusal.value.code == "archive_invalid"
    return refusal.value.detail


def test_members_are_read_below_their_root_folder(archive: Path) -> None:
    with Archive(archive) as opened:
        opened.check_members()
        assert opened.read("data/weights/weight_0", 64) == bytes(64)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    assert "compressed" in refusal_of(write_zip(tmp_path / "model.pt2", MEMBERS, zipfile.ZIP_DEFLATED))


def test_two_root_folders_are_refused(tmp_path: Path) -> None:
    assert "one root folder" in refusal_of(write_zip(tmp_path / "model.pt2", {**MEMBERS, "other/x": b""}))


@pytest.mark.parametrize("name", ["model/../x", "/x", "model/a b", "model/\u0430"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    assert "name" in refusal_of(write_zip(tmp_path / "model.pt2", {name: b""}))


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.writestr("model/a", b"1")
        target.writestr("model/a", b"2")
    assert "twice" in refusal_of(path)


def test_an_empty_archive_is_refused(tmp_path: Path) -> None:
    assert "empty" in refusal_of(write_zip(tmp_path / "model.pt2", {}))


@pytest.mark.parametrize("cut", [1, 22, 100])
def test_a_file_that_is_cut_off_is_refused(archive: Path, cut: int) -> None:
    archive.write_bytes(archive.read_bytes()[:-cut])
    assert "cut off" in refusal_of(archive)


def test_bytes_before_the_archive_are_refused(archive: Path) -> None:
    archive.write_bytes(b"PK\3\4" + archive.read_bytes())
    assert "not where its end record says" in refusal_of(archive)


def test_bytes_after_the_archive_are_refused(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes() + b"x")
    assert "something follows it" in refusal_of(archive)


def test_a_size_beyond_the_file_is_refused(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    last = data.rindex(b"PK\1\2")
    data[last + 20 : last + 28] = struct.pack("<II", 10**6, 10**6)
    archive.write_bytes(data)
    assert "more bytes than the file has" in refusal_of(archive)


def test_members_that_share_bytes_are_refused(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    first, second = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    archive.write_bytes(data)
    assert "overlaps" in refusal_of(archive)


def test_a_damaged_member_is_refused(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(b"graph_module", b"grape_module", 1))
    assert "damaged" in refusal_of(archive)


def test_a_member_over_the_limit_is_not_read(archive: Path) -> None:
    with Archive(archive) as opened:
        opened.check_members()
        with pytest.raises(Invalid, match="at most 63"):
            opened.read("data/weights/weight_0", 63)


def test_too_many_members_are_refused_from_the_end_record_alone(tmp_path: Path) -> None:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as target:
            target.writestr("model/a", b"1")
        data = bytearray(buffer.getvalue())
    data[-14:-10] = struct.pack("<HH", 60_000, 60_000)
    path = tmp_path / "model.pt2"
    path.write_bytes(data)
    assert "60000 members" in refusal_of(path)


def test_an_archive_of_more_than_four_gibibytes_is_read(tmp_path: Path) -> None:
    """Its directory has the 64-bit form. The first member's bytes are a hole in a sparse file."""
    path, hole = tmp_path / "model.pt2", bytes(2**30)
    with path.open("wb") as file:
        for piece in archive_of([Member("a", 5 * 2**30, 0, lambda: [hole] * 5), member_of("b", b"2")]):
            if piece is hole:
                file.seek(len(piece), 1)
            else:
                file.write(piece)
    with Archive(path) as opened:
        opened.check_members()
        assert opened.read("b", 1) == b"2"


def test_a_header_of_its_own_opinion_is_refused(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.index(b"model/data/weights/weight_0") + 8] = ord("X")
    archive.write_bytes(data)
    assert "its own header differs from the directory" in refusal_of(archive)


def test_bytes_between_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("model/a", b"1")
        assert target.fp is not None
        target.start_dir = target.fp.seek(8, 1)
        target.writestr("model/b", b"2")
    assert "bytes between" in refusal_of(path)


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    assert "twice" in refusal_of(write_zip(tmp_path / "model.pt2", {"model/a": b"1", "model/A": b"2"}))


@pytest.mark.parametrize(
    "odd", ["m/a\u202e\n" * 1000, "m/data/\u202e", "\u202e/a", "m/a\0" + "<b>" * 1000, "m/" + "a" * 60_000]
)
@pytest.mark.parametrize("fault", ["compressed", "gap", "checksum"])
def test_no_refusal_repeats_a_name_that_is_unfit(tmp_path: Path, odd: str, fault: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writer:
        member = zipfile.ZipInfo("m/a")
        member.filename = member.orig_filename = odd
        member.compress_type = zipfile.ZIP_DEFLATED if fault == "compressed" else zipfile.ZIP_STORED
        writer.writestr(member, b"1" * 99)
    data = buffer.getvalue()
    if fault == "gap":
        data = data.replace(b"1" * 99, b"1" * 98, 1)
    (tmp_path / "odd.zip").write_bytes(data.replace(b"1" * 99, b"1" * 98 + b"2", 1) if fault == "checksum" else data)
    with pytest.raises(Invalid) as refusal:
        read(tmp_path / "odd.zip")
    assert refusal.value.detail.isascii()
    assert refusal.value.detail.isprintable()
    assert len(refusal.value.detail) < 300
