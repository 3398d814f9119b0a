"""Why jobs fail: each code has a class, is documented with it, and is given by something that a job may meet."""

import re

from app.jobs.taxonomy import CLASSES, FailureClass, is_transient
from tests.servers import ROOT
from zeropoint.schema.failures import FAILURES

PAGE = ROOT / "docs" / "reference" / "errors.md"

PYTHON_ONLY = {
    # refusals of the library that no job can meet: it takes modules in memory, saved folders and Python keywords
    *("calibration_item_invalid", "dataset_empty", "float_module_required", "module_does_not_fit"),
    *("saved_model_invalid", "saved_model_missing", "preset_not_found", "unknown_schema_version"),
    *("model_format_unsupported", "unsupported_module", "unsupported_output"),
    *("plan_without_model", "target_not_met", "not_a_folder"),
}


def refusals() -> set[str]:
    """The code of every QuantizationError that the library raises."""
    kinds = (
        "InvalidModel|InvalidJob|InvalidSamples|InvalidProfile|InvalidRecipe|ModelFailed|Unsupported|ValidationFailed"
    )
    text = "".join(path.read_text() for path in (ROOT / "zeropoint").rglob("*.py"))
    return set(re.findall(rf'\b(?:{kinds})\(\s*"(\w+)"', text))


def deaths() -> set[str]:
    """The code of every Failure that is not a refusal."""
    reconciler = (ROOT / "app" / "jobs" / "reconciler.py").read_text()
    return {*FAILURES, *re.findall(r'\bcode="(\w+)"', reconciler)}


def test_every_code_has_a_class_and_every_class_has_a_code() -> None:
    assert set(CLASSES) == (refusals() - PYTHON_ONLY) | deaths()
    assert set(CLASSES.values()) == set(FailureClass)


def test_one_fault_has_one_code_in_the_library_and_over_http() -> None:
    answered = set(re.findall(r"^\| `(\w+)` \| \d", PAGE.read_text(), re.MULTILINE))
    assert {"preset_not_found", "model_format_unsupported"} <= answered & refusals()
    spelled: dict[frozenset[str], set[str]] = {}
    for code in answered | refusals() | deaths():
        spelled.setdefault(frozenset(code.split("_")) - {"unknown", "not", "found", "no", "such"}, set()).add(code)
    assert [codes for codes in spelled.values() if len(codes) > 1] == []


def test_what_no_job_can_meet_is_raised_all_the_same() -> None:
    assert refusals() >= PYTHON_ONLY


def test_every_code_is_documented_with_its_class() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| .+ \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert {code: kind for code, kind in rows if not kind.isdigit()} == CLASSES


def test_only_the_loss_of_what_carries_jobs_is_tried_again() -> None:
    assert {code for code in CLASSES if is_transient(code)} == {
        *("killed", "storage_full", "storage_unavailable", "worker_lost")
    }


def test_every_code_of_the_table_is_given_by_something() -> None:
    givers = ("worker/failures.py", "worker/supervisor.py", "worker/tasks.py", "zeropoint/entrypoints/failures.py")
    text = "".join((ROOT / giver).read_text() for giver in givers)
    assert {code for code in FAILURES if f'"{code}"' in text} == set(FAILURES)
