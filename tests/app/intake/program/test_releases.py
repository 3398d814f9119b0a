"""Programs of other releases of torch: read by their own rules, written as the pinned release's, computing the same."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import Invalid
from app.intake.limits import Limits
from app.intake.program.read import read_program
from app.intake.program.releases import KNOWN_WORDS
from tests.factories import fresh_of
from tests.hostile_pickles import PICKLES, honest, saved, storage, tensor, text
from tests.release_exports import PAIRS, RELEASES, exported
from tests.upload_archives import PROGRAM, members_below_root, write

TOLERANCE = 1e-6
BY_THE_CONFIG = ("a tensor of stride 0", "a name that is a path", "no element, and sizes beyond counting")
"""Pickles that are refused by what checks the tensors of every program, in its own words."""
OLDEST = "serialized_exported_program.json"


@pytest.mark.parametrize(("release", "network"), PAIRS)
def test_a_program_of_a_release_computes_what_was_recorded(tmp_path: Path, release: str, network: str) -> None:
    given = exported(release, network)
    fresh = fresh_of(given.path)
    outputs = torch.export.load(io.BytesIO(fresh)).module()(**given.inputs)
    output = outputs["hidden"] if isinstance(outputs, dict) else outputs
    torch.testing.assert_close(output, given.output, rtol=0, atol=TOLERANCE)
    (tmp_path / "fresh.pt2").write_bytes(fresh)
    assert fresh_of(tmp_path / "fresh.pt2") == fresh


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_written_is_of_the_pinned_release_with_tied_weights_once(release: str) -> None:
    program = read_program(exported(release, "encoder").path, Limits())
    assert program.document["torch_version"].startswith("2.13.0")
    assert program.document["schema_version"] == {"major": 8, "minor": 20}
    weights = program.payloads[0].config["config"]
    assert weights["embed.weight"]["path_name"] == weights["head.weight"]["path_name"]
    assert program.facts.warnings == ()


def members_of_release(release: str) -> dict[str, bytes]:
    path = exported(release, "cnn").path
    if release != "2.6.0":
        return members_below_root(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(members: dict[str, bytes], path: Path) -> Path:
    """Pack members as their release does: the oldest in no folder."""
    if OLDEST not in members:
        return write(members, path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def edited(tmp_path: Path, edit: Callable[[Any], object], release: str = "2.15.0") -> Path:
    members = members_of_release(release)
    name = OLDEST if OLDEST in members else PROGRAM
    document = json.loads(members[name])
    edit(document)
    return written(members | {name: json.dumps(document).encode()}, tmp_path / "model.pt2")


@pytest.mark.parametrize("version", ["2.5.1", "2.16.0.dev20270101+cpu", "3.0.0a0+git1234567"])
def test_a_release_that_is_not_known_is_tried_and_the_answer_says_so(tmp_path: Path, version: str) -> None:
    (warning,) = read_program(edited(tmp_path, lambda it: it.update(torch_version=version)), Limits()).facts.warnings
    assert warning.code == "torch_release"
    assert f"torch {'.'.join(version.split('.')[:2])} exported" in warning.detail
    assert KNOWN_WORDS in warning.detail


def test_a_refusal_of_a_program_of_such_a_release_names_it(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda it: it.update(torch_version="2.5.1", schema_version={"major": 7, "minor": 3}))
    with pytest.raises(Invalid) as refusal:
        read_program(path, Limits())
    assert "and is 7. torch 2.5 exported the program" in refusal.value.detail
    assert refusal.value.remedy.startswith(f"Export the model with torch {KNOWN_WORDS}.")


@pytest.mark.parametrize("version", [5, {"major": 5, "minor": 3}, {"major": 9, "minor": 1}])
def test_another_schema_is_named_before_anything_else(tmp_path: Path, version: object) -> None:
    def edit(document: dict[str, Any]) -> None:
        document.update(schema_version=version)
        del document["graph_module"]

    with pytest.raises(Invalid, match=f"must be 8, as torch {KNOWN_WORDS} write it, and is [59]") as refusal:
        read_program(edited(tmp_path, edit), Limits())
    assert refusal.value.remedy.startswith(f"Export the model with torch {KNOWN_WORDS}.")


@pytest.mark.parametrize(("value", "taken"), [(None, True), ([], True), ({}, True), (0, False), ("x", False)])
def test_a_key_of_a_later_release_may_only_be_empty(tmp_path: Path, value: object, taken: bool) -> None:
    path = edited(tmp_path, lambda it: it["graph_module"]["graph"]["nodes"][0].update(later=value))
    if taken:
        assert "later" not in json.dumps(read_program(path, Limits()).document)
        return
    with pytest.raises(Invalid, match="node 0: has a key that no known torch writes"):
        read_program(path, Limits())


@pytest.mark.sampled(15)
@pytest.mark.parametrize("release", ["2.6.0", "2.8.0"])
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_pickle_in_place_of_weights_is_refused(tmp_path: Path, release: str, name: str) -> None:
    members, (values, answer) = members_of_release(release), PICKLES[name]
    member = "serialized_state_dict.pt" if release == "2.6.0" else "data/weights/model.pt"
    path = written(members | {member: saved(values(tmp_path / "CANARY"))}, tmp_path / "model.pt2")
    with pytest.raises(Invalid) as refusal:
        read_program(path, Limits())
    assert (refusal.value.code, refusal.value.detail.startswith(member)) == ("program_invalid", True)
    assert answer in refusal.value.detail or name in BY_THE_CONFIG
    assert not (tmp_path / "CANARY").exists()


def test_a_storage_is_not_written_once_for_each_type_of_element(tmp_path: Path) -> None:
    kinds = ["torch\nFloatStorage", "torch\nIntStorage", "torch\nByteStorage"]
    entries = (text(kind[6:]) + tensor(storage(kind=kind)) for kind in kinds)
    values = saved(b"\x80\x02}(" + b"".join(entries) + b"u.")
    path = written(members_of_release("2.8.0") | {"data/weights/model.pt": values}, tmp_path / "model.pt2")
    with pytest.raises(Invalid, match="more than one type of element"):
        read_program(path, Limits())


@pytest.mark.parametrize("release", ["2.6.0", "2.8.0"])
def test_the_highest_byte_first_is_refused(tmp_path: Path, release: str) -> None:
    member = "serialized_state_dict.pt" if release == "2.6.0" else "data/weights/model.pt"
    big = saved(honest(), byteorder=b"big")
    with pytest.raises(Invalid, match="the highest byte first"):
        read_program(written(members_of_release(release) | {member: big}, tmp_path / "model.pt2"), Limits())


@pytest.mark.parametrize("release", ["2.6.0", "2.8.0"])
def test_a_member_of_an_older_layout_may_not_be_missing_or_new(tmp_path: Path, release: str) -> None:
    members = members_of_release(release)
    for name in members:
        if "inputs" in name or name in ("version", "archive_version") or name.startswith(".data"):
            continue  # never read
        path = written({key: data for key, data in members.items() if key != name}, tmp_path / "model.pt2")
        with pytest.raises(Invalid):
            read_program(path, Limits())
    with pytest.raises(Invalid, match="no such member"):
        read_program(written(members | {"extra.pt": b""}, tmp_path / "model.pt2"), Limits())
