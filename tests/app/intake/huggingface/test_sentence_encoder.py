"""The files of a sentence encoder: read as small JSON, rewritten under our names, or left out as a whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.intake.huggingface.sentence_encoder import SentenceEncoder, read_sentence_encoder
from app.intake.huggingface.unpack import FolderFile
from tests.app.intake.mutations import SETTINGS, damaged_json
from tests.sentence_encoder import DOCUMENTS
from zeropoint.schema.checkpoint_files import kind_of

POOLING = "1_Pooling/config.json"


def read(folder: Path, documents: dict[str, Any]) -> SentenceEncoder:
    files = []
    for number, (name, document) in enumerate(documents.items()):
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        (folder / str(number)).write_bytes(data)
        files.append(FolderFile(str(number), "sentence_encoder", name, len(data)))
    return read_sentence_encoder(folder, files)


def test_what_its_authors_ship_is_carried_whole(tmp_path: Path) -> None:
    found = read(tmp_path, DOCUMENTS)
    assert found.documents == DOCUMENTS
    assert found.left_out == ()


def test_a_network_without_modules_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, {}) == SentenceEncoder()
    rest = {name: DOCUMENTS[name] for name in (POOLING, "sentence_bert_config.json")}
    found = read(tmp_path, rest)
    assert not found.documents
    assert {name for name, _ in found.left_out} == set(rest)


def types(*kinds: str, path: str = "") -> list[dict[str, Any]]:
    paths = [path, *(f"{number}_{kind.rpartition('.')[2]}" for number, kind in enumerate(kinds) if number)]
    return [{"idx": n, "name": str(n), "path": p, "type": k} for n, (k, p) in enumerate(zip(kinds, paths, strict=True))]


OLD, NEW = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"


@pytest.mark.parametrize(
    "modules",
    [
        types(f"{OLD}.Transformer", f"{OLD}.Pooling"),
        types(f"{OLD}.Transformer", f"{OLD}.Pooling", f"{OLD}.Normalize"),
        types(f"{NEW}.transformer.Transformer", f"{NEW}.pooling.Pooling"),
        types(f"{OLD}.Transformer", f"{OLD}.Pooling", path="0_BERT"),
    ],
)
def test_layouts_of_several_versions_are_carried(tmp_path: Path, modules: list[dict[str, Any]]) -> None:
    found = read(tmp_path, DOCUMENTS | {"modules.json": modules})
    expected = [entry | {"path": entry["path"] if entry["idx"] else ""} for entry in modules]
    assert found.documents["modules.json"] == expected
    assert found.documents[POOLING] == DOCUMENTS[POOLING]


POOLINGS = [
    {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True},
    {"word_embedding_dimension": 32, "pooling_mode_cls_token": True},
    {f"pooling_mode_{mode}": False for mode in ("weightedmean_tokens", "lasttoken", "mean_sqrt_len_tokens")},
]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_carried(tmp_path: Path, pooling: dict[str, Any]) -> None:
    assert read(tmp_path, DOCUMENTS | {POOLING: pooling}).documents[POOLING] == pooling


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_xlm-roberta_config.json"])
def test_lengths_of_other_networks_are_carried(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, DOCUMENTS | {name: {"max_seq_length": 128}}).documents[name] == {"max_seq_length": 128}


UNKNOWN: list[tuple[str, dict[str, Any]]] = [
    ("sentence_bert_config.json", {"model_args": {"trust_remote_code": True}, "max_seq_length": 256}),
    ("config_sentence_transformers.json", {"backend": "onnx", "prompts": {}}),
    (POOLING, {"word_embedding_dimension": 32, "pooling_hook": "os.system"}),
]


@pytest.mark.parametrize(("name", "document"), UNKNOWN)
def test_unknown_keys_are_dropped_and_listed(tmp_path: Path, name: str, document: dict[str, Any]) -> None:
    found = read(tmp_path, DOCUMENTS | {name: document})
    assert set(found.documents) == set(DOCUMENTS)
    assert len(found.documents[name]) == 1
    assert {left for left, _ in found.left_out} == {name}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another module": ({"modules.json": types(f"{OLD}.Transformer", f"{OLD}.Dense")}, "module 1 is not"),
    "a module of someone": ({"modules.json": types("evil.module.Transformer")}, "module 0 is not"),
    "a module of Python": ({"modules.json": types("os.system")}, "module 0 is not"),
    "no module": ({"modules.json": []}, "not a list of 1 to 8"),
    "many modules": ({"modules.json": types(*[f"{OLD}.Transformer"] * 9)}, "not a list of 1 to 8"),
    "no list": ({"modules.json": {}}, "not a list"),
    "no objects": ({"modules.json": [1]}, "module 0 is not"),
    "no network": ({"modules.json": types(f"{OLD}.Pooling")}, "the first module, and no other"),
    "two networks": ({"modules.json": types(f"{OLD}.Transformer", f"{OLD}.Transformer")}, "the first module"),
    "no JSON": ({"modules.json": b"("}, "not valid JSON"),
    "a deep one": ({"modules.json": b"[" * 5_000}, "nested deeper"),
    "a path that leaves": (
        {"modules.json": [*types(f"{OLD}.Transformer"), {"type": f"{OLD}.Pooling", "path": "../../etc"}]},
        "is missing",
    ),
    "a path that is unfit for a message": (
        {"modules.json": [*types(f"{OLD}.Transformer"), {"type": f"{OLD}.Pooling", "path": "\u202e\n" * 1000}]},
        "is missing",
    ),
    "a pooling that is text": ({POOLING: {"pooling_mode": "os.system"}}, "pooling_mode must be one of"),
    "a pooling that is a list": ({POOLING: []}, "is not an object"),
    "a wide pooling": ({POOLING: {"word_embedding_dimension": 2**40}}, "must be a whole number"),
    "a length of text": ({"sentence_bert_config.json": {"max_seq_length": "256"}}, "max_seq_length must be"),
    "a prompt of bytes": ({"config_sentence_transformers.json": {"prompts": {"q": "\0"}}}, "prompts must be"),
}


@pytest.mark.parametrize(("changed", "why"), FAULTS.values(), ids=FAULTS)
def test_a_fault_leaves_all_of_it_out_and_says_why(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    found = read(tmp_path, DOCUMENTS | changed)
    assert not found.documents
    assert {name for name, _ in found.left_out} == set(DOCUMENTS)
    assert all(why in reason and reason.isprintable() and len(reason) < 300 for _, reason in found.left_out)


@SETTINGS
@given(data=st.data(), name=st.sampled_from(sorted(DOCUMENTS)))
def test_damaged_files_are_left_out_or_harmless(tmp_path: Path, data: st.DataObject, name: str) -> None:
    found = read(tmp_path, DOCUMENTS | {name: data.draw(damaged_json(DOCUMENTS[name]))})
    assert all(kind_of(path) == "sentence_encoder" for path in found.documents)
    for module in found.documents.get("modules.json", []):
        assert set(module) == {"idx", "name", "path", "type"}
        assert module["type"].startswith("sentence_transformers.")
    assert all(reason.isprintable() for _, reason in found.left_out)
