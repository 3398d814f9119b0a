"""Every error is a problem in our own words."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app.errors import TITLES
from app.main import create_services
from app.settings import Settings
from tests.factories import add_job
from tests.servers import free_port
from zeropoint.schema.faults import WORDS

KEYS = {"type", "title", "status", "code", "detail", "remedy", "request_id"}


@pytest.mark.parametrize(
    ("asked", "sent", "status", "code"),
    [
        ("GET /nothing", {}, 404, "route_not_found"),
        ("GET /v1/models/", {}, 404, "route_not_found"),
        ("GET /docs", {}, 404, "route_not_found"),
        ("PUT /v1/jobs", {}, 405, "method_not_allowed"),
        ("PUT /v1/jobs/job_1", {}, 405, "method_not_allowed"),
        ("GET /v1/jobs/job_1", {}, 404, "job_not_found"),
        ("GET /v1/models/mdl_%00", {}, 404, "route_not_found"),
        ("GET /v1/jobs?limit=0", {}, 422, "request_invalid"),
        ("GET /v1/jobs?limit=x", {}, 422, "request_invalid"),
        ("GET /v1/jobs?tag=%00", {}, 422, "request_invalid"),
        ("GET /v1/jobs/job_1/events?after=99999999999999999999", {}, 422, "request_invalid"),
        ("POST /v1/jobs", {"content": b"{"}, 400, "json_malformed"),
        ("POST /v1/jobs", {"content": b"[" * 500_000}, 400, "request_unreadable"),
        ("POST /v1/jobs", {"content": b"\xff\xfe\xff"}, 400, "request_unreadable"),
        ("POST /v1/jobs", {"content": b"[]"}, 422, "request_invalid"),
        ("POST /v1/jobs", {"content": b""}, 422, "request_invalid"),
        ("POST /v1/jobs", {"content": b'{"model": "\\ud800"}'}, 422, "request_invalid"),
        ("POST /v1/jobs", {"content": b" " * (2**20 + 1)}, 413, "body_too_large"),
        ("POST /v1/jobs", {"content": lambda: iter([b" " * 2**20, b" "])}, 413, "body_too_large"),
    ],
)
def test_every_error_is_a_problem(
    client: httpx.Client, asked: str, sent: dict[str, Any], status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json"} if sent else {}
    content = sent.get("content")
    answer = client.request(*asked.split(), headers=headers, content=content() if callable(content) else content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json().keys() >= KEYS
    assert answer.json()["title"] == TITLES[code]
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"presets": "int8"}, "/presets is not a known key (near: preset"),
        ({"recipe": {"weigths": {}}}, "/recipe/weigths is not a known key (near: weights"),
        ({"recipe": {"activations": {"observer": "mse"}}}, 'must be an object, such as {"kind": "mse"}'),
        ({"recipe": {"algorithms": ["smoothing"]}}, 'must be an object, such as {"kind": "smoothing"}'),
        ({"recipe": {"weights": "int8"}}, "/recipe/weights must be an object."),
        ({"model": "tagger"}, "/model is not an id: these look like mdl_0123abcd, and GET /v1/models lists them"),
        ({"model": "mdl_…"}, "/model is not an id: these look like mdl_0123abcd"),
        ({"dataset": "x"}, "/dataset is not an id: these look like dts_0123abcd, and GET /v1/datasets lists them"),
        ({"evaluation_dataset": "x"}, "/evaluation_dataset is not an id: these look like dts_0123abcd"),
        ({"recipe": {"preset": "int8"}}, "/recipe/preset is not a key of a recipe: a preset's name is given in place"),
        ({"recipe": {"weights": {"recipe": {}}}}, "/recipe/weights/recipe is not a known key of this object."),
        ({"recipe": "int8"}, "/recipe must be an object; the name of a preset is given as preset"),
        ([], "must be an object, sent as Content-Type: application/json"),
    ],
)
def test_a_request_is_refused_in_words_that_help(client: httpx.Client, body: object, detail: str) -> None:
    wish = {"model": "mdl_1", "dataset": "dts_1", **body} if isinstance(body, dict) else body
    refusal = client.post("/v1/jobs", json=wish).json()
    assert refusal["code"] == "request_invalid"
    assert detail in refusal["detail"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"model": "mdl_1", "model": "mdl_2"}', 'has the key "model" more than once in one object'),
        ('{"recipe": {"a": [{"x": 1, "x": 1}]}}', 'has the key "x" more than once in one object'),
        ('{"a\\u0062": 1, "ab": 1}', 'has the key "ab" more than once in one object'),
        ('{"\\u202e": 1, "\\u202e": 1}', 'has the key "\\u202e" more than once in one object'),
        (f'{{"{"k" * 999}": 1, "{"k" * 999}": 1}}', f'has the key "{"k" * 64}" more than once in one object'),
        ('{"priority": NaN}', "holds NaN, which is not a JSON number"),
        ('{"priority": -Infinity}', "holds -Infinity, which is not a JSON number"),
    ],
)
@pytest.mark.parametrize("address", ["/v1/jobs", "/v1/sweeps"])
def test_a_body_that_could_be_read_in_two_ways_is_refused(
    client: httpx.Client, address: str, body: str, detail: str
) -> None:
    answer = client.post(address, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "json_malformed")
    assert answer.json()["detail"] == f"The body {detail}."


@pytest.mark.parametrize(("faults", "listed", "first"), [(900, 100, "/0recipe"), (30_000, 1, "")])
def test_the_first_faults_of_very_many_are_listed(client: httpx.Client, faults: int, listed: int, first: str) -> None:
    wish = {"model": "mdl_1", "dataset": "dts_1", **{f"{number}recipe": 1 for number in range(faults)}}
    refusal = client.post("/v1/jobs", json=wish).json()
    errors = refusal["errors"]
    assert (len(errors), refusal["more_errors"], errors[0]["pointer"]) == (listed, faults - listed, first)


def test_an_id_of_another_kind_is_named_as_such(client: httpx.Client) -> None:
    refusal = client.post("/v1/jobs", json={"model": "dts_1", "dataset": "dts_1", "preset": "int8"}).json()
    assert "There is no model dts_1: this is the id of a dataset." in refusal["detail"]


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        ({"recipe": {"preset": "int8"}}, "/recipes/1/recipe/preset is not a key of a recipe"),
        ({"recipe": "int8"}, "/recipes/1/recipe must be an object; the name of a preset"),
    ],
)
def test_a_preset_in_place_of_a_recipe_of_a_sweep(client: httpx.Client, recipe: object, fault: str) -> None:
    wish = {"model": "mdl_1", "dataset": "dts_1", "recipes": [{"preset": "int8"}, recipe]}
    assert fault in client.post("/v1/sweeps", json=wish).json()["detail"]


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("DELETE /v1/presets", "GET, HEAD, OPTIONS"),
        ("DELETE /v1/models", "GET, HEAD, POST, OPTIONS"),
        ("POST /v1/models/mdl_1", "GET, HEAD, DELETE, OPTIONS"),
        ("PATCH /v1/datasets/dts_1", "GET, HEAD, DELETE, OPTIONS"),
        ("GET /v1/jobs/job_1/cancel", "POST, OPTIONS"),
    ],
)
def test_a_wrong_method_lists_all_of_the_right_ones(client: httpx.Client, asked: str, allowed: str) -> None:
    refusal = client.request(*asked.split())
    assert refusal.headers["Allow"] == allowed
    assert refusal.json()["remedy"].startswith(f"This address takes {allowed}.")


@pytest.mark.parametrize("address", ["/v1/models", "/v1/datasets", "/v1/models/model.pt2", "/v1/datasets/x.npz"])
def test_a_file_that_curl_puts_is_asked_for_as_a_post(client: httpx.Client, address: str) -> None:
    refusal = client.put(address, content=b"PK").json()
    assert refusal["code"] == "method_not_allowed"
    assert "curl -X POST -T FILE" in refusal["remedy"]


def test_an_unexpected_failure_says_nothing_but_the_request_id(client: httpx.Client, session: Session) -> None:
    job = add_job(session)
    job.recipe = {"no": "recipe"}
    session.commit()
    answer = client.get(f"/v1/jobs/{job.id}", headers={"X-Request-ID": "mine"})
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == "mine"
    assert answer.json() == {
        "type": "urn:zeropoint:problem:internal_error",
        "title": TITLES["internal_error"],
        "status": 500,
        "code": "internal_error",
        "request_id": "mine",
    }


def test_a_database_that_is_away_is_said_and_nothing_of_it(client: httpx.Client, settings: Settings) -> None:
    app: Any = client.app  # type: ignore[attr-defined]
    away = f"postgresql://someone:secret@127.0.0.1:{free_port()}/nowhere"
    app.state.services = create_services(settings.model_copy(update={"database_url": away}))
    answer = client.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["Retry-After"]
    assert "127.0.0.1" not in answer.text
    app.state.services.engine.dispose()


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", ""])
def test_an_odd_request_id_is_replaced(client: httpx.Client, given: str) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"].startswith("req_")


def test_every_answer_has_a_request_id_of_its_own(client: httpx.Client) -> None:
    ids = {client.get("/healthz").headers["X-Request-ID"] for _ in range(10)}
    assert len(ids) == 10


def test_wrong_values_are_described_in_our_words(client: httpx.Client) -> None:
    body = {"model": "mdl_1", "device": "tpu", "priority": 1.5, "tags": "x", "recipe": {"seed": "x"}, "extra": 1}
    answer = client.post("/v1/jobs", json=body)
    assert {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]} == {
        "/device": "must be 'auto', 'cpu' or 'cuda'",
        "/priority": "must be a whole number",
        "/tags": "must be a list",
        "/recipe/seed": "must be a whole number",
        "/extra": "is not a known key",
    }


def test_no_library_s_sentence_gets_through(client: httpx.Client) -> None:
    bodies: list[Any] = [
        {},
        {"model": None},
        {"model": "mdl_1", "recipe": {"overrides": [{"names": []}], "validation": {"min_sqnr_db": "x"}}},
        {"model": "mdl_1", "recipe": {"validation": {"max_size_ratio": 0}, "calibration": {"samples": 0}}},
        {"model": "x" * 100, "recipe": [], "tags": [1]},
    ]
    for body in bodies:
        text = client.post("/v1/jobs", json=body).text
        assert "Input should" not in text
        assert "is not valid" not in text.replace(TITLES["request_invalid"], ""), text
    assert all("{" not in words or "ctx" not in words for words in WORDS.values())


def test_a_problem_is_plain_json(client: httpx.Client) -> None:
    assert json.loads(client.get("/nothing").content)["type"] == "urn:zeropoint:problem:route_not_found"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/presets", "/v1/models/mdl_0"])
def test_a_process_that_gets_no_threads_is_busy(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """As where a control group limits them; a limit of this process's own would end other tests."""

    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", no_thread)
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) > 0
