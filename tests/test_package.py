"""The package as users install it, started in a folder whose own files have the names of our packages."""

import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import zeropoint
from tests.networks import convolutional
from tests.servers import ROOT
from tests.service.running import service

THEIRS = ("app", "worker", "sandbox", "quantization", "zeropoint", "alembic", "celeryconfig", "tests")
"""What a user may have called a file or a folder."""

BLOCKED = """
import sys
for name in ("alembic", "celery", "fastapi", "pydantic_settings", "sqlalchemy", "uvicorn"):
    sys.modules[name] = None
from app.cli import main
"""

NOTEBOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import zeropoint
assert zeropoint.__version__ == "9.9.9", zeropoint.__file__
program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), (torch.randn(8, 4),))
report = zeropoint.quantize(program, [torch.randn(8, 4) for _ in range(8)], progress=False).report
assert report.verdict == "passed", report.checks
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder; what it needs is in this environment."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def environment(site: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}
    return kept | {"PYTHONPATH": str(site)}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder of the user's, where each of these names is a module that ends whoever imports it."""
    folder = tmp_path / "elsewhere"
    for name in THEIRS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the user\\'s own {name} was imported')")
        shutil.copy(folder / name / "__init__.py", folder / f"{name}.py")
    yield folder
    assert not list(folder.rglob("__pycache__")), "something of the user's was imported"


def zeropoint_command(site: Path) -> list[str]:
    return [sys.executable, str(site / "bin" / "zeropoint")]


def test_the_wheel_carries_migrations_and_the_list_of_operators_and_no_test(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    migrations = {path.name for path in (ROOT / "alembic" / "versions").glob("*.py")}
    assert migrations == {Path(name).name for name in names if name.startswith("app/migrations/versions/")}
    assert {"app/migrations/env.py", "app/intake/program/operators.txt", "zeropoint/__main__.py"} <= set(names)
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"app", "worker", "sandbox", "zeropoint", f"zeropoint-{zeropoint.__version__}.dist-info"}


def test_the_command_line_says_its_version_anywhere(site: Path, environment: dict[str, str], elsewhere: Path) -> None:
    command = [*zeropoint_command(site), "--version"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == zeropoint.__version__


def test_an_installed_package_migrates_a_database(site: Path, environment: dict[str, str], elsewhere: Path) -> None:
    settings = {"ZEROPOINT_DATABASE_URL": f"sqlite:///{elsewhere}/zeropoint.db"}
    subprocess.run([*zeropoint_command(site), "migrate"], cwd=elsewhere, env=environment | settings, check=True)
    with sqlite3.connect(elsewhere / "zeropoint.db") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert {"models", "datasets", "jobs", "alembic_version"} <= tables


@pytest.mark.own_service
def test_a_job_is_done_where_the_user_has_files_of_our_names(
    site: Path, environment: dict[str, str], elsewhere: Path, tmp_path: Path
) -> None:
    program = convolutional().export(tmp_path / "program.pt2")
    samples = convolutional(40).save_dataset(tmp_path / "samples.safetensors")
    with service(tmp_path / "data", environment, command=zeropoint_command(site), folder=elsewhere) as running:
        job = running.ended(running.submit(program, samples, {}))
    assert job["state"] == "succeeded"
    assert job["verdict"] == "passed"


def test_a_program_of_the_library_runs_from_the_command_line(
    site: Path, environment: dict[str, str], elsewhere: Path
) -> None:
    command = [*zeropoint_command(site), "validate", str(elsewhere)]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "The folder has no model.safetensors." in done.stderr


@pytest.mark.parametrize("command", ["serve", "api", "worker", "migrate"])
def test_without_the_services_packages_a_command_says_what_to_install(command: str) -> None:
    code = f"{BLOCKED}sys.exit(main(['{command}']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install '.[service,embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_services_packages_the_library_is_there() -> None:
    code = f"{BLOCKED}from zeropoint import load, quantize\nmain(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == zeropoint.__version__


def test_a_checkout_on_the_path_of_a_notebook_is_what_its_second_process_runs(tmp_path: Path) -> None:
    checkout, mark = tmp_path / "checkout", tmp_path / "mark"
    shutil.copytree(ROOT / "zeropoint", checkout / "zeropoint")
    face, client = checkout / "zeropoint" / "__init__.py", checkout / "zeropoint" / "__main__.py"
    face.write_text(face.read_text().replace(f'__version__ = "{zeropoint.__version__}"', '__version__ = "9.9.9"'))
    client.write_text(f"open({str(mark)!r}, 'w').close()\n{client.read_text()}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", NOTEBOOK, str(checkout)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert mark.exists()
