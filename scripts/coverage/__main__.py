"""Write docs/coverage.md: which exported architectures are accepted, and what int8 makes of them.

python -m scripts.coverage LOG [NAME …]

Starts a service and takes each architecture through it. LOG gets a line of JSON for each; those that are in it are not
tried again, unless they are named. The page is written when all are in it.
"""

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from scripts.coverage.architecture import made
from scripts.coverage.attempt import Outcome, attempt
from scripts.coverage.networks import NETWORKS
from scripts.coverage.page import write_page
from tests.service.running import service


def main(log: Path, names: Sequence[str]) -> None:
    """Try what is missing, and write the page."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    known = _outcomes(log)
    missing = names or [name for name in NETWORKS if name not in known]
    if missing:
        _try(log, missing)
    known = _outcomes(log)
    if all(name in known for name in NETWORKS):
        write_page(known)


def _try(log: Path, names: Sequence[str]) -> None:
    """Take architectures through a service of their own, and add a line for each."""
    environment = {**os.environ, "ZEROPOINT_COMPILE_SECONDS": "0"}  # noqa: TID251 - handed on to the service
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), environment) as running, log.open("a") as file:
        for name in names:
            outcome = attempt(running, name, made(name, NETWORKS[name]), kernels=True)
            print(json.dumps(asdict(outcome)), file=file, flush=True)
            print(outcome, flush=True)


def _outcomes(log: Path) -> dict[str, Outcome]:
    lines = log.read_text().splitlines() if log.exists() else []
    return {outcome.name: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
