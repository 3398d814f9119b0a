"""The whole way in two minutes: train a small CNN, quantize it through the running service, check what comes back.

Starts `zeropoint serve` in a folder of its own, talks to it with curl, and leaves nothing running.
"""

import base64
import hashlib
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
FOLDER = Path("data/quickstart")
ARTIFACTS = ("model.safetensors", "model.pt2")
READY_SECONDS = 90
BAR_WIDTH = 30


class Failed(Exception):
    """The quickstart can't go on; the text says why."""


def main() -> int:
    began = time.monotonic()
    try:
        if not shutil.which("curl"):
            raise Failed("curl is needed to talk to the service.")
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        walk(FOLDER)
    except Failed as failed:
        print(f"\nFAILED: {failed}", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - began:.0f} s. Everything is in {FOLDER}; `make serve` starts a new service.")
    return 0


def walk(folder: Path) -> None:
    say("1. Train a small residual CNN on scikit-learn's digits and export it")
    run([sys.executable, str(EXAMPLES / "digits.py"), str(folder)])

    say("2. Start the service: API, worker, Redis, SQLite, one folder")
    with serving(folder / "service") as url:
        say("3. Upload the model and two datasets")
        model = curl("-X", "POST", "-T", f"{folder}/digits.pt2", f"{url}/v1/models?name=digits")
        calibration = curl(
            "-X", "POST", "-T", f"{folder}/calibration.safetensors", f"{url}/v1/datasets?name=calibration"
        )
        evaluation = curl("-X", "POST", "-T", f"{folder}/evaluation.safetensors", f"{url}/v1/datasets?name=evaluation")

        say("4. Submit the job")
        wanted = {"model": model["id"], "dataset": calibration["id"], "evaluation_dataset": evaluation["id"]}
        body = json.dumps(wanted | {"preset": "int8-static"})
        job = curl("-X", "POST", "-H", "Content-Type: application/json", "-d", body, f"{url}/v1/jobs")
        job_url = f"{url}/v1/jobs/{job['id']}"
        follow(job_url)

        say("5. Read the report")
        report = curl(f"{job_url}/report")
        print_report(report)

        say("6. Download and verify the artifacts")
        listed = {artifact["name"]: artifact for artifact in curl(f"{job_url}/artifacts")}
        for name in ARTIFACTS:
            download(f"{job_url}/artifacts/{name}", folder / name, listed[name])

    say("7. Run both programs with plain torch, without the service")
    programs = [f"{folder}/digits.pt2", f"{folder}/model.pt2"]
    run([sys.executable, str(EXAMPLES / "run_program.py"), f"{folder}/test.pt", *programs])


@contextmanager
def serving(data: Path) -> Iterator[str]:
    """The service on a free loopback port; afterwards none of its processes may be left."""
    port = free_port()
    command = [str(BIN / "zeropoint"), "serve", "--port", str(port), "--data", str(data)]
    print(f"$ {shlex.join(['zeropoint', *command[1:]])} &", flush=True)
    output = data.parent / "serve.log"
    with output.open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        await_ready(service, f"http://127.0.0.1:{port}/readyz", output)
        yield f"http://127.0.0.1:{port}"
    finally:
        processes = descendants(service.pid)
        service.send_signal(signal.SIGINT)
        service.wait()
        left = [pid for pid in processes if Path(f"/proc/{pid}").exists()]
        if left:
            raise Failed(f"processes {left} are still running after the service was stopped.")
        print(f"\nThe service is stopped: its {len(processes)} processes are gone.")


def await_ready(service: subprocess.Popen[bytes], url: str, output: Path) -> None:
    print(f"$ curl {url}", end="", flush=True)
    deadline = time.monotonic() + READY_SECONDS
    while subprocess.run(["curl", "-fsS", "-o", "/dev/null", url], check=False, stderr=subprocess.DEVNULL).returncode:
        if service.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"the service did not start:\n{output.read_text()}")
        print(".", end="", flush=True)
        time.sleep(0.3)
    print(" ready")


def follow(job_url: str) -> None:
    """Ask for the job until it has ended, with a line of progress that moves."""
    print(f"$ curl {job_url}   # until it has ended")
    shown = ""
    while True:
        job = curl(job_url, quiet=True)
        if job["state"] in ("succeeded", "failed", "cancelled"):
            break
        progress = job["progress"] or {}
        fraction = progress.get("fraction") or 0.0
        bar = "#" * round(fraction * BAR_WIDTH)
        counts = f"{progress.get('done') or 0}/{progress.get('total') or 0}"
        line = f"\r  {job['phase'] or job['state']:12} [{bar:{BAR_WIDTH}}] {counts:>9}"
        print(line if line != shown else "", end="", flush=True)
        shown = line
        time.sleep(0.3)
    print(f"\r  {job['state']:12} verdict {job['verdict']}{'':{BAR_WIDTH}}")
    if job["state"] != "succeeded":
        raise Failed(f"the job {job['state']}: {json.dumps(job['error'], indent=2)}")


def print_report(report: dict[str, Any]) -> None:
    print(f"\n  {'layer':18} {'type':8} {'weight dB':>9} {'output dB':>9} {'bytes before':>12} {'after':>9}")
    for layer in report["layers"]:
        weight, output = decibels(layer["weight_sqnr_db"]), decibels(layer["output_sqnr_db"])
        sizes = f"{layer['original_bytes']:>12,} {layer['quantized_bytes']:>9,}"
        print(f"  {layer['name']:18} {layer['type']:8} {weight:>9} {output:>9} {sizes}")
    summary = report["summary"]
    print(
        f"\n  verdict {report['verdict']}: SQNR {decibels(summary['sqnr_db'])} dB over the whole model, "
        f"{summary['original_bytes']:,} -> {summary['quantized_bytes']:,} bytes "
        f"({summary['compression_ratio']:.2f} times smaller), {summary['layers_quantized']} layers quantized"
    )


def decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def download(url: str, path: Path, listed: dict[str, Any]) -> None:
    """Fetch one artifact and compare it with the list and with the digest that came with it."""
    headers = path.with_suffix(".headers")
    run(["curl", "-sS", "-D", str(headers), "-o", str(path), url])
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    announced = f"repr-digest: sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    if (digest.hexdigest(), len(content)) != (listed["sha256"], listed["bytes"]):
        raise Failed(f"{path.name} is not the artifact that the job lists.")
    if announced.lower() not in headers.read_text().lower():
        raise Failed(f"{path.name} does not match its Repr-Digest header.")
    print(f"  {path.name}: {len(content):,} bytes, sha256 {digest.hexdigest()} as listed and as announced")


def curl(*arguments: str, quiet: bool = False) -> Any:
    """Run curl, showing the call; return the JSON that it answers. Raises Failed on a problem."""
    if not quiet:
        print(f"$ {shlex.join(['curl', *arguments])}", flush=True)
    answer = run(["curl", "-sS", "-w", "\n%{http_code}", *arguments], quiet=True)
    body, _, status = answer.rpartition("\n")
    if not status.startswith("2"):
        raise Failed(f"the service answered {status}: {body}")
    return json.loads(body)


def run(command: list[str], *, quiet: bool = False) -> str:
    """Run a program, showing it unless `quiet`; then what it prints is returned."""
    if not quiet:
        print(f"$ {shlex.join([Path(command[0]).name, *command[1:]])}", flush=True)
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE if quiet else None, text=True)
    if result.returncode:
        raise Failed(f"{Path(command[0]).name} ended with exit code {result.returncode}.")
    return result.stdout or ""


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == one]
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def say(title: str) -> None:
    print(f"\n== {title}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
