"""The container files: linted, checked against their schema and against our own rules. No engine is needed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
TARGETS = ("api", "worker-cpu", "worker-cuda")
BIN = Path(sys.executable).parent


def stages() -> dict[str, list[tuple[str, str]]]:
    """Every stage of the Dockerfile with its instructions, those it inherits first."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: dict[str, list[tuple[str, str]]] = {}
    for instruction, rest in lines:
        if instruction == "FROM":
            base, _, name = rest.split()
            found[name] = list(found.get(base, []))
        found[name].append((instruction, rest))
    return found


def last(target: str, instruction: str) -> str:
    return dict(stages()[target])[instruction]


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = YAML(typ="safe").load(COMPOSE)["services"]
    return found


def requirements(*parts: str) -> list[str]:
    """What an image installs of these parts."""
    command = [sys.executable, str(ROOT / "docker" / "requirements.py"), str(ROOT / "pyproject.toml"), *parts]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")


def test_the_dockerfile_passes_hadolint() -> None:
    result = subprocess.run([BIN / "hadolint", "--no-color", DOCKERFILE], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_compose_file_fits_its_schema() -> None:
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_an_ordinary_user(target: str) -> None:
    user = last(target, "USER")
    assert int(user.split(":")[0]) >= 10000


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_how_to_ask_for_its_health(target: str) -> None:
    assert "CMD" in last(target, "HEALTHCHECK")


def test_base_images_are_pinned_by_tag() -> None:
    bases = [rest.split()[0] for found in stages().values() for instruction, rest in found if instruction == "FROM"]
    outside = {base for base in bases if base not in stages()}
    assert outside
    assert all(":" in base and not base.endswith(":latest") for base in outside)


def test_the_api_itself_needs_no_torch() -> None:
    (source,) = [rest for instruction, rest in stages()["api"] if instruction == "COPY" and "--from" in rest]
    origin = source.removeprefix("--from=").split()[0]
    installs = [rest for instruction, rest in stages()[origin] if instruction == "RUN" and "pip install" in rest]
    assert ["requirements.py pyproject.toml ${API_PARTS} >" in line for line in installs] == [True]
    (parts,) = [rest for instruction, rest in stages()[origin] if instruction == "ARG" and "API_PARTS" in rest]
    assert (
        parts == 'API_PARTS="service library transformers s3 traces"'
    )  # Hugging Face folders are taken unless asked not to
    needed = requirements("service")
    assert any(line.startswith("fastapi") for line in needed)
    assert not [line for line in needed if line.startswith(("torch", "numpy", "safetensors"))]
    assert any(line.startswith("torch") for line in requirements("library"))


def test_every_installation_is_bounded_by_the_lock() -> None:
    installs = [rest for found in stages().values() for _, rest in found if "pip install" in rest]
    assert all("--constraint requirements.lock" in line for line in installs)


def test_no_secret_is_written_into_an_image_or_the_compose_file() -> None:
    assert "PASSWORD=" not in DOCKERFILE.read_text()
    passwords = [
        line for line in COMPOSE.read_text().splitlines() if "PASSWORD" in line and not line.lstrip().startswith("#")
    ]
    assert passwords
    assert all("${POSTGRES_PASSWORD:?" in line or "${REDIS_PASSWORD:?" in line for line in passwords)


@pytest.mark.parametrize("name", services())
def test_a_service_is_locked_down(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "build" in service or service.get("user") or service["image"] == "zeropoint-api"


@pytest.mark.parametrize("name", services())
def test_a_service_has_limits_on_memory_and_processes(name: str) -> None:
    assert services()[name]["mem_limit"]
    assert services()[name]["pids_limit"] > 0


@pytest.mark.parametrize("name", ["api", "worker", "worker-cuda", "migrate"])
def test_settings_in_the_file_reach_a_container_and_its_own_places_stay(name: str) -> None:
    service = services()[name]
    assert service["env_file"] == [{"path": ".env", "required": False}]
    environment = service["environment"]
    assert environment["ZEROPOINT_STORAGE_URL"] == "file:///data/storage"
    assert environment["ZEROPOINT_DATABASE_URL"].startswith("postgresql://")
    if name.startswith("worker"):
        assert environment["ZEROPOINT_WORKER_DEVICE"] == ("cuda" if name == "worker-cuda" else "cpu")


def test_images_of_others_are_pinned_to_a_patch() -> None:
    images = [service["image"] for service in services().values() if ":" in service["image"]]
    assert images
    assert all(re.search(r":\d+\.\d+(\.\d+)?-bookworm$", image) for image in images)


def test_a_copy_of_the_example_gets_passwords_and_keeps_what_it_says(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".env.example", tmp_path / ".env")
    for _ in range(2):
        command = [
            "make",
            "--no-print-directory",
            "-f",
            str(ROOT / "Makefile"),
            "passwords",
            f"PYTHON={sys.executable}",
        ]
        subprocess.run(command, cwd=tmp_path, check=True)
    text = (tmp_path / ".env").read_text()
    assert text.startswith((ROOT / ".env.example").read_text())
    assert [
        len(re.findall(rf"^{name}=[0-9a-f]{{48}}$", text, re.M)) for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD")
    ] == [
        1,
        1,
    ]


@pytest.mark.parametrize("name", services())
def test_a_service_has_a_health_check_or_runs_once(name: str) -> None:
    service = services()[name]
    target = service.get("build", {}).get("target")
    assert service["restart"] == "no" or "test" in service.get("healthcheck", {}) or target in TARGETS


@pytest.mark.parametrize("name", ["api", "worker", "worker-cuda"])
def test_a_service_waits_for_the_schema_and_its_servers(name: str) -> None:
    conditions = {other: wait["condition"] for other, wait in services()[name]["depends_on"].items()}
    assert conditions == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "redis": "service_healthy",
    }


def test_only_the_api_is_reachable_and_only_from_this_host() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert list(published) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


def test_every_build_target_is_built_from_the_dockerfile() -> None:
    builds = [service["build"] for service in services().values() if "build" in service]
    assert {build["target"] for build in builds} == set(TARGETS)
    assert {build["dockerfile"] for build in builds} == {"docker/Dockerfile"}


def test_the_cuda_worker_starts_only_when_asked_for() -> None:
    assert services()["worker-cuda"]["profiles"] == ["cuda"]


def test_the_lock_names_no_place_and_no_build() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert "torch==2.13.0" in pinned
    assert all(line.count("==") == 1 and not set(line) & set("/+@ ") for line in pinned)
    assert not [line for line in pinned if line.startswith(("nvidia", "triton"))]
