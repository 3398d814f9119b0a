"""Take one architecture the whole way over HTTP: upload, job, report, artifacts."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from scripts.coverage.architecture import Architecture
from tests.service.running import Running
from zeropoint.schema.presets import PRESETS

PRESET_NAMES = ("int8-static", "int8")
NO_ONNX = "onnx_unsupported"
FULL: Sequence[dict[str, Any]] = ({"formats": ["safetensors", "pt2", "onnx"]}, {"formats": ["safetensors", "pt2"]})
SHORT: Sequence[dict[str, Any]] = (
    {"formats": ["safetensors", "pt2"], "sensitivity": False, "validation": {"runtimes": "none"}},
)
KERNEL_SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """What became of an architecture. Shares are of the whole model, 0 to 1; `db` is the SQNR by preset.

    `refused`: code and words of a refusal or failure. All but `db` is the last preset's.
    """

    name: str
    refused: str = ""
    share: float = 0.0
    macs: float = 0.0
    db: Mapping[str, float | None] = field(default_factory=dict)
    layers: int = 0
    compiled: int | None = None
    onnx: int | None = None
    verdict: str = ""
    reasons: str = ""


class Refused(Exception):
    """The service refused an upload, or the job failed."""


def attempt(
    running: Running,
    name: str,
    architecture: Architecture,
    presets: Sequence[str] = PRESET_NAMES,
    *,
    kernels: bool = False,
) -> Outcome:
    """Upload, quantize with each preset, and read what came out. `kernels`: also count integer kernels."""
    try:
        model = _uploaded(running, "models", name, architecture.saved())
        dataset = _uploaded(running, "datasets", name, save(architecture.dataset()))
        jobs = {preset: _done(running, model, dataset, preset, full=preset == presets[-1]) for preset in presets}
    except Refused as refusal:
        return Outcome(name, refused=str(refusal))
    reports = {preset: _json(running, f"/v1/jobs/{job}/report") for preset, job in jobs.items()}
    job, report = jobs[presets[-1]], reports[presets[-1]]
    compiled, onnx = _kernels(running, job, architecture) if kernels else (None, None)
    summary = report["summary"]
    return Outcome(
        name,
        share=1 - summary["weights_in_float"],
        macs=1 - summary["macs_in_float"],
        db={preset: done["summary"]["sqnr_db"] for preset, done in reports.items()},
        layers=summary["layers_quantized"],
        compiled=compiled,
        onnx=onnx,
        verdict=report["verdict"],
        reasons=_reasons(report),
    )


def _uploaded(running: Running, kind: str, name: str, content: bytes) -> str:
    """Upload a file. Raises Refused."""
    answer = running.client.post(f"/v1/{kind}?name={name}", content=content)
    if answer.status_code != 201:
        raise Refused(_problem(answer.json()))
    identity: str = answer.json()["id"]
    return identity


def _done(running: Running, model: str, dataset: str, preset: str, *, full: bool) -> str:
    """Return the id of a job that succeeded; a full one has an ONNX file if torch can write it. Raises Refused."""
    recipe = PRESETS[preset].recipe.model_dump(mode="json")
    for more in FULL if full else SHORT:
        wish = {"model": model, "dataset": dataset, "recipe": recipe | more}
        answer = running.client.post("/v1/jobs", json=wish)
        if answer.status_code != 202:
            raise Refused(_problem(answer.json()))
        identity: str = answer.json()["id"]
        job = running.ended(identity)
        if job["state"] == "succeeded":
            return identity
        if job["error"]["code"] != NO_ONNX:
            break
    raise Refused(_problem(job["error"]))


def _problem(problem: Mapping[str, Any]) -> str:
    return f"`{problem['code']}`: {problem['detail']} {problem['remedy']}"


def _json(running: Running, path: str) -> Any:
    return running.client.get(path).raise_for_status().json()


def _kernels(running: Running, job: str, architecture: Architecture) -> tuple[int | None, int | None]:
    """Return how many layers run on integers when compiled, and in onnxruntime; None where there is no such file."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.pt2", "model.onnx"):
            answer = running.client.get(f"/v1/jobs/{job}/artifacts/{name}")
            if answer.status_code == 200:
                (Path(folder) / name).write_bytes(answer.content)
        torch.save(architecture.arguments(architecture.rows), Path(folder) / "arguments.pt")
        command = [sys.executable, "-m", "scripts.coverage.kernels", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=KERNEL_SECONDS)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None, None
    compiled, onnx = json.loads(done.stdout.splitlines()[-1])
    return compiled, onnx


WORDS = {
    "type_skipped": "embeddings",
    "type_not_selected": "embeddings",
    "shared_weight_conflict": "shared weights",
    "unsupported": "weights of other operators",
}


def _reasons(report: Mapping[str, Any]) -> str:
    """Return why weights stay in float, from a hundredth of their bytes on, and which warnings there are."""
    shares: dict[str, float] = {}
    for part in report["summary"]["in_float"]:
        words = WORDS.get(part["reason"], part["reason"])
        shares[words] = shares.get(words, 0.0) + part["weights"]
    parts = [f"{words} {100 * share:.0f} %" for words, share in shares.items() if share >= 0.01]
    parts += [f"`{warning['code']}`" for warning in report["warnings"] if warning["level"] == "warning"]
    return ", ".join(parts)
