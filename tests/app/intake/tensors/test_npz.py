import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.intake.limits import CHUNK_BYTES
from app.intake.tensors.npz import MAX_MEMBERS, read_npz
from tests.app.intake import zips
from tests.app.intake.memory import outcome_and_growth
from tests.app.intake.mutations import SETTINGS, damaged, taken_or_refused
from tests.app.intake.tensors.test_npy import npy, with_header
from tests.app.intake.zips import DEFLATED, Entry, checksum_of_zeros, deflated_zeros

ONE = npy(np.ones((2, 3), "f4"))


def read(path: Path, max_bytes: int = 2**30) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    stored = read_npz(path, max_bytes)
    return {item.name: (item.dtype, item.shape, b"".join(item.chunks())) for item in stored}


def refusal_of(path: Path, max_bytes: int = 2**30) -> Invalid:
    with pytest.raises(Invalid) as refusal:
        read(path, max_bytes)
    assert refusal.value.code == "dataset_invalid"
    return refusal.value


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saved_is_read(tmp_path: Path, save: Any) -> None:
    arrays = {
        "y": np.random.default_rng(0).standard_normal((5, CHUNK_BYTES // 8)),
        "x": np.arange(5),
        "a.b": np.zeros(5, "?"),
    }
    save(tmp_path / "x.npz", **arrays)
    found = read(tmp_path / "x.npz")
    assert list(found) == sorted(arrays)
    assert found == {name: (a.dtype.name, a.shape, a.tobytes()) for name, a in arrays.items()}


def test_no_element_is_cut_by_a_chunk(tmp_path: Path) -> None:
    """A header of any length shifts all values."""
    array = np.arange(3 * CHUNK_BYTES // 8, dtype="f8")
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({len(array)},)}}"
    data = with_header(header, array.tobytes())
    assert (len(data) - array.nbytes) % 8
    (stored,) = read_npz(zips.write(tmp_path / "x", Entry("x.npy", data)), 2**30)
    assert [len(chunk) for chunk in stored.chunks()] == [CHUNK_BYTES] * 3


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "x.npy.npy/",
        "../x.npy",
        "/x.npy",
        "a/x.npy",
        "a\\x.npy",
        ".npy",
        "x y.npy",
        "\u0430.npy",
        "x.py",
        "x\0.npy",
        "__metadata__.npy",
    ],
)
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    path = zips.write(tmp_path / "x", Entry(name, ONE), Entry("y.npz", ONE))
    assert "not NAME.npy" in refusal_of(path).detail


def test_a_link_is_refused(tmp_path: Path) -> None:
    assert "not NAME.npy" in refusal_of(zips.write(tmp_path / "x", Entry("x.npy", ONE, mode=0o120777))).detail


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    assert "twice" in refusal_of(zips.write(tmp_path / "x", Entry("x.npy", ONE), Entry("x.npy", ONE))).detail


def test_members_are_npy(tmp_path: Path) -> None:
    assert "not an .npy" in refusal_of(zips.write(tmp_path / "x", Entry("x.npy", b"\x80\x04."))).detail
    assert "not an .npy" in refusal_of(zips.write(tmp_path / "x", Entry("x.npy", b""))).detail


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object))
    assert "x: the .npy holds Python objects" in refusal_of(tmp_path / "x.npz").detail


def test_a_header_that_promises_more_than_the_member_is_refused(tmp_path: Path) -> None:
    huge = with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }")
    assert "takes 4398046511104 bytes" in refusal_of(zips.write(tmp_path / "x", Entry("x.npy", huge))).detail


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    path = zips.write(tmp_path / "x", *(Entry(f"{number}.npy", ONE) for number in range(MAX_MEMBERS + 1)))
    assert f"at most {MAX_MEMBERS}" in refusal_of(path).detail


def test_members_share_one_cap(tmp_path: Path) -> None:
    path = zips.write(tmp_path / "x", Entry("x.npy", ONE), Entry("y.npy", ONE))
    assert len(read(path, 2 * len(ONE))) == 2
    refusal = refusal_of(path, 2 * len(ONE) - 1)
    assert f"unpacks to {2 * len(ONE)} bytes" in refusal.detail
    assert "fewer samples" in refusal.remedy


IMPORTS = "from app.intake.tensors.read import plan_samples"
PLAN = "plan_samples(Path(sys.argv[1]), int(sys.argv[2]))"


def bomb(path: Path, mebibytes: int) -> Path:
    head = with_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({mebibytes}, 1048576), }}", b"")
    packed = deflated_zeros(mebibytes, head)
    size, checksum = mebibytes * 2**20 + len(head), checksum_of_zeros(mebibytes if mebibytes < 1000 else 0, head)
    return zips.write(path, Entry("x.npy", packed, DEFLATED, bytes=size, checksum=checksum))


def test_a_bomb_over_the_cap_is_refused_and_takes_no_memory(tmp_path: Path) -> None:
    """Two MiB that would be two GiB."""
    path = bomb(tmp_path / "x.npz", 2048)
    assert path.stat().st_size < 3 * 2**20
    outcome, growth = outcome_and_growth(IMPORTS, PLAN, str(path), str(2**30))
    assert "at most 1073741824 are accepted" in outcome
    assert growth < 8 * 1024


def test_what_is_under_the_cap_takes_no_more_memory(tmp_path: Path) -> None:
    path = bomb(tmp_path / "x.npz", 256)
    statement = "plan_samples(Path(sys.argv[1]), int(sys.argv[2])).write(open('/dev/null', 'wb'))"
    outcome, growth = outcome_and_growth(IMPORTS, statement, str(path), str(2**30))
    assert outcome == "taken"
    assert growth < 8 * 1024


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    np.savez_compressed(path, x=np.ones((2, 3), "f4"), y=np.ones(2, "i8"))
    return path.read_bytes()


@SETTINGS
@given(data=st.data())
def test_damaged_archives_are_read_or_refused(tmp_path: Path, honest: bytes, data: st.DataObject) -> None:
    taken_or_refused(read, tmp_path / "x", data.draw(damaged(honest)))


def test_an_end_record_beyond_any_file_is_refused(tmp_path: Path) -> None:
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 2**62, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    (tmp_path / "x.npz").write_bytes(b"PK\3\4" + bytes(60) + locator + end)
    assert "64-bit end record" in refusal_of(tmp_path / "x.npz").detail
