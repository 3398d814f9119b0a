"""Uploads of models and datasets: raw and as a form, checked, hashed, and gone when refused."""

import base64
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file

from app.api.multipart import FormFile
from app.main import create_services
from app.settings import Settings
from tests.factories import safetensors
from tests.networks_in_training import export, suspects
from tests.odd_names import FEW, named
from tests.servers import wait_until

DATA = safetensors(x=("F32", [4, 3]))
HEAD = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.safetensors"\r\n\r\n'
SMALL_FORM = HEAD + DATA + b"\r\n--frontier--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}


def files(settings: Settings) -> list[Path]:
    return [path for path in Path(settings.storage_url.removeprefix("file:")).glob("*/**/*") if path.is_file()]


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_a_model_is_described(client: httpx.Client, archive: Path) -> None:
    answer = client.post("/v1/models", params={"name": "digits"}, content=archive.read_bytes())
    model = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/models/{model['id']}"
    assert model["name"] == "digits"
    assert model["format"] == "pt2"
    assert model["bytes"] == archive.stat().st_size
    assert model["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert model["created_at"].endswith("Z")
    assert model["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": [{"min": 1, "max": 1024}, 1, 8, 8], "optional": False}
    ]
    assert model["layers"][0] == {
        "name": "features.0",
        "type": "Conv2d",
        "weight_shape": [4, 1, 3, 3],
        "parameters": 40,
    }
    assert client.get(answer.headers["Location"]).json() == model


def test_a_file_of_weights_is_a_model(client: httpx.Client, settings: Settings) -> None:
    data = safetensors(**{"layers.0.q.weight": ("F32", [4, 3]), "layers.0.q.bias": ("F32", [4]), "t": ("I64", [])})
    model = client.post("/v1/models", params={"name": "w"}, content=data).json()
    assert (model["format"], model["inputs"], model["parameters"]) == ("safetensors", [], 17)
    assert model["layers"] == [
        {"name": "layers.0.q", "type": "Linear", "weight_shape": [4, 3], "parameters": 16},
        {"name": "t", "type": "Module", "weight_shape": None, "parameters": 1},
    ]
    (stored,) = files(settings)
    assert load_file(stored).keys() == {"layers.0.q.weight", "layers.0.q.bias", "t"}


def test_a_dataset_is_described(client: httpx.Client, settings: Settings) -> None:
    answer = client.post("/v1/datasets", params={"name": "d"}, content=DATA)
    dataset = answer.json()
    assert answer.status_code == 201
    assert dataset["samples"] == 4
    assert dataset["tensors"] == [{"name": "x", "dtype": "float32", "shape": [4, 3]}]
    (stored,) = files(settings)
    assert load_file(stored)["x"].shape == (4, 3)
    assert client.get(answer.headers["Location"]).json() == dataset


def test_a_form_gives_the_same_bytes_and_its_file_name(client: httpx.Client) -> None:
    answer = client.post("/v1/datasets", files={"file": ("my data.safetensors", DATA)})
    assert answer.status_code == 201
    assert answer.json()["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert answer.json()["name"] == "my data.safetensors"


FORM_TEXT = {"Content-Type": "application/x-www-form-urlencoded"}
CURL_D = bytes.maketrans(b"", b""), b"\r\n\0"
"""What curl -d removes from a file."""


@pytest.mark.parametrize("kind", ["models", "datasets"])
@pytest.mark.parametrize("sent", ["a program", "tensors", "a name"])
def test_a_body_of_curl_d_is_refused_with_what_curl_does(
    client: httpx.Client, archive: Path, kind: str, sent: str
) -> None:
    large = safetensors(**{f"x{number}.weight": ("F32", [4, 3]) for number in range(100)})
    content = {"a program": archive.read_bytes(), "tensors": large, "a name": b"model.pt2"}[sent].translate(*CURL_D)
    refusal = client.post(f"/v1/{kind}", content=content, headers=FORM_TEXT).json()
    assert "curl -d removes them" in refusal["detail"]
    assert refusal["remedy"] == "Send the file as it is: curl -X POST -T FILE."
    assert refusal["code"] == client.post(f"/v1/{kind}", content=content).json()["code"]


def test_a_body_of_curl_data_binary_is_a_file(client: httpx.Client, archive: Path) -> None:
    assert client.post("/v1/models", content=archive.read_bytes(), headers=FORM_TEXT).status_code == 201
    assert client.post("/v1/datasets", content=DATA, headers=FORM_TEXT).status_code == 201
    page = client.post("/v1/models", content=b"<!DOCTYPE html>\n<html>", headers=FORM_TEXT).json()
    assert "web page" in page["detail"]
    assert "curl" not in page["detail"] + page["remedy"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "multipart_invalid"),
        (HEAD + DATA, "multipart_invalid"),
        (HEAD.replace(b'"file"', b'"data"') + DATA + b"\r\n--frontier--\r\n", "multipart_invalid"),
        (HEAD + DATA + b"\r\n" + HEAD + DATA + b"\r\n--frontier--\r\n", "multipart_invalid"),
        (b"--other\r\n\r\nx", "multipart_invalid"),
        (HEAD + b"\r\n--frontier--\r\n", "upload_empty"),
    ],
    ids=["nothing", "cut off", "another field", "two files", "another boundary", "empty file"],
)
def test_another_form_is_refused(client: httpx.Client, settings: Settings, content: bytes, code: str) -> None:
    answer = client.post("/v1/datasets", content=content, headers=FORM)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert files(settings) == []


def test_a_form_may_arrive_byte_by_byte() -> None:
    form = FormFile(FORM["Content-Type"])
    body = SMALL_FORM
    found = b"".join(form.feed(body[position : position + 1]) for position in range(len(body)))
    form.finish()
    assert found == DATA


@pytest.mark.parametrize("field", ["Repr-Digest", "Content-Digest"])
def test_a_digest_is_checked(client: httpx.Client, settings: Settings, field: str) -> None:
    good = client.post("/v1/datasets", content=DATA, headers={field: f"sha-512=:AA==:, {digest(DATA)}"})
    bad = client.post("/v1/datasets", content=DATA, headers={field: digest(b"another file")})
    assert good.status_code == 201
    assert (bad.status_code, bad.json()["code"]) == (422, "digest_mismatch")
    assert len(files(settings)) == 1


def test_in_a_form_repr_digest_is_of_the_file_and_content_digest_of_the_body(client: httpx.Client) -> None:
    body = SMALL_FORM
    headers = {**FORM, "Repr-Digest": digest(DATA), "Content-Digest": digest(body)}
    assert client.post("/v1/datasets", content=body, headers=headers).status_code == 201


@pytest.mark.parametrize("value", ["", "md5=:AA==:", "sha-256=:AA==:", "sha-256=AA==", "sha-256=:%%%%:"])
def test_another_digest_is_refused(client: httpx.Client, value: str) -> None:
    answer = client.post("/v1/datasets", content=DATA, headers={"Repr-Digest": value})
    assert (answer.status_code, answer.json()["code"]) == (400, "digest_unsupported")


def test_a_refused_file_is_not_kept(client: httpx.Client, settings: Settings) -> None:
    answer = client.post("/v1/models", content=b"hello, model")
    assert (answer.status_code, answer.json()["code"]) == (422, "model_format_unsupported")
    assert files(settings) == []
    assert client.get("/v1/models").json()["items"] == []


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "multipart/mixed; boundary=x"}, "content_type_unsupported"),
        ({"Content-Encoding": "gzip"}, "content_encoding_unsupported"),
    ],
)
def test_another_type_of_body_is_refused(client: httpx.Client, headers: dict[str, str], code: str) -> None:
    answer = client.post("/v1/datasets", content=DATA, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, code)


@pytest.mark.parametrize("name", ["", "a" * 256, "a\nb", "a\0"])
def test_an_odd_name_is_refused(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/datasets", params={"name": name}, content=DATA)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/name")


@pytest.fixture
def small(served: httpx.Client, settings: Settings) -> Iterator[httpx.Client]:
    """The API with room for 1 MiB."""
    services = create_services(settings.model_copy(update={"max_upload_bytes": 2**20}))
    served.app.state.services = services  # type: ignore[attr-defined]
    yield served
    services.engine.dispose()


def endless(size: int) -> Iterator[bytes]:
    for _ in range(size // 2**16):
        yield bytes(2**16)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: {"content": endless(2**21), "headers": {"Content-Length": str(2**21)}},
        lambda: {"content": endless(2**21)},
        lambda: {"files": {"file": bytes(2**21)}},
        lambda: {"content": (SMALL_FORM if part == 0 else bytes(2**16) for part in range(40)), "headers": FORM},
        lambda: {"content": (HEAD if part == 0 else bytes(2**16) for part in range(40)), "headers": FORM},
    ],
    ids=["announced", "not announced", "form", "form with a long tail", "form, not announced"],
)
def test_an_upload_over_the_limit_is_refused(small: httpx.Client, settings: Settings, request_of: Any) -> None:
    answer = small.post("/v1/datasets", **request_of())
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    assert files(settings) == []


def test_a_client_that_goes_away_leaves_no_file(client: httpx.Client, settings: Settings) -> None:
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
        connection.sendall(
            b"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + bytes(2_000_000)
        )
        wait_until(lambda: bool(files(settings)))
    wait_until(lambda: files(settings) == [])


def test_lists_are_paged_newest_first(client: httpx.Client) -> None:
    ids = [client.post("/v1/datasets", content=DATA).json()["id"] for _ in range(5)]
    found: list[str] = []
    cursor = None
    while True:
        page = client.get("/v1/datasets", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == ids[::-1]


@pytest.mark.parametrize("cursor", ["x", "!!!", "bWRsXzE7", "A" * 128, "\0"])
def test_a_cursor_that_no_list_gave_is_refused(client: httpx.Client, cursor: str) -> None:
    answer = client.get("/v1/datasets", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "cursor_invalid")


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_what_was_deleted_is_not_found(client: httpx.Client, archive: Path, kind: str) -> None:
    content = archive.read_bytes() if kind == "models" else DATA
    location = client.post(f"/v1/{kind}", content=content).headers["Location"]
    assert client.delete(location).status_code == 204
    assert client.get(location).status_code == 404
    assert client.delete(location).json()["code"] == f"{kind[:-1]}_not_found"


def test_a_program_in_training_mode_is_taken_and_its_modules_are_named(client: httpx.Client, tmp_path: Path) -> None:
    suspect, path = suspects()["dropout"]
    for train, names in ((True, [path]), (False, [])):
        export(suspect, tmp_path / "model.pt2", train=train)
        answer = client.post("/v1/models?name=m", content=(tmp_path / "model.pt2").read_bytes())
        assert answer.status_code == 201
        assert [warning["layers"] for warning in answer.json()["warnings"]] == ([names] if names else [])
        read = client.get(f"/v1/models/{answer.json()['id']}").json()
        assert read == answer.json()


def test_names_that_are_no_identifiers_are_shown_and_select(client: httpx.Client, tmp_path: Path) -> None:
    torch.export.save(named(FEW), tmp_path / "model.pt2")
    model = client.post("/v1/models", content=(tmp_path / "model.pt2").read_bytes()).json()
    names = {layer["name"] for layer in model["layers"]}
    assert names == {f"{kind}.{name}" for kind in ("layers", "weights") for name in FEW}
    recipe = {"activations": None, "exclude": ["layers.a b", "layers.größe.weight", "*.日本?", "layers.a,b"]}
    answer = client.post("/v1/jobs", json={"model": model["id"], "recipe": recipe})
    assert answer.status_code == 202, answer.text
    wrong = client.post("/v1/jobs", json={"model": model["id"], "recipe": {**recipe, "exclude": ["layers.große"]}})
    assert wrong.status_code == 422
    assert "near: layers.größe" in wrong.text


def test_a_dataset_names_its_tensors_as_its_user_does(client: httpx.Client) -> None:
    data = safetensors(**{"größe": ("F32", [4, 3]), "my layer": ("F32", [4]), "../../x": ("F32", [4])})
    dataset = client.post("/v1/datasets", content=data).json()
    assert [tensor["name"] for tensor in dataset["tensors"]] == ["../../x", "größe", "my layer"]
    long = client.post("/v1/datasets", content=safetensors(**{"x" * 257: ("F32", [4])})).json()
    assert "a name has at most 256 characters" in long["detail"]
