import gzip
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.intake.huggingface.unpack import MAX_MEMBERS, FolderFile, UnpackedFolder, unpack_folder
from tests.app.intake import tars, zips
from tests.app.intake.memory import outcome_and_growth
from tests.app.intake.mutations import SETTINGS, damaged, taken_or_refused
from tests.app.intake.tars import header, member, tar, tar_of
from tests.app.intake.zips import DEFLATED, Entry, deflated_zeros

FILES = {
    "config.json": b"{}",
    "generation_config.json": b"[]",
    "model-00001-of-00002.safetensors": b"1" * 300_000,
    "model-00002-of-00002.safetensors": b"2",
    "model.safetensors.index.json": b"3",
    "tokenizer.json": b"4",
    "spiece.model": b"5",
    "vocab.txt": b"",
}
KINDS = ["config", "generation_config", "weights", "weights", "index", "tokenizer", "tokenizer", "tokenizer"]
MAX_BYTES = 2**20


def zip_of(path: Path, files: dict[str, bytes], root: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(root + name, data)
    return path


def pack(path: Path, form: str, files: dict[str, bytes], root: str = "") -> Path:
    if form == "zip":
        return zip_of(path, files, root)
    return tars.write(path, tar_of(files, root), packed=form == "tar.gz")


def unpack(path: Path, max_bytes: int = MAX_BYTES) -> tuple[FolderFile, ...]:
    return unpack_whole(path, max_bytes).files


def unpack_whole(path: Path, max_bytes: int = MAX_BYTES) -> UnpackedFolder:
    target = path.parent / "unpacked"
    target.mkdir(exist_ok=True)
    return unpack_folder(path, target, max_bytes)


def refusal_of(path: Path, max_bytes: int = MAX_BYTES) -> Invalid:
    with pytest.raises(Invalid) as refusal:
        unpack(path, max_bytes)
    outside = {item.name for item in path.parent.iterdir()} - {path.name, "unpacked"}
    assert not outside
    return refusal.value


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("root", ["", "./", "bert/"])
def test_a_folder_is_unpacked_under_our_names(tmp_path: Path, form: str, root: str) -> None:
    found = unpack(pack(tmp_path / "x", form, FILES, root))
    assert [(file.name, file.kind) for file in found] == list(zip(FILES, KINDS, strict=True))
    assert [file.file for file in found][:3] == ["0.json", "1.json", "2.safetensors"]
    assert {file.name: (tmp_path / "unpacked" / file.file).read_bytes() for file in found} == FILES
    assert [file.bytes for file in found] == [len(data) for data in FILES.values()]


def test_a_folder_that_tar_packed_is_unpacked(tmp_path: Path) -> None:
    """With an entry for the folder itself, as `tar -C FOLDER .` writes it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(folder, ".")
    assert [file.name for file in unpack(tmp_path / "x.tar.gz")] == ["config.json"]


BESIDE = {
    "modeling_bert.py": "code",
    "pytorch_model.bin": "a pickle",
    "training_args.bin": "a pickle",
    "model.pt": "a pickle",
    "x.PTH": "a pickle",
    "tf_model.h5": "another format",
    "flax_model.msgpack": "another format",
    "rust_model.ot": "another format",
    "model.onnx": "another format",
    "ggml-model-q4_0.gguf": "another format",
    "x.so": "code",
    "consolidated.safetensors": "another name",
    "model-1-of-2.safetensors": "another name",
    "model-00001-of-00002.safetensors.bak": "knows",
    "README.md": "people",
    "LICENSE": "people",
    "LICENSE.txt": "people",
    "USE_POLICY.md": "people",
    "train_script.txt": "text",
    "logo.PNG": "pictures",
    ".gitattributes": "hidden",
    ".DS_Store": "hidden",
    "._config.json": "hidden",
    ".cache/huggingface/download/config.json.metadata": "a hidden folder",
    "onnx/model.onnx": "not part of the network",
    "onnx/config.json": "not part of the network",
    "openvino/openvino_model.xml": "not part of the network",
    "original/consolidated.00.pth": "not part of the network",
    "original/params.json": "not part of the network",
    "a/b/c/d/model.safetensors": "not part of the network",
    "data_config.json": "knows",
    "CONFIG.JSON": "knows",
    "training_args": "knows",
    "c\u043enfig.json": "knows",
    "config.json\n": "knows",
    "runs": "knows",
}


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("root", ["", "./", "bert/", "models/bert/"])
def test_what_no_checkpoint_needs_is_left_out_and_listed(tmp_path: Path, form: str, root: str) -> None:
    names = list(BESIDE)
    half = len(names) // 2  # before and after the files of the network
    files = dict.fromkeys(names[:half], b"1") | FILES | dict.fromkeys(names[half:], b"1")
    whole = unpack_whole(pack(tmp_path / "x", form, files, root))
    assert [file.name for file in whole.files] == list(FILES)
    assert whole.beside == ()
    assert sorted(name for name, _ in whole.left_out) == sorted(BESIDE)
    assert [name for name, reason in whole.left_out if BESIDE[name] not in reason] == []


@pytest.mark.parametrize("form", ["tar", "zip"])
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("files", [FILES, {}], ids=["beside a network", "alone"])
def test_an_adapter_is_refused_by_name(tmp_path: Path, form: str, name: str, files: dict[str, bytes]) -> None:
    refusal = refusal_of(pack(tmp_path / "x", form, files | {name: b"1"}, "m/"))
    assert refusal.code == "model_format_unsupported"
    assert name in refusal.detail
    assert "Merge" in refusal.remedy


@pytest.mark.parametrize("name", ["adapter_model.\u202e", "adapter_model." + "x" * 5_000, "adapter_model.<b>"])
def test_an_adapter_s_name_that_is_unfit_is_not_repeated(tmp_path: Path, name: str) -> None:
    refusal = refusal_of(pack(tmp_path / "x", "tar", FILES | {name: b"1"}, "m/"))
    assert refusal.detail.startswith("A member of the archive belongs to an adapter")


@pytest.mark.parametrize(
    "name",
    [
        "../config.json",
        "../../config.json",
        "/config.json",
        "/etc/config.json",
        "a/../config.json",
        "a//config.json",
        "././config.json",
        "./../config.json",
        "..",
        "..\\config.json",
        "../README.md",
        "/etc/passwd",
        "onnx/../../model.onnx",
    ],
)
@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, form: str, name: str) -> None:
    refusal = refusal_of(pack(tmp_path / "x", form, {name: b"1"}))
    assert refusal.code == "checkpoint_invalid"
    assert "not in the folder" in refusal.detail
    assert refusal.detail.isprintable()


@pytest.mark.parametrize("form", ["tar", "zip"])
@pytest.mark.parametrize(
    ("names", "root"),
    [
        (["a/config.json", "a/model.safetensors", "b/config.json"], "a"),
        (["a/b/config.json", "a/b/model.safetensors", "config.json"], "a/b"),
        (["config.json", "model.safetensors", "a/config.json", "a/model.safetensors"], ""),
        (["b/model.safetensors", "a/config.json", "a/model.safetensors.index.json"], "a"),
        (["a/config.json", "b/model.safetensors"], "a"),
        (["b/model.safetensors"], "b"),
    ],
)
def test_the_folder_of_the_network_is_found(tmp_path: Path, form: str, names: list[str], root: str) -> None:
    whole = unpack_whole(pack(tmp_path / "x", form, dict.fromkeys(names, b"1")))
    own = [name.removeprefix(f"{root}/") for name in names if name.rpartition("/")[0] == root]
    assert [file.name for file in whole.files] == own
    assert len(whole.left_out) == len(names) - len(own)


def test_two_networks_are_refused_by_name(tmp_path: Path) -> None:
    """As in the folder of a pipeline for pictures."""
    names = ["model_index.json", *(f"m/{part}/{name}" for part in ("text", "unet") for name in FILES)]
    refusal = refusal_of(pack(tmp_path / "x", "tar", dict.fromkeys(names, b"1")))
    assert "More than one folder holds a network: text, unet." in refusal.detail
    assert "one network alone" in refusal.remedy


@pytest.mark.parametrize("form", ["tar", "zip"])
@pytest.mark.parametrize("root", ["", "m/"])
def test_files_of_a_sentence_encoder_lie_beside(tmp_path: Path, form: str, root: str) -> None:
    beside = ["modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "sentence_bert_config.json"]
    files = dict.fromkeys(["config_sentence_transformers.json", *beside, "onnx/deep/config.json"], b"{}")
    whole = unpack_whole(pack(tmp_path / "x", form, files | FILES, root))
    assert [file.name for file in whole.files] == list(FILES)
    found = {file.name for file in whole.beside}
    assert found == {"config_sentence_transformers.json", *beside}
    assert [name for name, _ in whole.left_out] == ["onnx/deep/config.json"]


def test_the_network_of_an_old_sentence_encoder_lies_below(tmp_path: Path) -> None:
    files = {f"0_BERT/{name}": data for name, data in FILES.items()}
    files |= {"0_BERT/sentence_bert_config.json": b"{}", "0_BERT/pytorch_model.bin": b"1"}
    whole = unpack_whole(
        pack(
            tmp_path / "x",
            "tar",
            files | dict.fromkeys(["config.json", "modules.json", "1_Pooling/config.json"], b"{}"),
        )
    )
    assert [file.name for file in whole.files] == list(FILES)
    assert {file.name for file in whole.beside} == {
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    }
    assert {name for name, _ in whole.left_out} == {"pytorch_model.bin", "config.json"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    data = tar(member("model.safetensors", type=kind, linkname="/etc/passwd"))
    assert "model.safetensors is a link" in refusal_of(tars.write(tmp_path / "x", data)).detail


def test_a_link_that_nothing_needs_is_left_out(tmp_path: Path) -> None:
    data = tar(member("config.json", b"{}"), member("README.md", type=tarfile.SYMTYPE, linkname="/etc/passwd"))
    assert unpack_whole(tars.write(tmp_path / "x", data)).left_out == (("README.md", "a link"),)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = zips.write(tmp_path / "x", Entry("model.safetensors", b"/etc/passwd", mode=0o120777))
    assert "is a link" in refusal_of(path).detail


@pytest.mark.parametrize(
    "names",
    [
        ["config.json", "config.json"],
        ["config.json", "./config.json"],
        ["a/config.json", "A/config.json"],
    ],
)
def test_a_name_twice_is_refused(tmp_path: Path, names: list[str]) -> None:
    data = tar(*(member(name, b"1") for name in names))
    assert "is in the archive twice" in refusal_of(tars.write(tmp_path / "x", data)).detail
    path = zips.write(tmp_path / "x", *(Entry(name, b"1") for name in names))
    assert "is in the archive twice" in refusal_of(path).detail


FAULTY = {
    "a link": [member("example/config.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "a link to weights": [member("example/model.safetensors", type=tarfile.LNKTYPE, linkname="model.safetensors")],
    "a device": [member("example/tokenizer.json", type=tarfile.CHRTYPE)],
    "too large": [member("example/deeper/config.json", bytes(2**20 + 1))],
    "too large, hidden": [member(".cache/model.safetensors.index.json", bytes(2**24 + 1))],
    "twice": [member("example/config.json", b"{}"), member("Example/config.json", b"{}")],
}


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("first", [True, False])
def test_a_faulty_file_outside_the_network_is_left_out(tmp_path: Path, fault: str, first: bool) -> None:
    own = [member(name, data) for name, data in FILES.items()]
    members = FAULTY[fault] + own if first else own + FAULTY[fault]
    whole = unpack_whole(tars.write(tmp_path / "x", tar(*members)), 2**26)
    assert [file.name for file in whole.files] == list(FILES)
    assert {name.lower().partition("/")[0] for name, _ in whole.left_out} <= {"example", ".cache"}
    assert len(whole.left_out) == 1


def test_a_faulty_file_outside_counts_among_the_bytes_that_may_be_unpacked(tmp_path: Path) -> None:
    data = tar(member("config.json", b"{}"), member("example/config.json", bytes(2**20 + 1)))
    assert "config.json has more than the" in refusal_of(tars.write(tmp_path / "x", data), 2**20 + 1).detail


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_all_members_share_one_cap(tmp_path: Path, form: str) -> None:
    path = pack(tmp_path / "x", form, {"config.json": b"1" * 600, "README.md": b"2" * 600, "vocab.txt": b"3" * 600})
    assert len(unpack(path, 1800)) == 2
    assert "vocab.txt has more than the 599 bytes" in refusal_of(path, 1799).detail


@pytest.mark.parametrize("name", ["config.json", "modules.json"])
def test_small_files_have_a_cap_of_their_own(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / "x", "tar.gz", {name: bytes(2**20 + 1)})
    assert f"{name} has more than the 1048576 bytes" in refusal_of(path, 2**30).detail


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_too_many_members_are_refused(tmp_path: Path, form: str) -> None:
    files = {f"._{number}": b"" for number in range(MAX_MEMBERS + 1)}
    assert "1000" in refusal_of(pack(tmp_path / "x", form, files)).detail


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"BZh91AY" + bytes(600), b"\xfd7zXZ\0", bytes(2048)])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal_of(tars.write(tmp_path / "x", data)).code == "checkpoint_invalid"


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(tar_of(FILES))
    for data in (whole[:-9], whole[:100], whole[:-8] + bytes(8), whole + b"x", b"\x1f\x8b" + bytes(50)):
        assert "archive" in refusal_of(tars.write(tmp_path / "x", data)).detail


IMPORTS = "from app.intake.huggingface.unpack import unpack_folder"
UNPACK = "unpack_folder(Path(sys.argv[1]), Path(sys.argv[2]), 2**20)"

BOMBS = {
    "a file": header(b"model.safetensors", 8**11 - 1),
    "a file that is ignored": header(b"README.md", 8**11 - 1),
    "a long name": header(b"x", 8**11 - 1, b"L"),
    "an extended header": header(b"x", 8**11 - 1, b"x"),
    "a folder": header(b"x", 8**11 - 1, b"5"),
    "padding": b"",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("start", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_of_gzip_is_stopped_and_takes_no_memory(tmp_path: Path, start: bytes) -> None:
    path = tars.write(tmp_path / "x", tars.zeros(256, start))
    assert path.stat().st_size < 2**19
    (tmp_path / "unpacked").mkdir()
    outcome, growth = outcome_and_growth(IMPORTS, UNPACK, str(path), str(tmp_path / "unpacked"))
    assert outcome != "taken"
    assert growth < 8 * 1024
    assert sum(file.stat().st_size for file in (tmp_path / "unpacked").iterdir()) <= 2**20


def test_a_bomb_of_zip_is_stopped_and_takes_no_memory(tmp_path: Path) -> None:
    packed = deflated_zeros(2048)
    entry = Entry("model.safetensors", packed, DEFLATED, bytes=2**31, checksum=0)
    (tmp_path / "unpacked").mkdir()
    path = zips.write(tmp_path / "x", entry)
    outcome, growth = outcome_and_growth(IMPORTS, UNPACK, str(path), str(tmp_path / "unpacked"))
    assert "more than the 1048576 bytes" in outcome
    assert growth < 8 * 1024


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("honest")
    files = {"config.json": json.dumps({"a": 1}).encode(), "model.safetensors": bytes(700)}
    return {form: pack(folder / form, form, files, "m/").read_bytes() for form in ("tar", "tar.gz", "zip")}


@SETTINGS
@given(data=st.data(), form=st.sampled_from(["tar", "tar.gz", "zip"]))
def test_damaged_archives_are_unpacked_or_refused(
    tmp_path: Path, honest: dict[str, bytes], data: st.DataObject, form: str
) -> None:
    taken_or_refused(unpack, tmp_path / "x", data.draw(damaged(honest[form])))
    assert {path.name for path in tmp_path.iterdir()} == {"x", "unpacked"}
