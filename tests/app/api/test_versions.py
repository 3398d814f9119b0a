"""Names with versions stand for models and datasets, in requests and in addresses."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from app.catalog.names import Reference, reference_of
from app.database import migrate
from app.settings import Settings
from tests.factories import safetensors

WEIGHTS = safetensors(**{"a.weight": ("F32", [4, 4])})
JOB: dict[str, Any] = {"preset": "float16"}


def uploaded(client: httpx.Client, name: str, kind: str = "models") -> dict[str, Any]:
    answer = client.post(f"/v1/{kind}", params={"name": name}, content=WEIGHTS)
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    return row


def model_of_job(client: httpx.Client, named: str) -> str | None:
    answer = client.post("/v1/jobs", json={**JOB, "model": named})
    assert answer.status_code in (202, 404), answer.text
    return str(answer.json()["model"]) if answer.status_code == 202 else None


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_each_name_counts_its_versions(client: httpx.Client, kind: str) -> None:
    first, other, second = (uploaded(client, name, kind) for name in ("encoder", "other", "encoder"))
    assert [row["version"] for row in (first, other, second)] == [1, 1, 2]
    for named, row in (
        ("encoder@1", first),
        ("encoder@2", second),
        ("encoder@latest", second),
        ("other@latest", other),
        (first["id"], first),
    ):
        answer = client.get(f"/v1/{kind}/{named}")
        assert answer.json() == row
        assert client.get(f"/v1/{kind}/{named}", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    for named in ("encoder", "encoder@3", "encoder@0", "nobody@1", "nobody@latest", "Encoder@1"):
        assert client.get(f"/v1/{kind}/{named}").status_code == 404, named


@pytest.mark.parametrize("name", ["encoder", "a@b", "mdl_0", "x@3", "Kodierer für Bilder", "编码器", "a/b", "@", "%41"])
def test_every_name_stands_in_requests(client: httpx.Client, name: str) -> None:
    first, second = uploaded(client, name), uploaded(client, name)
    assert model_of_job(client, f"{name}@1") == first["id"]
    assert model_of_job(client, f"{name}@latest") == model_of_job(client, f"{name}@2") == second["id"]
    assert model_of_job(client, f"{name}@3") is None


def test_a_deleted_version_is_never_given_again(client: httpx.Client) -> None:
    first, second = uploaded(client, "encoder"), uploaded(client, "encoder")
    client.delete(f"/v1/models/{second['id']}").raise_for_status()
    assert model_of_job(client, "encoder@2") is None
    assert model_of_job(client, "encoder@latest") == first["id"]
    assert uploaded(client, "encoder")["version"] == 3
    assert model_of_job(client, "encoder@2") is None


def test_a_repeated_request_means_what_it_meant(client: httpx.Client) -> None:
    """Else a client that asks again, for it heard no answer, would be refused after the next upload."""
    first = uploaded(client, "encoder")
    asked: dict[str, Any] = {"json": {**JOB, "model": "encoder@latest"}, "headers": {"Idempotency-Key": "k"}}
    job = client.post("/v1/jobs", **asked).json()
    uploaded(client, "encoder")
    again = client.post("/v1/jobs", **asked).json()
    assert (again["id"], again["model"]) == (job["id"], first["id"])
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.post(f"/v1/jobs/{job['id']}/retry").json()["model"] == first["id"]


def test_datasets_of_jobs_and_sweeps_are_named_so(client: httpx.Client, model_id: str, dataset_id: str) -> None:
    name = client.get(f"/v1/datasets/{dataset_id}").json()["name"]
    wish = {"model": model_id, "dataset": f"{name}@1", "evaluation_dataset": f"{name}@latest"}
    for path, what in (("jobs", {"preset": "int8"}), ("sweeps", {"recipes": [{"preset": "int8"}] * 2})):
        answer = client.post(f"/v1/{path}", json={**wish, **what}).json()
        assert (answer["dataset"], answer["evaluation_dataset"]) == (dataset_id, dataset_id), answer


@pytest.mark.parametrize("named", ["encoder", "encoder@", "encoder@0", "encoder@01", "encoder@-1", "encoder@Latest"])
def test_a_name_alone_is_refused(client: httpx.Client, named: str) -> None:
    uploaded(client, "encoder")
    answer = client.post("/v1/jobs", json={**JOB, "model": named})
    assert answer.status_code == 422
    assert "encoder@latest" in answer.json()["detail"]


def test_uploads_at_once_get_a_version_each(client: httpx.Client) -> None:
    with ThreadPoolExecutor(6) as pool:
        rows = list(pool.map(lambda _: uploaded(client, "encoder"), range(12)))
    assert sorted(row["version"] for row in rows) == list(range(1, 13))


def test_what_is_a_reference() -> None:
    assert reference_of("a@b@2") == Reference("a@b", 2)
    assert reference_of("x\n@latest") == Reference("x\n", None)
    assert [reference_of(one) for one in ("mdl_0", "a", "a@1x", "a@ 1", "a@1234567890", "")] == [None] * 6


def test_rows_of_an_older_version_are_numbered(
    engine: Engine, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    migrate(settings, "base")
    migrate(settings, "0023")
    columns = "id, project, name, bytes, sha256, stored_bytes, stored_sha256, created_at, samples, tensors"
    with engine.begin() as connection:
        for row in ("dts_2 a x", "dts_1 a x", "dts_3 b x", "dts_4 a y", "dts_5 a x"):
            row_id, project, name = row.split()
            values = f"'{row_id}', '{project}', '{name}', 1, 'a', 1, 'a', '2026-01-01', 1, '[]'"
            connection.execute(text(f"INSERT INTO datasets ({columns}) VALUES ({values})"))
    migrate(settings)
    with engine.connect() as connection:
        numbered = connection.execute(text("SELECT id, version FROM datasets ORDER BY id")).all()
        counts = connection.execute(text("SELECT project, kind, name, last FROM version_counts ORDER BY 1, 3")).all()
    assert dict(map(tuple, numbered)) == {"dts_1": 1, "dts_2": 2, "dts_3": 1, "dts_4": 1, "dts_5": 3}
    assert [tuple(row) for row in counts] == [
        ("a", "dataset", "x", 3),
        ("a", "dataset", "y", 1),
        ("b", "dataset", "x", 1),
    ]
