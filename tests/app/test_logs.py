"""Log lines: one object each with the ids of what is worked on, or text in which no message makes a second line."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import httpx
import pytest

from app import logs
from app.logs import JsonLines, TextLines
from tests.factories import safetensors

log = logging.getLogger("app.test")


class Lines(logging.StreamHandler[io.StringIO]):
    """Keeps what was logged, in one of the two forms."""

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__(io.StringIO())
        self.setFormatter(form)

    def __iter__(self) -> Iterator[Any]:
        for line in self.stream.getvalue().splitlines():
            yield json.loads(line) if isinstance(self.formatter, JsonLines) else line


@pytest.fixture(params=[JsonLines, TextLines])
def lines(request: pytest.FixtureRequest) -> Iterator[Lines]:
    handler, ours = Lines(request.param()), logging.getLogger("app")  # the tests' own client logs too
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield handler
    ours.removeHandler(handler)
    ours.setLevel(logging.NOTSET)


json_lines = pytest.mark.parametrize("lines", [JsonLines], indirect=True)
text_lines = pytest.mark.parametrize("lines", [TextLines], indirect=True)


@json_lines
def test_a_line_has_the_ids_of_what_is_worked_on_in_every_thread_of_it(lines: Lines) -> None:
    with logs.about(request_id="req_1", owner=""):
        logs.also(job_id="job_1")
        thread = threading.Thread(target=copy_context().run, args=(lambda: log.info("inside"),))
        thread.start()
        thread.join()
        log.warning("%s", "here", extra=logs.fields(seconds=0.5))
    log.info("outside")
    inside, here, outside = lines
    assert inside["request_id"] == "req_1"
    assert inside["job_id"] == "job_1"
    assert "owner" not in inside
    assert (here["level"], here["message"], here["seconds"]) == ("WARNING", "here", 0.5)
    assert here["time"].endswith("Z")
    assert "request_id" not in outside


@json_lines
def test_a_traceback_is_a_part_of_its_line(lines: Lines) -> None:
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        log.exception("failed")
    (line,) = lines
    assert "Traceback" in line["error"]
    assert len(line["error"]) < 20_000


@text_lines
def test_a_message_can_not_look_like_another_line(lines: Lines) -> None:
    log.info("one\n2026-01-01T00:00:00.000Z INFO app two\x1b[2J", extra=logs.fields(name="a b\nc"))
    (line,) = lines
    assert r"one\n2026" in line
    assert "\x1b" not in line
    assert line.endswith(r'name="a b\nc"')


@json_lines
def test_a_request_is_one_line_with_its_ids(client: httpx.Client, lines: Lines, model_id: str) -> None:
    wish = {"model": model_id, "preset": "int8-weight-only", "owner": "vision"}
    headers = {"X-Request-ID": "mine", "Idempotency-Key": "secret-key"}
    client.post("/v1/jobs?x=secret-query", json=wish, headers=headers)
    job = client.post("/v1/jobs", json=wish, headers=headers).json()
    client.get(f"/v1/jobs/{job['id']}")
    client.get("/healthz")
    told = [line for line in lines if line["message"] == "request"]
    submitted, read = told[-2:]
    assert (submitted["method"], submitted["path"], submitted["status"]) == ("POST", "/v1/jobs", 202)
    assert (submitted["request_id"], submitted["job_id"], submitted["owner"]) == ("mine", job["id"], "vision")
    assert submitted["seconds"] >= 0
    assert (read["job_id"], read["status"]) == (job["id"], 200)
    assert job["request_id"] == "mine"
    assert "secret" not in str(list(lines))


@json_lines
def test_nothing_of_an_upload_is_logged(client: httpx.Client, lines: Lines) -> None:
    client.post("/v1/datasets?name=secret-name", content=safetensors(secret=("F32", [4, 3])))
    client.post("/v1/models", content=b"secret")
    assert "secret" not in str(list(lines))


@pytest.mark.parametrize(("form", "expected"), [("auto", JsonLines), ("json", JsonLines), ("text", TextLines)])
def test_the_form_follows_the_setting_and_the_terminal(form: logs.Format, expected: type[logging.Formatter]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("WARNING", form, io.StringIO())
        assert type(root.handlers[0].formatter) is expected
        assert root.level == logging.WARNING
    finally:
        root.handlers[:] = before
        root.setLevel(level)
