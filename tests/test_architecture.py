"""The arrows, the allow-lists and the sizes that CONTRIBUTING.md promises."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("app", "worker", "sandbox", "zeropoint")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_the_arrows_point_down() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def third_party(package: str) -> set[str]:
    """What the modules of a package import, those of extras left out."""
    graph = grimp.build_graph(package, include_external_packages=True)
    outside = {module for module in graph.modules if graph.is_module_squashed(module)}
    imported = (graph.find_modules_directly_imported_by(module) for module in graph.modules - outside - EXTRAS)
    return outside & set().union(*imported) - set(sys.stdlib_module_names) - set(PACKAGES)


EXTRAS = {"zeropoint.formats.onnx.export", "zeropoint.formats.onnx.layers"}
"""Modules that are imported inside a function, when the extra that they need is installed."""


def test_the_library_needs_four_packages_alone() -> None:
    assert third_party("zeropoint") == {"torch", "safetensors", "pydantic", "pydantic_core", "tqdm"}


def test_the_child_program_loads_without_extras() -> None:
    modules = "zeropoint.entrypoints.job, zeropoint.loading.loadback, zeropoint.entrypoints.api"
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert not (EXTRAS | {"onnx", "onnxruntime", "onnxscript"}) & set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "schema.recipe",
        "schema.presets",
        "schema.failures",
        "schema.report",
        "schema.job",
        "errors",
        "schema.layer_names",
    ],
)
def test_the_vocabulary_loads_without_torch(module: str) -> None:
    code = f"import zeropoint.{module}, sys; assert not {{'torch', 'numpy', 'safetensors'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_package_itself_loads_without_torch_and_brings_it_for_its_face() -> None:
    code = (
        "import sys, zeropoint.schema.recipe; assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules);"
        "from zeropoint import quantize, load; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def lengths(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert {name: length for name, length in lengths(ast.parse(text)) if length > 60} == {}


STARTED_BY_NAME = {
    ("app/cli/doctor.py", "worker.self_test"),
    ("app/cli/commands.py", "app.api.server"),
    ("app/cli/commands.py", "worker"),
    ("app/cli/commands.py", "zeropoint"),
    ("sandbox/policy.py", "sandbox.child"),  # which becomes a program of sandbox.programs
    ("sandbox/policy.py", "sandbox.template"),  # which forks processes that do
    ("zeropoint/loading/compiled.py", "zeropoint"),
    ("zeropoint/loading/loadback.py", "zeropoint"),
    ("worker/mlflow_sender/process.py", "PROGRAM"),
}


def started_by_name(path: Path) -> Iterator[str]:
    """What follows "-m" in a command line that a module builds."""
    for node in ast.walk(ast.parse(path.read_text())):
        words = node.elts if isinstance(node, ast.List | ast.Tuple) else []
        for word, name in pairwise(words):
            if isinstance(word, ast.Constant) and word.value == "-m":
                yield ast.literal_eval(name) if isinstance(name, ast.Constant) else ast.unparse(name).partition(".")[0]


def test_a_program_is_started_by_name_in_few_places_alone() -> None:
    found = {(str(path.relative_to(ROOT)), name) for path in MODULES for name in started_by_name(path)}
    assert found == STARTED_BY_NAME


CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "func.now"}


def test_rows_get_their_times_by_the_databases_clock_alone() -> None:
    """No other clock is read in the service: `app.database.clock`, for one, reads this machine's on SQLite.

    A trace is no row: its receiver compares it with other machines' as they are.
    """
    ours = [path for path in MODULES if path.relative_to(ROOT).parts[0] in {"app", "worker"}]
    found = {str(path.relative_to(ROOT)): sorted(CLOCKS & attributes(path)) for path in ours}
    assert {path: clocks for path, clocks in found.items() if clocks} == {
        "app/cli/doctor.py": ["datetime.now"],  # compared with the database's
        "app/database.py": ["datetime.now"],
        "app/traces.py": ["time.time_ns"],
    }


def attributes(path: Path) -> set[str]:
    """All that is read as a.b in a module."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def commits(path: Path) -> bool:
    """Whether a module commits a session (`session.commit()`); a blob's writer commits too, and is no transaction."""
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return any(
        isinstance(call, ast.Attribute) and call.attr == "commit" and not ast.unparse(call.value).endswith("writer")
        for call in calls
    )


def test_only_use_cases_commit() -> None:
    committing = {str(path.relative_to(ROOT)) for path in MODULES if commits(path)}
    use_cases = {
        f"app/jobs/{name}.py"
        for name in ("service", "claims", "endings", "mlflow_runs", "publishing", "reconciler", "retention", "workers")
    }
    accounts = {"app/accounts/keys.py", "app/accounts/projects.py", "app/accounts/quotas.py"}
    webhooks = {"app/webhooks/deliveries.py", "app/webhooks/service.py"}
    uploads = {"app/uploads/checking.py", "app/uploads/service.py"}
    assert committing == use_cases | accounts | webhooks | uploads | {"app/catalog/service.py"}


def test_no_folder_is_a_junk_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
    assert not [path for path in MODULES if drawers & {path.stem, *path.parent.relative_to(ROOT).parts}]
