"""/v1/jobs over HTTP."""

import threading
import time
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import endings, workers
from tests.factories import claim_one, safetensors
from zeropoint.schema.job import Failure
from zeropoint.schema.presets import PRESETS

WEIGHT_ONLY = "int8-weight-only"
LOST_STORAGE = Failure(code="storage_unavailable", title="Away", detail="It was.", remedy="Again.")
WRONG = safetensors(x=("F32", [4, 3, 8, 8]))


@pytest.fixture
def wish(model_id: str, dataset_id: str) -> dict[str, Any]:
    return {"model": model_id, "dataset": dataset_id, "preset": "int8-static"}


def submitted(client: httpx.Client, model_id: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"model": model_id, "preset": WEIGHT_ONLY, **more})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_is_accepted_and_described(client: httpx.Client, wish: dict[str, Any]) -> None:
    more = {"tags": ["b", "a", "b"], "priority": 3, "owner": "vision", "limits": {"pending_seconds": 60}}
    answer = client.post("/v1/jobs", json={**wish, **more})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert job == {
        "id": job["id"],
        "state": "queued",
        "phase": None,
        "verdict": None,
        "progress": {"done": 0, "total": 0, "fraction": None, "eta_seconds": None},
        "error": None,
        "model": wish["model"],
        "dataset": wish["dataset"],
        "evaluation_dataset": None,
        "recipe": PRESETS["int8-static"].recipe.model_dump(mode="json") | {"formats": ["safetensors", "pt2"]},
        "device": "cpu",
        "attempts": 0,
        "created_at": job["created_at"],
        "started_at": None,
        "finished_at": None,
        "tags": ["a", "b"],
        "priority": 3,
        "owner": "vision",
        "limits": {"pending_seconds": 60, "running_seconds": 6 * 3600},
        "request_id": answer.headers["X-Request-ID"],
        "retry_of": None,
        "sqnr_db": None,
        "waiting_for": "worker",
        "links": {
            "self": f"/v1/jobs/{job['id']}",
            "events": f"/v1/jobs/{job['id']}/events",
            "attempts": f"/v1/jobs/{job['id']}/attempts",
            "report": f"/v1/jobs/{job['id']}/report",
            "artifacts": f"/v1/jobs/{job['id']}/artifacts",
        },
    }
    assert client.get(job["links"]["self"]).json() == job


def test_a_recipe_is_resolved(client: httpx.Client, model_id: str) -> None:
    answer = client.post("/v1/jobs", json={"model": model_id, "recipe": {"activations": None, "exclude": ["head"]}})
    assert answer.json()["recipe"]["weights"]["dtype"] == "qint8"
    assert answer.json()["recipe"]["exclude"] == ["head"]


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"webhook": "https://example.org"}, "request_invalid", "/webhook"),
        ({"recipe": {"wieghts": {}}, "preset": None}, "request_invalid", "/recipe/wieghts"),
        ({"recipe": {"weights": {"dtype": "qint3"}}, "preset": None}, "request_invalid", "/recipe/weights/dtype"),
        ({"recipe": {"seed": -1}, "preset": None}, "request_invalid", "/recipe/seed"),
        ({"recipe": {}}, "recipe_or_preset", "/recipe"),
        ({"preset": None}, "recipe_or_preset", "/recipe"),
        ({"preset": "int8-statik"}, "preset_not_found", "/preset"),
        ({"device": "tpu"}, "request_invalid", "/device"),
        ({"device": "cuda"}, "no_such_worker", "/device"),
        ({"tags": ["a\0"]}, "request_invalid", "/tags/0"),
        ({"tags": ["a"] * 33}, "request_invalid", "/tags"),
        ({"priority": 10}, "request_invalid", "/priority"),
        ({"model": "mdl_\0"}, "request_invalid", "/model"),
        ({"model": 1}, "request_invalid", "/model"),
        ({"dataset": None}, "dataset_required", "/dataset"),
        ({"preset": None, "recipe": {"include": ["heads"]}}, "recipe_matches_nothing", "/recipe/include/0"),
    ],
)
def test_a_request_that_is_refused_names_the_place(
    client: httpx.Client, wish: dict[str, Any], change: dict[str, Any], code: str, pointer: str
) -> None:
    answer = client.post("/v1/jobs", json={**wish, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get("/v1/jobs").json()["items"] == []


def with_labels() -> bytes:
    return safetensors(x=("F32", [4, 1, 8, 8]), labels=("I64", [4]))


@pytest.mark.parametrize(
    ("metric", "evaluated", "status"),
    [("top1", True, 202), ("top5", False, 422), ("cosine", True, 422), ("agreement", False, 202)],
)
def test_a_targets_metric_needs_what_it_is_measured_with(
    client: httpx.Client, model_id: str, metric: str, evaluated: bool, status: int
) -> None:
    labelled = client.post("/v1/datasets", content=with_labels()).json()["id"]
    recipe = {"target": {"max_drop": {"metric": metric, "value": 0.01}}}
    datasets = {"dataset": labelled, "evaluation_dataset": labelled if evaluated else None}
    answer = client.post("/v1/jobs", json={"model": model_id, "recipe": recipe, **datasets})
    assert answer.status_code == status, answer.text
    if status == 422:
        assert answer.json()["code"] == ("dataset_does_not_fit" if evaluated else "dataset_required")
        assert answer.json()["errors"][0]["pointer"] == "/recipe/target/max_drop/metric"


@pytest.fixture
def weights_id(client: httpx.Client) -> str:
    data = safetensors(**{"a.weight": ("F32", [4, 32]), "b.weight": ("F16", [4, 32])})
    identity: str = client.post("/v1/models", content=data).json()["id"]
    return identity


def test_weights_alone_are_quantized_without_samples(client: httpx.Client, weights_id: str) -> None:
    recipe = {"weights": {"dtype": "int4"}, "exclude": ["b"]}
    answer = client.post("/v1/jobs", json={"model": weights_id, "recipe": recipe})
    assert answer.status_code == 202, answer.text
    assert answer.json()["recipe"]["formats"] == ["safetensors"]


@pytest.mark.parametrize(
    ("recipe", "code", "pointer"),
    [
        ({"activations": {}}, "recipe_does_not_fit", "/recipe/activations"),
        ({"formats": ["pt2"]}, "recipe_does_not_fit", "/recipe/formats/0"),
        ({"validation": {"min_sqnr_db": 20}}, "recipe_does_not_fit", "/recipe/validation/min_sqnr_db"),
        ({"include": ["c"]}, "recipe_matches_nothing", "/recipe/include/0"),
    ],
)
def test_what_weights_alone_cannot_do_is_refused(
    client: httpx.Client, weights_id: str, recipe: dict[str, Any], code: str, pointer: str
) -> None:
    answer = client.post("/v1/jobs", json={"model": weights_id, "recipe": {"activations": None, **recipe}})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("role", ["dataset", "evaluation_dataset"])
def test_samples_for_weights_alone_are_refused(
    client: httpx.Client, weights_id: str, dataset_id: str, role: str
) -> None:
    answer = client.post("/v1/jobs", json={"model": weights_id, "preset": WEIGHT_ONLY, role: dataset_id})
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_does_not_fit")
    assert answer.json()["errors"][0]["pointer"] == f"/{role}"
    assert "no graph" in answer.json()["detail"]


def test_a_dataset_of_another_shape_is_refused_naming_tensor_expected_and_got(
    client: httpx.Client, model_id: str
) -> None:
    wrong = client.post("/v1/datasets", content=WRONG).json()["id"]
    answer = client.post("/v1/jobs", json={"model": model_id, "dataset": wrong, "preset": "int8-static"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "x: expected float32 [1..1024, 1, 8, 8], got float32 [4, 3, 8, 8]."


@pytest.mark.parametrize(("field", "code"), [("model", "model_not_found"), ("dataset", "dataset_not_found")])
def test_an_upload_that_is_not_there_is_not_found(
    client: httpx.Client, wish: dict[str, Any], field: str, code: str
) -> None:
    answer = client.post("/v1/jobs", json={**wish, field: f"{wish[field][:4]}00"})
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_a_repeated_request_with_its_key_gives_the_same_job(client: httpx.Client, wish: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    first, second = (client.post("/v1/jobs", json=wish, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_a_key_with_another_request_is_refused(client: httpx.Client, wish: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    client.post("/v1/jobs", json=wish, headers=headers)
    answer = client.post("/v1/jobs", json={**wish, "tags": ["new"]}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_wait_answers_as_soon_as_the_job_has_ended(
    client: httpx.Client, model_id: str, sessions: sessionmaker[Session]
) -> None:
    def cancel_soon() -> None:
        while not (jobs := client.get("/v1/jobs").json()["items"]):
            time.sleep(0.02)
        client.post(f"{jobs[0]['links']['self']}/cancel")

    thread = threading.Thread(target=cancel_soon)
    thread.start()
    started = time.monotonic()
    answer = client.post(
        "/v1/jobs", json={"model": model_id, "preset": WEIGHT_ONLY}, headers={"Prefer": "respond-async, wait=60"}
    )
    thread.join()
    assert answer.json()["state"] == "cancelled"
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert time.monotonic() - started < 30


def test_wait_answers_when_the_time_is_up(client: httpx.Client, model_id: str) -> None:
    started = time.monotonic()
    answer = client.post("/v1/jobs", json={"model": model_id, "preset": WEIGHT_ONLY}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert 0.9 < time.monotonic() - started < 30


def test_wait_is_capped(client: httpx.Client, model_id: str, sessions: sessionmaker[Session]) -> None:
    headers = {"Prefer": "wait=999999", "Idempotency-Key": "k"}
    job = client.post("/v1/jobs", json={"model": model_id, "preset": WEIGHT_ONLY}, headers={"Idempotency-Key": "k"})
    client.post(f"{job.json()['links']['self']}/cancel")
    answer = client.post("/v1/jobs", json={"model": model_id, "preset": WEIGHT_ONLY}, headers=headers)
    assert answer.headers["Preference-Applied"] == "wait=60"


def test_jobs_are_listed_newest_first_and_filtered(
    client: httpx.Client, archive_model: tuple[str, str], sessions: sessionmaker[Session]
) -> None:
    one, two = archive_model
    first = submitted(client, one, tags=["red"])["id"]
    second = submitted(client, one, tags=["red", "blue"])["id"]
    third = submitted(client, two)["id"]
    client.post(f"/v1/jobs/{first}/cancel")

    def ids(**params: str) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=params).json()["items"]]

    assert ids() == [third, second, first]
    assert ids(state="queued") == [third, second]
    assert ids(tag="red") == [second, first]
    assert ids(tag="red", state="cancelled") == [first]
    assert ids(model=two) == [third]
    assert ids(model="mdl_0") == []


@pytest.fixture
def archive_model(client: httpx.Client, archive: Any) -> tuple[str, str]:
    one, two = (client.post("/v1/models", content=archive.read_bytes()).json()["id"] for _ in range(2))
    return one, two


def test_jobs_are_found_by_their_owner(client: httpx.Client, model_id: str) -> None:
    job = submitted(client, model_id, owner="vision")
    submitted(client, model_id, owner="speech")
    items = client.get("/v1/jobs", params={"owner": "vision"}).json()["items"]
    assert [item["id"] for item in items] == [job["id"]]


def test_a_job_says_what_it_waits_for(client: httpx.Client, model_id: str, session: Session) -> None:
    address = submitted(client, model_id)["links"]["self"]
    assert client.get(address).json()["waiting_for"] == "worker"
    workers.announce_worker(session, "w", "cpu", {})
    assert client.get(address).json()["waiting_for"] == "slot"
    claim = claim_one(session)
    assert client.get(address).json()["waiting_for"] is None
    endings.fail(session, claim, LOST_STORAGE)
    assert client.get(address).json()["waiting_for"] == "pause"


def test_every_attempt_is_listed(client: httpx.Client, model_id: str, session: Session) -> None:
    job = submitted(client, model_id)
    endings.release(session, claim_one(session, worker="one"))
    endings.stop(session, claim_one(session, worker="two"))
    attempts = client.get(job["links"]["attempts"]).json()["items"]
    assert [(a["number"], a["token"], a["worker"], a["outcome"]) for a in attempts] == [
        (1, 1, "one", "released"),
        (1, 2, "two", None),
    ]
    assert attempts[0]["ended_at"] >= attempts[0]["started_at"]


def test_a_failed_job_says_whose_matter_it_is(client: httpx.Client, model_id: str, session: Session) -> None:
    address = submitted(client, model_id)["links"]["self"]
    claim = claim_one(session)
    endings.fail(session, claim, LOST_STORAGE.model_copy(update={"code": "out_of_memory"}))
    error = client.get(address).json()["error"]
    assert (error["code"], error["category"]) == ("out_of_memory", "resource")


def test_an_unknown_state_is_refused(client: httpx.Client) -> None:
    answer = client.get("/v1/jobs", params={"state": "paused"})
    assert answer.json()["errors"][0]["pointer"] == "/query/state"


def test_cancel_is_idempotent_until_the_job_has_ended(
    client: httpx.Client, model_id: str, sessions: sessionmaker[Session]
) -> None:
    job = submitted(client, model_id)
    with sessions() as session:
        claim_one(session)
    answers = [client.post(f"{job['links']['self']}/cancel") for _ in range(2)]
    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(202, "cancelling")] * 2


def test_cancel_of_a_cancelled_job_changes_nothing(client: httpx.Client, model_id: str) -> None:
    job = submitted(client, model_id)
    answers = [client.post(f"{job['links']['self']}/cancel") for _ in range(3)]
    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(202, "cancelled")] * 3
    assert answers[0].json() == answers[2].json()
    assert len(client.get(job["links"]["events"]).json()["items"]) == 2


@pytest.mark.parametrize("end", [endings.succeed, endings.fail])
def test_cancel_of_a_job_that_has_ended_otherwise_is_a_conflict(
    client: httpx.Client, model_id: str, session: Session, end: Any
) -> None:
    job = submitted(client, model_id)
    claim = claim_one(session)
    if end is endings.succeed:
        endings.succeed(session, claim, "passed", [])
    else:
        endings.fail(session, claim, LOST_STORAGE.model_copy(update={"code": "out_of_memory"}))
    answer = client.post(f"{job['links']['self']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_finished")


def test_events_are_numbered_and_read_from_any_point(client: httpx.Client, model_id: str) -> None:
    job = submitted(client, model_id)
    client.post(f"{job['links']['self']}/cancel")
    events = client.get(job["links"]["events"]).json()["items"]
    assert [(event["seq"], event["data"]["state"]) for event in events] == [(1, "queued"), (2, "cancelled")]
    assert client.get(job["links"]["events"], params={"after": 1}).json()["items"] == events[1:]


@pytest.mark.parametrize("address", ["", "/events", "/attempts", "/report", "/artifacts", "/artifacts/report.json"])
def test_an_unknown_job_is_not_found(client: httpx.Client, address: str) -> None:
    answer = client.get(f"/v1/jobs/job_0{address}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_presets_say_what_they_need(client: httpx.Client) -> None:
    needs = {preset["name"]: preset["needs_dataset"] for preset in client.get("/v1/presets").json()["items"]}
    static = dict.fromkeys(("int8-static", "int8", "int8-accurate", "int4-weight-only", "float8-static"), True)
    assert needs == static | {WEIGHT_ONLY: False, "float16": False}
