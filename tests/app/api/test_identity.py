"""Who calls: every address, with every role, of one's own project and of another one, and without credentials."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import event, select
from sqlalchemy.orm import Session, sessionmaker

from app.accounts import keys, projects
from app.accounts.caller import Role, called_by
from app.accounts.models import AuditEntry, Key
from app.api.addresses import PROBES
from app.api.identity import OPEN
from app.jobs import endings
from app.jobs.endings import Product
from app.main import RESOURCES, create_services
from app.settings import Settings
from app.storage import Storage
from app.uploads import service as uploads
from app.uploads.service import NewUpload
from app.webhooks import service as webhooks
from app.webhooks.outbox import ENDS
from tests.factories import add_job, claim_one, member_of
from tests.identity_provider import AUDIENCE, identity_provider
from tests.servers import wait_until

READING = ("GET", "HEAD", "OPTIONS")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"auth": "on"})


@dataclass(frozen=True)
class Tenant:
    """A project with one of everything, and a key of each role."""

    secrets: Mapping[Role, str]
    ids: Mapping[str, str]
    """By the names of parameters of addresses."""

    def auth(self, role: Role) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[role]}"}


def tenant(session: Session, storage: Storage, name: str) -> Tenant:
    projects.create(session, name)
    with called_by(member_of(name)):
        made = {role: keys.create(session, name, f"{role}", role) for role in Role}
        done = add_job(session, project=name)
        with storage.writer() as writer:
            writer.write(b"{}")
            blob = writer.commit()
        endings.succeed(session, claim_one(session), "passed", [Product("report.json", "report", blob)])
        queued = add_job(session, project=name)
        webhook = webhooks.create(session, "https://hooks.example/", ENDS)
        upload = uploads.create(session, NewUpload("dataset", "name", "file", 10), timedelta(hours=1))
    ids = {
        "model_id": queued.model_id,
        "dataset_id": queued.model_id.replace("mdl", "dts"),
        "job_id": done.id,
        "sweep_id": queued.id.replace("job", "swp"),
        "name": "report.json",
        "key_id": made[Role.READER].row.id,
        "webhook_id": webhook.row.id,
        "upload_id": upload.id,
    }
    return Tenant({role: one.secret for role, one in made.items()}, ids)


@pytest.fixture
def tenants(sessions: sessionmaker[Session], storage: Storage) -> dict[str, Tenant]:
    with sessions() as session:
        return {name: tenant(session, storage, name) for name in ("ours", "theirs")}


ROUTES = sorted(
    (method, route.path)
    for module in RESOURCES
    for route in module.router.routes
    if isinstance(route, APIRoute)
    for method in route.methods or ()
    if route.path not in PROBES
)
BODIES: dict[str, Any] = {
    "/v1/jobs": {"model": "", "recipe": {"activations": None}},
    "/v1/sweeps": {
        "model": "",
        "dataset": "dts_0",
        "recipes": [{"name": n, "recipe": {"activations": None}} for n in "ab"],
    },
    "/v1/keys": {"name": "n", "role": "reader"},
    "/v1/keys/{key_id}/rotate": {},
    "/v1/webhooks": {"url": "https://hooks.example/"},
    "/v1/webhooks/{webhook_id}": {"description": "d"},
    "/v1/webhooks/{webhook_id}/rotate": {},
    "/v1/webhooks/{webhook_id}/redeliver": {},
    "/v1/imports": {"purpose": "model", "source": "https://example.org/model.pt2"},
    "/v1/jobs/{job_id}": {"tags": ["a"]},
    "/v1/sweeps/{sweep_id}": {"tags": ["a"]},
}
PART = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": "purpose bW9kZWw=", "Upload-Offset": "0"}
"""What the addresses of uploads in parts take in place of a body."""


def call(client: httpx.Client, method: str, path: str, of: Tenant, headers: Mapping[str, str]) -> httpx.Response:
    """Call an address with what a project owns."""
    body = BODIES.get(path) if method in ("POST", "PATCH") else None
    if body is not None and "model" in body:
        body = {**body, "model": of.ids["model_id"]}
    query = {"job": of.ids["job_id"]} if path == "/v1/artifacts" else None
    address = re.sub(r"{(\w+)(:path)?}", lambda match: of.ids[match[1]], path)
    return client.request(method, address, json=body, params=query, headers={**headers, **PART})


def noted_use(client: httpx.Client, of: Tenant, role: Role) -> None:
    """Use a key, and wait until that was recorded, which no answer waits for."""
    client.get("/v1/models", headers=of.auth(role)).raise_for_status()
    rows = client.app.state.services.all_projects  # type: ignore[attr-defined]

    def noted() -> bool:
        with rows() as session:
            prefix = of.secrets[role][:11]
            return session.scalar(select(Key.last_used_at).where(Key.prefix == prefix)) is not None

    wait_until(noted, 10)


def needed(method: str, path: str) -> Role:
    if path.startswith(("/v1/keys", "/v1/audit", "/v1/webhooks")):
        return Role.ADMIN
    return Role.READER if method in READING else Role.SUBMITTER


def expected(method: str, path: str, role: Role) -> set[int]:
    """The answers to a caller of another project."""
    if not role.includes(needed(method, path)):
        return {403}
    names_a_thing = "{" in path or path == "/v1/artifacts" or (method == "POST" and path in ("/v1/jobs", "/v1/sweeps"))
    if path == "/v1/imports":
        return {422}  # they are off
    return {404} if names_a_thing else {200, 201, 400}


def test_every_address_is_walked() -> None:
    assert len(ROUTES) > 20
    assert {path for _, path in ROUTES} >= set(BODIES)


def test_without_credentials_nothing_answers_but_probes(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    refused = [call(client, method, path, tenants["ours"], {}) for method, path in ROUTES]
    assert {answer.status_code for answer in refused} == {401}
    assert all(answer.headers["WWW-Authenticate"].startswith("Bearer") for answer in refused)
    assert all(client.get(path).status_code in (200, 503) for path in OPEN)


@pytest.mark.parametrize(
    "sent",
    [
        "Bearer",
        "Basic dXNlcjpwYXNz",
        "Bearer zp_" + "A" * 43,
        "Bearer zp_short",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "zp_" + "A" * 43,
        "Bearer " + "A" * 9000,
    ],
)
def test_other_credentials_are_refused(client: httpx.Client, sent: str) -> None:
    answer = client.get("/v1/models", headers={"Authorization": sent})
    assert answer.status_code == 401
    assert answer.json()["code"] in ("credentials_missing", "credentials_refused")


def test_two_credentials_are_refused(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    both = [("Authorization", f"Bearer {secret}") for secret in tenants["ours"].secrets.values()]
    assert client.get("/v1/models", headers=both[:2]).status_code == 401
    assert client.get("/v1/models", headers=both[:1]).status_code == 200


def test_no_role_of_another_project_finds_anything(
    client: httpx.Client, tenants: dict[str, Tenant], record_property: Any
) -> None:
    """404 where the caller's own role allows the method, 403 where it does not; and ids of theirs in no answer."""
    ours, theirs = tenants["ours"], tenants["theirs"]
    for method, path in ROUTES:  # what is kept of answers must not be given to others
        if method == "GET":
            call(client, method, path, theirs, theirs.auth(Role.ADMIN))
    leaks, walked = [], 0
    for (method, path), role in product(ROUTES, Role):
        answer = call(client, method, path, theirs, ours.auth(role))
        walked += 1
        named = {value for value in theirs.ids.values() if value in f"{answer.request.url}{answer.request.content!r}"}
        shown = {value for value in theirs.ids.values() if value in answer.text} - named - {"report.json"}
        if shown or answer.status_code not in expected(method, path, role):
            leaks.append((method, path, role, answer.status_code, answer.text))
    record_property("endpoints × roles of another project, leaks", (walked, len(leaks)))
    assert leaks == []


def test_what_is_not_there_and_what_is_theirs_are_told_alike(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    """The same words, and the same statements to the database: neither the answer nor its time tells of a row."""
    ours, theirs = tenants["ours"], tenants["theirs"]
    nowhere = Tenant({}, {name: value[:-8] + "0" * 8 if "_" in value else value for name, value in theirs.ids.items()})
    noted_use(client, ours, Role.ADMIN)
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    services = client.app.state.services  # type: ignore[attr-defined]
    event.listen(services.engine, "before_cursor_execute", note)
    for method, path in ROUTES:
        if "{" not in path:
            continue
        seen = []
        for of in (theirs, nowhere):
            statements.clear()
            answer = call(client, method, path, of, ours.auth(Role.ADMIN))
            words = answer.text.replace(answer.headers["X-Request-ID"], "")
            for value in of.ids.values():
                words = words.replace(value, "")
            seen.append((answer.status_code, words, [*statements]))
        assert seen[0] == seen[1], (method, path)


def test_a_role_may_do_what_it_may_in_its_own_project(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    ours = tenants["ours"]
    for (method, path), role in product(ROUTES, Role):
        if method == "DELETE" or path.endswith("rotate"):
            continue
        answer = call(client, method, path, ours, ours.auth(role))
        assert (answer.status_code == 403) == (not role.includes(needed(method, path))), (method, path, role)
        assert answer.status_code != 401


@pytest.mark.parametrize("behind", ["%0A", "%0D", "%00", "%C2%85", "/%0A", "%0A%0A", "%0Ax", "%20", "%2F", ";x", "%3F"])
def test_no_way_of_writing_an_address_passes_its_role(
    client: httpx.Client, tenants: dict[str, Tenant], behind: str
) -> None:
    """Every address with something behind it, which a router and a check of roles may read in two ways."""
    ours = tenants["ours"]
    for method, path in ROUTES:
        written = re.sub(r"{(\w+)(:path)?}", lambda match: ours.ids[match[1]], path) + behind
        body = BODIES.get(path, {}) if method == "POST" else None
        answer = client.request(method, written, json=body, headers=ours.auth(Role.READER))
        assert answer.status_code in (403, 404), (method, written)


@pytest.mark.parametrize("word", ["bearer", "BEARER", "Bearer "])
def test_the_word_before_a_key_may_be_written_as_in_any_request(
    client: httpx.Client, tenants: dict[str, Tenant], word: str
) -> None:
    secret = tenants["ours"].secrets[Role.READER]
    assert client.get("/v1/models", headers={"Authorization": f"{word} {secret}"}).status_code == 200


def test_lists_show_what_the_project_owns(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    for name, other in (("ours", "theirs"), ("theirs", "ours")):
        auth = tenants[name].auth(Role.ADMIN)
        for path, owned in (("/v1/models", "model_id"), ("/v1/jobs", "job_id"), ("/v1/keys", "key_id")):
            text = client.get(path, headers=auth).text
            assert tenants[name].ids[owned] in text
            assert tenants[other].ids[owned] not in text


def test_a_key_is_made_used_replaced_and_revoked(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    admin = tenants["ours"].auth(Role.ADMIN)
    made = client.post("/v1/keys", json={"name": "ci", "role": "submitter"}, headers=admin)
    assert made.status_code == 201
    body = made.json()
    auth = {"Authorization": f"Bearer {body['key']}"}
    assert client.get("/v1/jobs", headers=auth).status_code == 200
    assert client.post("/v1/keys", json={"name": "x", "role": "admin"}, headers=auth).status_code == 403
    new = client.post(f"/v1/keys/{body['id']}/rotate", json={}, headers=admin)
    assert client.get("/v1/jobs", headers=auth).status_code == 401
    auth = {"Authorization": f"Bearer {new.json()['key']}"}
    assert client.get("/v1/jobs", headers=auth).status_code == 200
    assert "key" not in client.get(f"/v1/keys/{new.json()['id']}", headers=admin).json()
    assert client.delete(f"/v1/keys/{new.json()['id']}", headers=admin).status_code == 204
    assert client.get("/v1/jobs", headers=auth).status_code == 401


def test_the_last_use_of_a_key_is_kept(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    noted_use(client, tenants["ours"], Role.READER)


def test_each_change_has_one_line_in_the_audit_trail(
    client: httpx.Client, tenants: dict[str, Tenant], sessions: sessionmaker[Session]
) -> None:
    admin = tenants["ours"].auth(Role.ADMIN)
    listed = client.get("/v1/audit", headers=admin).json()["items"]
    with sessions() as session:
        before = session.scalars(select(AuditEntry.seq)).all()
    model = tenants["ours"].ids["model_id"]
    job = client.post("/v1/jobs", json={**BODIES["/v1/jobs"], "model": model}, headers=admin).json()
    client.post(f"/v1/jobs/{job['id']}/cancel", headers=admin)
    client.post(f"/v1/jobs/{job['id']}/cancel", headers=admin)
    client.get("/v1/jobs", headers=admin)
    client.delete(f"/v1/keys/{tenants['theirs'].ids['key_id']}", headers=admin)
    entries = client.get("/v1/audit", headers=admin).json()["items"]
    new = [(entry["action"], entry["target"]) for entry in entries if entry["seq"] not in before]
    assert new == [("quantize.cancelled", job["id"]), ("quantize.submitted", job["id"])]
    assert len(entries) == len(listed) + 2
    assert {entry["request_id"] is None for entry in entries[:2]} == {False}


def test_one_key_of_two_projects_makes_two_jobs(client: httpx.Client, tenants: dict[str, Tenant]) -> None:
    jobs = set()
    for one in tenants.values():
        headers = {**one.auth(Role.SUBMITTER), "Idempotency-Key": "k"}
        asked = {**BODIES["/v1/jobs"], "model": one.ids["model_id"]}
        jobs |= {client.post("/v1/jobs", json=asked, headers=headers).json()["id"] for _ in range(2)}
    assert len(jobs) == 2


def test_a_token_of_the_identity_provider_is_as_good_as_a_key(
    served: httpx.Client, settings: Settings, tenants: dict[str, Tenant]
) -> None:
    with identity_provider() as idp:
        services = create_services(settings.model_copy(update={"oidc_issuer": idp.issuer, "oidc_audience": AUDIENCE}))
        served.app.state.services = services  # type: ignore[attr-defined]

        def status(method: str, path: str, **claims: Any) -> int:
            headers = {"Authorization": f"Bearer {idp.token(**claims)}"}
            return call(served, method, path, tenants["theirs"], headers).status_code

        assert status("GET", "/v1/models") == 200
        assert status("POST", "/v1/keys") == 403
        assert status("GET", "/v1/models/{model_id}") == 404
        assert status("GET", "/v1/models/{model_id}", zeropoint_project="theirs") == 200
        assert status("GET", "/v1/models", zeropoint_project="nobodys") == 403
        assert status("GET", "/v1/models", aud="x") == 401
        services.engine.dispose()
        services.celery.close()


def test_without_accounts_everyone_is_an_admin_of_the_default_project(
    served: httpx.Client, settings: Settings, tenants: dict[str, Tenant]
) -> None:
    services = create_services(settings.model_copy(update={"auth": "off"}))
    served.app.state.services = services  # type: ignore[attr-defined]
    assert served.get("/v1/models").json()["items"] == []
    assert served.get("/v1/keys").json()["items"] == []
    assert served.get(f"/v1/jobs/{tenants['ours'].ids['job_id']}").status_code == 404
    services.engine.dispose()
    services.celery.close()
