"""What is fetched for an import, from where, and what is not."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid, ServiceError, TooLarge, Unavailable
from app.imports import ImportRules, fetch, rules_of, source_of
from app.imports.hub import wanted
from app.settings import Settings
from tests.app.outbound.receivers import answering, authority, server
from tests.sources import COMMIT, LOOPBACK, Files, serving


def rules(**settings: Any) -> ImportRules:
    return rules_of(Settings(**settings))


@pytest.fixture
def files() -> Iterator[Files]:
    with serving() as files:
        yield files


def fetched(text: str, allowed: ImportRules, project: str = "default") -> bytes:
    return b"".join(fetch(source_of(text, allowed), allowed, project))


LIST = "example.org, *.example.net, http://plain.example, files.example:8443, s3://bucket"


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("https://example.org/a/b?c=d", True),
        ("https://EXAMPLE.org/a", True),
        ("https://example.org:443/a", True),
        ("https://example.org:8443/a", False),
        ("http://example.org/a", False),
        ("https://www.example.org/a", False),
        ("https://example.org.evil.example/a", False),
        ("https://evilexample.org/a", False),
        ("https://a.example.net/a", True),
        ("https://a.b.example.net/a", True),
        ("https://example.net/a", False),
        ("https://evilexample.net/a", False),
        ("http://plain.example/a", True),
        ("https://plain.example/a", False),
        ("https://files.example:8443/a", True),
        ("https://files.example/a", False),
        ("s3://bucket/a/b", True),
        ("s3://bucket2/a/b", False),
        ("hf://org/name", False),
    ],
)
def test_only_what_the_list_names_is_fetched(source: str, allowed: bool) -> None:
    listed = rules(import_hosts=LIST)
    if allowed:
        assert source_of(source, listed)
    else:
        with pytest.raises(Invalid, match="list of hosts"):
            source_of(source, listed)


@pytest.mark.parametrize("source", ["https://example.org/a", "s3://bucket/a", "hf://org/name", "nonsense"])
def test_without_a_list_imports_are_off(source: str) -> None:
    with pytest.raises(Invalid, match="imports are off"):
        source_of(source, rules())


def test_a_star_is_every_public_host_over_https() -> None:
    every = rules(import_hosts="*")
    assert source_of("https://anything.example/a", every)
    for source in ("http://anything.example/a", "https://anything.example:22/a", "https://10.0.0.1/a", "s3://bucket/a"):
        with pytest.raises(Invalid):
            source_of(source, every)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "model.pt2",
        "file:///etc/passwd",
        "ftp://example.org/a",
        "gopher://example.org/",
        "s3://bucket",
        "s3://UPPER/a",
        "hf://",
        "hf://a/b/c",
        "hf://org/name@../..",
        "hf://org/name@a b",
        "hf://../..",
        "https://example.org/" + "a" * 2048,
    ],
)
def test_what_names_nothing_is_refused(source: str) -> None:
    with pytest.raises(Invalid) as refused:
        source_of(source, rules(import_hosts="*, s3://bucket"))
    assert refused.value.code in {"source_invalid", "import_not_allowed"}


@pytest.mark.parametrize(
    "source",
    ["https://user:secret@example.org/a", "https://127.0.0.1/a", "https://[::1]/a", "https://169.254.169.254/a"],
)
def test_addresses_of_the_inside_are_refused_at_once(source: str) -> None:
    with pytest.raises(Invalid) as refused:
        source_of(source, rules(import_hosts="*, 127.0.0.1, 169.254.169.254"))
    assert "secret" not in str(refused.value)


def test_a_file_comes_as_it_is(files: Files) -> None:
    data = bytes(range(256)) * 1000
    assert fetched(files.put("/a/data.bin?x=1", data), rules(**files.settings)) == data


def test_a_private_address_needs_more_than_its_place_on_the_list(files: Files) -> None:
    url = files.put("/a", b"secret")
    with pytest.raises(Invalid):
        fetched(url.replace("127.0.0.1", "localhost"), rules(import_hosts=f"http://localhost:{files.port}"))
    assert files.asked == []


def test_a_redirect_is_followed_to_hosts_on_the_list_alone(files: Files) -> None:
    allowed = rules(**files.settings)
    here = files.put("/here", b"data")
    assert fetched(files.redirect("/near", here), allowed) == b"data"
    assert fetched(files.redirect("/relative", "/here"), allowed) == b"data"
    inside = [
        f"http://localhost:{files.port}/here",
        "http://169.254.169.254/latest",
        "https://10.0.0.1/",
        "file:///etc",
    ]
    for number, place in enumerate(inside):
        with pytest.raises(Invalid):
            fetched(files.redirect(f"/away{number}", place), allowed)
    with pytest.raises(Invalid, match="more than 5 times"):
        fetched(files.redirect("/round", "/round"), allowed)


def test_a_redirect_to_a_private_address_is_not_followed(files: Files) -> None:
    """The list names both; only one of them may be private."""
    hosts = f"{files.address}, http://127.0.0.2:{files.port}"
    allowed = rules(**{**files.settings, "import_hosts": hosts, "import_private_addresses": "127.0.0.1/32"})
    with pytest.raises(Invalid, match="no public address"):
        fetched(files.redirect("/away", f"http://127.0.0.2:{files.port}/here"), allowed)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, Invalid), (401, Invalid), (403, Invalid), (204, Invalid), (429, Unavailable), (500, Unavailable)],
)
def test_an_answer_with_an_error_is_no_file(files: Files, status: int, kind: type[ServiceError]) -> None:
    with pytest.raises(kind, match=f"answers {status}"):
        fetched(files.put("/a", b"", status), rules(**files.settings))


def test_a_file_that_is_too_large_is_refused_on_the_way(files: Files) -> None:
    with pytest.raises(TooLarge):
        fetched(files.put("/a", bytes(1001)), rules(**files.settings, max_upload_bytes=1000))


def test_an_answer_that_is_cut_off_is_no_file(files: Files) -> None:
    with server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")) as here:
        allowed = rules(import_hosts=f"http://127.0.0.1:{here.port}", import_private_addresses=LOOPBACK)
        with pytest.raises(Unavailable):
            fetched(here.url(), allowed)


def test_nobody_listens(files: Files) -> None:
    with server(answering(b"")) as here:
        allowed = rules(import_hosts=f"http://127.0.0.1:{here.port}", import_private_addresses=LOOPBACK)
    with pytest.raises(Unavailable):
        fetched(here.url(), allowed)


def test_an_import_ends_in_time(files: Files) -> None:
    files.gate.clear()
    allowed = replace(rules(**files.settings), seconds=0.3)
    with pytest.raises(Unavailable):
        fetched(files.put("/a", bytes(100)), allowed)


def test_tls_is_verified(tmp_path: Path) -> None:
    signer = authority(tmp_path)
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata")
    for name, kept in (("localhost", True), ("other.example", False)):
        with server(answer, signer.server(name)) as here:
            host = f"localhost:{here.port}"
            listed = rules(import_hosts=host, import_private_addresses=f"{LOOPBACK}, ::1/128")
            listed = replace(listed, tls=signer.trusted)
            if kept:
                assert fetched(f"https://{host}/", listed) == b"data"
            else:
                with pytest.raises(Unavailable, match="certificate"):
                    fetched(f"https://{host}/", listed)


FOLDER = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 50, "1_Pooling/config.json": b"{}"}


def test_a_repository_comes_as_a_tar_of_what_an_upload_keeps(files: Files) -> None:
    files.put_repository("org/name", {**FOLDER, "README.md": b"#", "pytorch_model.bin": b"x", "train.py": b"x"}, "v1")
    packed = fetched("hf://org/name@v1", rules(**files.settings))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        assert {name: file.read() for name, file in members.items() if file} == FOLDER
    assert not any("README" in path for path, _ in files.asked)
    assert files.asked[0][0] == "/api/models/org/name/revision/v1"
    assert all(COMMIT in path for path, _ in files.asked if "/resolve/" in path), "all files are of one commit"


def test_the_token_of_the_project_goes_to_the_hub_alone(files: Files, tmp_path: Path) -> None:
    files.put_repository("org/name", {"config.json": b"{}"})
    (tmp_path / "team").write_text("hf_secret\n")
    with serving() as elsewhere:
        files.redirect(f"/org/name/resolve/{COMMIT}/config.json", elsewhere.put("/blob", b"{}"))
        hosts = f"{files.address}, {elsewhere.address}"
        allowed = rules(**{**files.settings, "import_hosts": hosts, "hub_tokens_dir": tmp_path})
        fetched("hf://org/name", allowed, "team")
        assert elsewhere.asked == [("/blob", None)]
    assert {token for _, token in files.asked} == {"Bearer hf_secret"}
    files.asked.clear()
    with pytest.raises(ServiceError):
        fetched("hf://org/name", allowed, "other")
    assert {token for _, token in files.asked} == {None}


@pytest.mark.parametrize(
    ("described", "detail"),
    [
        (b"<html>", "no description"),
        (b'{"sha": "main", "siblings": []}', "names no commit"),
        (b'{"sha": "' + COMMIT.encode() + b'", "siblings": [{"rfilename": "README.md"}]}', "none of the files"),
        (b'{"sha": "' + COMMIT.encode() + b'", "siblings": [{"rfilename": "../config.json"}]}', "none of the files"),
    ],
)
def test_what_is_no_repository_is_refused(files: Files, described: bytes, detail: str) -> None:
    files.put("/api/models/org/name/revision/main", described)
    with pytest.raises(Invalid, match=detail):
        fetched("hf://org/name", rules(**files.settings))


def test_a_repository_that_is_too_large_is_refused_on_the_way(files: Files) -> None:
    files.put_repository("org/name", FOLDER)
    with pytest.raises(TooLarge):
        fetched("hf://org/name", rules(**files.settings, max_upload_bytes=5000))


def test_pickled_weights_come_where_there_are_no_others() -> None:
    assert wanted(iter(["config.json", "pytorch_model.bin", "model.onnx"])) == ["config.json", "pytorch_model.bin"]
    assert wanted(iter(["model.safetensors", "pytorch_model.bin"])) == ["model.safetensors"]
    assert wanted(iter(["0_Transformer/model.safetensors", "a/model.safetensors"])) == [
        "0_Transformer/model.safetensors"
    ]


def test_names_of_imports_are_plain() -> None:
    listed = rules(import_hosts=f"{LIST}, huggingface.co")
    named = {
        "https://example.org/a/model.pt2?sig=secret": "model.pt2",
        "https://example.org/": "unnamed",
        "https://example.org/a%20b": "a b",
        "s3://bucket/folder/samples.npz": "samples.npz",
        "hf://org/name@v1": "name",
    }
    assert {text: source_of(text, listed).filename for text in named} == named
