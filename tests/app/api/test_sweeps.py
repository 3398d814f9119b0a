"""/v1/sweeps over HTTP."""

from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import endings
from app.jobs.endings import Product
from app.jobs.work import SweepWork
from app.storage import Storage
from tests.factories import claim_one, safetensors
from zeropoint.schema.recipe import Recipe
from zeropoint.schema.report import NOT_CALIBRATED, EvaluationReport
from zeropoint.schema.sweep import SweepReport, SweepRow

MSE = {"activations": {"observer": {"kind": "mse"}}}
RECIPES: list[dict[str, Any]] = [
    {"preset": "int8-static"},
    {"name": "mse", "recipe": MSE},
]


@pytest.fixture
def wish(model_id: str, dataset_id: str) -> dict[str, Any]:
    return {"model": model_id, "dataset": dataset_id, "recipes": RECIPES}


@pytest.fixture
def sweep(client: httpx.Client, wish: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/sweeps", json={**wish, "tags": ["nightly"]})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/sweeps/{answer.json()['id']}"
    body: dict[str, Any] = answer.json()
    return body


def table() -> SweepReport:
    row = SweepRow(position=0, name="int8-static", preset="int8-static", recipe=Recipe(), sqnr_db=30.0, bytes=10)
    return SweepReport(
        rows=[row, row.model_copy(update={"position": 1, "name": "mse", "sqnr_db": None, "exact": True})],
        pareto=[1],
        calibration=NOT_CALIBRATED,
        evaluation=EvaluationReport(source="held_out", samples=10),
        timings={},
        peak_memory_bytes=1,
        versions={},
    )


def test_a_sweep_is_accepted_and_described(client: httpx.Client, wish: dict[str, Any], sweep: dict[str, Any]) -> None:
    assert sweep["id"].startswith("swp_")
    assert (sweep["state"], sweep["model"], sweep["tags"]) == ("queued", wish["model"], ["nightly"])
    assert [(entry["name"], entry["preset"]) for entry in sweep["recipes"]] == [
        ("int8-static", "int8-static"),
        ("mse", None),
    ]
    assert [entry["recipe"]["formats"] for entry in sweep["recipes"]] == [["safetensors", "pt2"]] * 2
    assert (sweep["rows"], sweep["pareto"], sweep["latency"]) == (None, None, False)
    assert {"verdict", "recipe"} & set(sweep) == set()
    assert client.get(sweep["links"]["self"]).json() == sweep


def test_lists_keep_jobs_and_sweeps_apart(client: httpx.Client, wish: dict[str, Any], sweep: dict[str, Any]) -> None:
    job = client.post("/v1/jobs", json={"model": wish["model"], "preset": "int8-weight-only"}).json()
    assert [item["id"] for item in client.get("/v1/jobs").json()["items"]] == [job["id"]]
    (listed,) = client.get("/v1/sweeps?tag=nightly").json()["items"]
    assert listed == {key: value for key, value in sweep.items() if key in listed}
    assert sweep.keys() - listed == {"recipes", "latency", "rows", "pareto"}
    assert client.get("/v1/sweeps?tag=weekly").json()["items"] == []
    first = client.post("/v1/sweeps", json=wish).json()
    page = client.get("/v1/sweeps?limit=1").json()
    assert [item["id"] for item in page["items"]] == [first["id"]]
    rest = client.get(f"/v1/sweeps?limit=1&cursor={page['next_cursor']}").json()
    assert [item["id"] for item in rest["items"]] == [sweep["id"]]


def test_a_sweep_is_read_under_its_own_address(client: httpx.Client, sweep: dict[str, Any]) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/report")):
        answer = client.request(method, f"/v1/jobs/{sweep['id']}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
        assert f"/v1/sweeps/{sweep['id']}" in answer.json()["remedy"]
    assert client.get(sweep["links"]["events"]).json()["items"][0]["data"] == {"state": "queued"}
    assert client.get(sweep["links"]["attempts"]).json() == {"items": []}
    assert client.get(sweep["links"]["artifacts"]).json() == []


def test_a_job_is_no_sweep(client: httpx.Client, model_id: str) -> None:
    job = client.post("/v1/jobs", json={"model": model_id, "preset": "int8-weight-only"}).json()
    for method, path in (("GET", job["id"]), ("POST", f"{job['id']}/cancel"), ("GET", "swp_00")):
        answer = client.request(method, f"/v1/sweeps/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "sweep_not_found")


def test_a_sweep_is_cancelled(client: httpx.Client, sweep: dict[str, Any]) -> None:
    path = f"/v1/sweeps/{sweep['id']}/cancel"
    answer = client.post(path)
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert client.post(path).json() == answer.json()


def test_a_repeated_request_with_its_key_gives_the_same_sweep(client: httpx.Client, wish: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    first, second = (client.post("/v1/sweeps", json=wish, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    for change in ({"recipes": RECIPES[::-1]}, {"latency": True}):
        answer = client.post("/v1/sweeps", json={**wish, **change}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_rows_come_with_success(
    client: httpx.Client, sweep: dict[str, Any], sessions: sessionmaker[Session], storage: Storage
) -> None:
    with sessions() as session, storage.writer() as writer:
        claim = claim_one(session)
        assert isinstance(claim.work, SweepWork)
        assert [entry.name for entry in claim.work.entries] == ["int8-static", "mse"]
        writer.write(table().model_dump_json().encode())
        endings.succeed(session, claim, None, [Product("sweep.json", "sweep", writer.commit())])
    found = client.get(sweep["links"]["self"]).json()
    assert (found["state"], found["pareto"], found["progress"]["fraction"]) == ("succeeded", [1], 1.0)
    assert [(row["name"], row["sqnr_db"], row["exact"]) for row in found["rows"]] == [
        ("int8-static", 30.0, False),
        ("mse", None, True),
    ]
    assert [artifact["name"] for artifact in client.get(sweep["links"]["artifacts"]).json()] == ["sweep.json"]


def with_mode(mode: str) -> list[dict[str, Any]]:
    return [*RECIPES, {"recipe": {"mode": mode}}]


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"recipes": RECIPES[:1]}, "request_invalid", "/recipes"),
        ({"recipes": RECIPES[:1] * 33}, "request_invalid", "/recipes"),
        ({"dataset": None}, "request_invalid", "/dataset"),
        ({"preset": "int8-static"}, "request_invalid", "/preset"),
        ({"recipes": [*RECIPES, {}]}, "recipe_or_preset", "/recipes/2/recipe"),
        ({"recipes": [*RECIPES, {"preset": "int8-statik"}]}, "preset_not_found", "/recipes/2/preset"),
        ({"recipes": [*RECIPES, {"recipe": {"seed": -1}}]}, "request_invalid", "/recipes/2/recipe/seed"),
        (
            {"recipes": [*RECIPES, {"recipe": {"include": ["heads"]}}]},
            "recipe_matches_nothing",
            "/recipes/2/recipe/include/0",
        ),
        ({"recipes": with_mode("recommend")}, "sweep_invalid", "/recipes/2/recipe/mode"),
        (
            {"recipes": [*RECIPES, {"recipe": {"calibration": {"samples": 8}}}]},
            "sweep_invalid",
            "/recipes/2/recipe/calibration",
        ),
        (
            {"recipes": [*RECIPES, {"recipe": {"target": {"max_drop": {"metric": "top1", "value": 0}}}}]},
            "dataset_required",
            "/recipes/2/recipe/target/max_drop/metric",
        ),
        ({"device": "cuda"}, "no_such_worker", "/device"),
    ],
)
def test_a_request_that_is_refused_names_the_place(
    client: httpx.Client, wish: dict[str, Any], change: dict[str, Any], code: str, pointer: str
) -> None:
    answer = client.post("/v1/sweeps", json={**wish, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get("/v1/sweeps").json()["items"] == []


def test_weights_alone_have_no_outputs_to_compare(client: httpx.Client, dataset_id: str) -> None:
    weights = client.post("/v1/models", content=safetensors(**{"a.weight": ("F32", [4, 32])})).json()["id"]
    recipes = [{"preset": "int8-weight-only"}, {"recipe": {"weights": {"dtype": "float16"}}}]
    answer = client.post("/v1/sweeps", json={"model": weights, "dataset": dataset_id, "recipes": recipes})
    assert (answer.status_code, answer.json()["code"]) == (422, "sweep_invalid")
    assert answer.json()["errors"][0]["pointer"] == "/model"


def test_jobs_and_sweeps_of_an_owner_wait_in_one_line(
    client: httpx.Client, wish: dict[str, Any], sweep: dict[str, Any], sessions: sessionmaker[Session]
) -> None:
    """Ids of sweeps sort behind those of jobs; turns must not."""
    client.post("/v1/jobs", json={"model": wish["model"], "preset": "int8-weight-only"})
    with sessions() as session:
        assert claim_one(session).job_id == sweep["id"]
