"""A Hugging Face folder is written anew: names that are ours, values that were checked, and nothing else."""

import io
import json
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from app.errors import Invalid
from app.intake.gate import pass_gate
from app.intake.huggingface.rewrite import is_folder, read_folder
from app.intake.limits import Limits
from tests.app.intake import tars
from tests.app.intake.huggingface.test_config import BERT
from tests.app.intake.huggingface.test_read import CONFIG, FIRST, INDEX, SECOND, SHARDS
from tests.app.intake.huggingface.test_unpack import zip_of
from tests.app.intake.memory import outcome_and_growth
from tests.app.intake.tars import member, tar, tar_of
from tests.factories import safetensors, write_zip
from tests.honest_archive import honest_members
from tests.upload_archives import write

TOKENIZER = {
    "vocab.txt": bytes(range(256)),
    "tokenizer.json": b'{"not": "looked at", "twice": 1, "twice": 2}',
    "merges.txt": b"",
    "generation_config.json": b"__import__('os')",
}
WEIGHTS = save({"b": torch.ones(3), "a.weight": torch.arange(6.0).reshape(2, 3)}, {"format": "pt", "made": "by me"})
WHOLE = {"config.json": CONFIG, "model.safetensors": WEIGHTS, **TOKENIZER}
SHARDED = {"config.json": CONFIG, "model.safetensors.index.json": json.dumps(INDEX).encode(), **SHARDS}


def fresh(folder: Path, data: bytes) -> bytes:
    """What the gate writes in place of an archive."""
    scratch = folder / f"scratch-{len(list(folder.iterdir()))}"
    scratch.mkdir()
    target = io.BytesIO()
    read_folder(tars.write(folder / "upload", data), scratch, 2**30).write(target)
    return target.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = archive.getmembers()
        assert all(entry.isreg() and not (entry.mtime or entry.uid or entry.pax_headers) for entry in entries)
        return {entry.name: read.read() for entry in entries if (read := archive.extractfile(entry))}


def config_of(folder: Path, **changed: Any) -> dict[str, Any]:
    files = WHOLE | {"config.json": json.dumps(BERT | changed).encode()}
    config: dict[str, Any] = json.loads(members(fresh(folder, tar_of(files)))["config.json"])
    return config


def test_the_fresh_tar_has_our_names_in_our_order(tmp_path: Path) -> None:
    people = {"README.md": b"# by me", ".gitattributes": b"*", "LICENSE": b"x"}
    found = members(fresh(tmp_path, tar_of(people | WHOLE, "any-folder/")))
    assert list(found) == ["config.json", "model.safetensors", *sorted(TOKENIZER)]


def test_weights_are_the_same_tensors_without_what_was_said_about_them(tmp_path: Path) -> None:
    found = members(fresh(tmp_path, tar_of(WHOLE)))["model.safetensors"]
    assert b"by me" not in found
    assert {name: tensor.tolist() for name, tensor in load(found).items()} == {
        name: tensor.tolist() for name, tensor in load(WEIGHTS).items()
    }


def test_files_of_the_tokenizer_are_the_same_bytes(tmp_path: Path) -> None:
    assert TOKENIZER.items() <= members(fresh(tmp_path, tar_of(WHOLE))).items()


def test_the_config_has_the_keys_that_build_the_network_and_no_other(tmp_path: Path) -> None:
    dropped = {"_name_or_path", "gradient_checkpointing", "position_embedding_type", "transformers_version"}
    dropped |= {"torch_dtype", "use_cache"}
    found = config_of(tmp_path)
    assert found == {key: value for key, value in BERT.items() if key not in dropped} | {"dtype": "float32"}


@pytest.mark.parametrize(
    "changed",
    [
        {"_attn_implementation": "owner/repo"},
        {"_name_or_path": "../../victim"},
        {"_auto_class": "os.system"},
        {"auto_map": None},
        {"quantization_config": None},
        {"task_specific_params": {"auto_map": {"AutoModel": "modeling.Evil"}}},
        {"architectures": ["BertForSequenceClassification", "os.system"]},
        {"label2id": {"__import__('os')": 0}},
        {"tokenizer_class": "owner/repo--Evil", "prefix": "__import__('os')"},
    ],
)
def test_what_does_not_build_the_network_is_gone(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert config_of(tmp_path, **changed) == config_of(tmp_path)


def test_shards_are_numbered_anew_with_an_index_of_ours(tmp_path: Path) -> None:
    found = members(fresh(tmp_path, tar_of(dict(reversed(SHARDED.items())))))
    assert list(found) == ["config.json", FIRST, SECOND, "model.safetensors.index.json"]
    assert json.loads(found["model.safetensors.index.json"]) == {"metadata": {}, "weight_map": INDEX["weight_map"]}
    assert [set(load(found[name])) for name in (FIRST, SECOND)] == [{"a.weight", "scale"}, {"b.weight"}]


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00001.safetensors"])
def test_one_file_with_an_index_becomes_one_file_without(tmp_path: Path, name: str) -> None:
    index = json.dumps({"weight_map": {"a.weight": name, "b": name}}).encode()
    files = {"config.json": CONFIG, "model.safetensors.index.json": index, name: WEIGHTS}
    assert list(members(fresh(tmp_path, tar_of(files)))) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("files", [WHOLE, SHARDED], ids=["whole", "shards"])
def test_the_same_folder_is_the_same_bytes_however_it_was_packed(tmp_path: Path, files: Mapping[str, bytes]) -> None:
    expected = fresh(tmp_path, tar_of(files))
    shuffled = random.Random(0).sample(sorted(files), len(files))
    later = tar(*(member(f"m/{name}", files[name], mtime=10**9, uid=1000, mode=0o755) for name in shuffled))
    zipped = zip_of(tmp_path / "zip", {name: files[name] for name in shuffled}).read_bytes()
    packed = tars.write(tmp_path / "gz", later, packed=True).read_bytes()
    for data in (later, packed, zipped, expected):
        assert fresh(tmp_path, data) == expected


def test_the_gate_writes_the_same_and_tells_what_it_saw(tmp_path: Path) -> None:
    pieces: list[bytes] = []
    facts = pass_gate("model", tars.write(tmp_path / "any", tar_of(WHOLE)), Limits(), pieces.append)
    told: dict[str, Any] = {"warnings": [], "left_out": []}
    assert facts == {"format": "huggingface", "inputs": [], "layers": [], "parameters": 9, **told}
    assert b"".join(pieces) == fresh(tmp_path, tar_of(WHOLE))


def test_keys_that_the_network_does_not_have_are_told(tmp_path: Path) -> None:
    files = WHOLE | {"config.json": json.dumps(BERT | {f"new_key_{number:02}": 1 for number in range(20)}).encode()}
    (tmp_path / "scratch").mkdir()
    checked = read_folder(tars.write(tmp_path / "any", tar_of(files)), tmp_path / "scratch", 2**30)
    (told,) = checked.facts.left_out
    assert told.name == "config.json"
    assert "new_key_00, new_key_01" in told.reason
    assert "and 4 more" in told.reason


def test_every_value_of_every_shard_is_looked_at(tmp_path: Path) -> None:
    odd = SHARDED | {SECOND: save({"b.weight": torch.tensor([1, 1, float("nan"), 1], dtype=torch.bfloat16)})}
    with pytest.raises(Invalid, match=r"'b.weight' holds NaN or infinity, first at index \[2\]") as refusal:
        fresh(tmp_path, tar_of(odd))
    assert refusal.value.code == "non_finite_weights"


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_memory_does_not_grow_with_the_folder(tmp_path: Path, form: str) -> None:
    weights = safetensors(**{"a.weight": ("F32", [2**12, 2**12])})  # 64 MiB
    files = {"config.json": CONFIG, "model.safetensors": weights, "vocab.txt": bytes(2**24)}
    if form == "zip":
        path = zip_of(tmp_path / "upload", files)
    else:
        path = tars.write(tmp_path / "upload", tar_of(files), packed=form == "tar.gz")
    (tmp_path / "scratch").mkdir()
    statement = "read_folder(Path(sys.argv[1]), Path(sys.argv[2]), 2**30).write(open('/dev/null', 'wb'))"
    imports = "from app.intake.huggingface.rewrite import read_folder"
    outcome, growth = outcome_and_growth(imports, statement, str(path), str(tmp_path / "scratch"))
    assert outcome == "taken"
    assert growth < 8 * 1024


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tar_of(WHOLE), True),
        (tar_of(WHOLE, "bert/"), True),
        (tar_of({"x": b"1"}), True),
        (b"\x1f\x8b" + bytes(600), True),
        (b"", False),
        (b"ustar", False),
        (bytes(1024), False),
        (b"PK\3\4" + bytes(600), False),
        (b"\x80\x04K\x01.", False),
        (WEIGHTS, False),
    ],
    ids=["tar", "one in a folder", "another tar", "gzip", "nothing", "a word", "zeros", "no zip", "pickle", "weights"],
)
def test_an_archive_of_a_folder_is_known_by_its_first_bytes(tmp_path: Path, data: bytes, expected: bool) -> None:
    assert is_folder(tars.write(tmp_path / "any", data)) is expected


def test_a_zip_is_one_when_it_has_a_config_and_no_program(tmp_path: Path) -> None:
    assert is_folder(zip_of(tmp_path / "folder", WHOLE, "bert/"))
    assert not is_folder(write_zip(tmp_path / "arrays", {"x.npy": b"1"}))
    assert not is_folder(write(honest_members(), tmp_path / "program"))
    assert not is_folder(write(honest_members() | {"config.json": b"{}"}, tmp_path / "both"))
