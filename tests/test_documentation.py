"""Every code block of the documents runs as it stands.

Python blocks of a page run in order in one namespace, shell blocks command by command against one service, JSON blocks
are parsed and validated where they are recipes or jobs. A block that can't run here has a comment in front of it,
`<!-- not run: the reason -->`, and is listed in NOT_RUN.
"""

import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from safetensors.torch import save_file

from tests.networks import Residual, convolutional
from tests.servers import ROOT
from tests.service.processes import eventually
from tests.service.running import Running
from tests.sources import Files
from zeropoint.schema.job import JobSpec
from zeropoint.schema.recipe import Recipe

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^ *<!-- not run: *(?P<reason>[^\n]*?) *-->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
CREATES = re.compile(r"/v1/(jobs|sweeps)[\"']?(\s|$)")
ID = {"models": "mdl", "datasets": "dts", "jobs": "job", "sweeps": "swp"}

NOT_RUN = {
    "README.md": ["sets up an environment and takes minutes; CI runs it by itself"],
    "CONTRIBUTING.md": ["the tests would run themselves"],
    "docs/how-to/accounts.md": [
        "the page has no service; tests/app/test_accounts.py does the same",
        "needs a service with accounts; tests/app/test_accounts.py does the same",
    ],
    "docs/how-to/back-up.md": ["needs a service; tests/app/test_administration.py does the same"],
    "docs/how-to/deployment.md": ["needs PostgreSQL and Redis servers", "needs a bucket"],
    "docs/how-to/install.md": ["needs a package index, and a second environment"],
    "docs/how-to/kubernetes.md": ["needs a cluster", "needs a cluster"],
    "docs/how-to/mlflow.md": [
        "the page has no MLflow server; tests/worker/mlflow_sender has one",
        "the page has no MLflow server",
    ],
    "docs/how-to/operate.md": ["needs a Prometheus server"],
    "docs/tutorials/first-job.md": ["the test of this page starts the same service by itself"],
    "docs/tutorials/hugging-face.md": ["needs the Hugging Face hub", "needs sentence-transformers"],
    "docs/tutorials/run-for-a-team.md": ["needs docker", "needs PostgreSQL and Redis servers"],
}

ELSEWHERE = {"docs/reference/artifacts.md"}
"""Pages whose blocks tests/test_recipes.py runs, in a process that has torch and none of our packages."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code without the indent, and why it is not run, if it is not."""

    language: str
    code: str
    line: int
    reason: str | None


@dataclass
class Reader:
    """Someone who follows a page: a folder, a service, and the ids that the service gave last."""

    page: str
    folder: Path
    running: Running
    namespace: dict[str, Any]
    ids: dict[str, str] = field(default_factory=dict)


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    text = page.read_text()
    return [
        Block(
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE),
            text.count("\n", 0, match.start("code")) + 1,
            match["reason"],
        )
        for match in BLOCK.finditer(text)
    ]


def commands(code: str) -> Iterator[str]:
    """Yield the commands of a shell block, each with the lines that it goes on over."""
    pending = ""
    for line in code.splitlines(keepends=True):
        pending += line
        complete = subprocess.run(["bash", "-n", "-c", pending], check=False, capture_output=True).returncode == 0
        if complete and not line.rstrip().endswith(("\\", "|")):
            if pending.strip():
                yield pending
            pending = ""
    assert not pending, f"a shell block ends in the middle of a command: {pending}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the files that pages begin with: a program, samples for it, and weights alone."""
    folder = tmp_path_factory.mktemp("prepared")
    torch.manual_seed(0)
    module, batch = Residual().eval(), torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(module, (torch.rand(2, 1, 8, 8),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, folder / "model.pt2")
    save_file({"images": torch.rand(64, 1, 8, 8)}, folder / "samples.safetensors")
    save_file(dict(module.state_dict()), folder / "weights.safetensors")
    (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    return folder


@pytest.fixture(scope="module")
def offered(file_server: Files, prepared: Path) -> Files:
    """Offer these files for imports too."""
    for file in prepared.iterdir():
        file_server.put(f"/{file.name}", file.read_bytes())
    return file_server


@pytest.fixture
def reader(
    request: pytest.FixtureRequest,
    running: Running,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Reader]:
    page: Path = request.param
    folder = shutil.copytree(prepared, tmp_path / "reader")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZEROPOINT", str(running.client.base_url).rstrip("/"))
    monkeypatch.setenv("SOURCE", request.getfixturevalue("offered").address)
    # An int8 kernel takes half a minute to compile: tests/test_recipes.py compiles for real, and compares.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    if "conversion_mapping" in page.read_text():  # a page registers one, for the whole process
        registry = importlib.import_module("transformers.conversion_mapping")
        monkeypatch.setattr(registry, "_checkpoint_conversion_mapping_cache", None)
        monkeypatch.setattr(registry, "USER_REGISTERED_MAPPINGS", set())
    name = str(page.relative_to(ROOT))
    with torch._inductor.config.patch(freezing=False):  # a page sets it
        yield Reader(name, folder, running, STARTS.get(name, dict)() | {"__name__": "__main__"})


def _readme() -> dict[str, Any]:
    module = convolutional().module
    return {"model": module, "sample": torch.rand(1, 1, 8, 8), "samples": torch.rand(64, 1, 8, 8)}


STARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "README.md": _readme,
}
"""What a page says that its reader has: names for its Python blocks."""


def pages_that_run() -> list[Path]:
    """Return the pages with a block to run."""
    return [
        page
        for page in PAGES
        if str(page.relative_to(ROOT)) not in ELSEWHERE
        and any(block.language in {"python", "sh"} and not block.reason for block in blocks(page))
    ]


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize("reader", pages_that_run(), ids=lambda page: str(page.relative_to(ROOT)), indirect=True)
def test_a_page_runs_as_it_stands(reader: Reader) -> None:
    todo = [block for block in blocks(ROOT / reader.page) if block.reason is None]
    shell = [(block, command) for block in todo if block.language == "sh" for command in commands(block.code)]
    for block in todo:
        if block.language == "python":
            _run_python(reader, block)
        elif block.language == "sh":
            for _ in commands(block.code):
                (_, command), *shell = shell
                _run_command(reader, command, [later for _, later in shell])


def _run_python(reader: Reader, block: Block) -> None:
    code = "\n" * (block.line - 1) + block.code  # a traceback then tells the line of the page
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages say of themselves
        exec(compile(code, reader.page, "exec"), reader.namespace)


def _run_command(reader: Reader, command: str, later: list[str]) -> None:
    address = str(reader.running.client.base_url).rstrip("/")
    # The tests' service has a port for its metrics, and the reader's does not.
    metrics = f"http://127.0.0.1:{reader.running.metrics_port or 0}/metrics"
    script = re.sub(r"localhost:8000/metrics|\$ZEROPOINT/metrics", metrics, command)
    script = re.sub(r"(http://)?(127\.0\.0\.1|localhost):8000", address, script)
    for prefix, identity in reader.ids.items():
        script = script.replace(f"{prefix}_…", identity)
    assert not re.search(r"(mdl|dts|job|swp|upl)_…", re.sub(r"#.*", "", script)), f"an id that nothing gave: {command}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(reader.folder), "PYTHONPATH": str(ROOT), "ZEROPOINT": address}
    environment["SOURCE"] = os.environ["SOURCE"]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        check=False,
        cwd=reader.folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    if answered := re.match(r'\{"id":\s*"((mdl|dts|job|swp|whk|upl)_\w+)"', done.stdout):
        reader.ids[answered[2]] = answered[1]
        if (kind := CREATES.search(command)) and "-d" in command.replace("--json", "-d"):
            _await(reader, kind[1], answered[1], later)


def _await(reader: Reader, kind: str, identity: str, later: list[str]) -> None:
    """Wait for a job or sweep that the page looks at; cancel one that it does not, which is enough to have run it."""
    placeholder = f"{ID[kind]}_…"
    for command in later:
        if placeholder in re.sub(r"#.*", "", command):
            ended = reader.running.ended(identity) if kind == "jobs" else _sweep_ended(reader.running, identity)
            assert ended["state"] == "succeeded", ended
            return
        if (other := CREATES.search(command)) and other[1] == kind:
            break
    assert reader.running.client.post(f"/v1/{kind}/{identity}/cancel").status_code in {202, 409}


def _sweep_ended(running: Running, identity: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        sweep: dict[str, Any] = running.client.get(f"/v1/sweeps/{identity}").raise_for_status().json()
        return sweep if sweep["state"] in {"succeeded", "failed", "cancelled"} else None

    return eventually(look)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_json_is_valid_and_so_are_recipes_and_jobs(page: Path) -> None:
    for block in blocks(page):
        if block.language != "json":
            continue
        document = json.loads(block.code)
        if "model" in document:
            JobSpec.model_validate(document)
        elif document.keys() & Recipe.model_fields.keys():
            Recipe.model_validate(document)


def test_a_block_has_a_language_that_a_test_knows_or_is_a_drawing() -> None:
    known = {"python", "sh", "json", ""}
    assert not {(str(page), block.line) for page in PAGES for block in blocks(page) if block.language not in known}


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    marked = {
        str(page.relative_to(ROOT)): [block.reason for block in blocks(page) if block.reason is not None]
        for page in PAGES
    }
    assert {page: reasons for page, reasons in marked.items() if reasons} == NOT_RUN
    assert all(reason for reasons in marked.values() for reason in reasons)


def test_pages_that_are_run_elsewhere_are() -> None:
    source = (ROOT / "tests" / "test_recipes.py").read_text()
    assert all(
        page in source and len([b for b in blocks(ROOT / page) if b.language == "python"]) == 2 for page in ELSEWHERE
    )


def test_every_marker_stands_in_front_of_a_block() -> None:
    for page in PAGES:
        markers = page.read_text().count("<!-- not run")
        assert markers == len([block for block in blocks(page) if block.reason is not None]), page
