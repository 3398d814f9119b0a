"""Write app/intake/huggingface/networks.json: the networks of transformers that pass, and what their configs may say.

python -m scripts.list_networks LOG [MODEL_TYPE …]

Every class of transformers is built from a tiny random config, saved, read by the gate, described on the meta device,
quantized to static int8 and to int8 weights alone, written, and opened again by transformers, which must compute the
same but for the rounding.
LOG gets a line of JSON for each class, with the reason if it failed; classes in it are not tried again. With model
types, only these are tried.
"""

import json
import logging
import signal
import sys
import tarfile
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from multiprocessing import TimeoutError as NoAnswer
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from app.intake.huggingface.architectures import TABLE
from app.intake.huggingface.rewrite import read_folder
from scripts.network_configs import class_of, model_classes, table_of
from tests.tiny_networks import inputs_for, tiny_config, widen
from zeropoint.data.batches import ModelInputs
from zeropoint.data.dataset import open_dataset
from zeropoint.engine.plan import plan
from zeropoint.engine.quantize import quantize_source
from zeropoint.entrypoints.describe import facts
from zeropoint.formats.huggingface.writer import write_folder
from zeropoint.loading.readers.huggingface import open_network
from zeropoint.metrics.sqnr import Noise
from zeropoint.schema.defaults import complete
from zeropoint.schema.recipe import Recipe
from zeropoint.sources.huggingface.source import HuggingFaceSource, open_huggingface

MOST = 12
"""So many classes of a type are tried."""
WHOLE = 2
"""So many classes of a type go the whole way; further heads are built, read, described and compared in float."""
SECONDS = 60
TASKS = 40
"""So many classes are tried in one process."""
FOLDER_BYTES = 2**30
MIN_SHARE = 0.05
"""A type of which less is quantized gains nothing as a folder; as a program, other layers are quantized too."""
WEIGHT_ONLY = Recipe(activations=None)
MIN_SQNR_DB = 3.0
"""Random weights and few samples; a wrong network has 0 dB or less."""


@dataclass(frozen=True)
class Outcome:
    """What became of a class: why it failed, or the share of its bytes that is quantized, and the SQNR in dB."""

    model_type: str
    name: str
    failed: str = ""
    share: float = 0.0
    sqnr: float | None = None
    whole: bool = False


def attempt(model_type: str, name: str, whole: bool = True) -> Outcome:
    """Try one class from its config to the folder that transformers opens; or only to the network that is described."""
    try:
        with TemporaryDirectory() as folder, torch.no_grad():
            share, sqnr = _pass(model_type, name, Path(folder), whole)
        return Outcome(model_type, name, "", share, sqnr, whole)
    except Exception as error:
        return Outcome(model_type, name, _first_words(error))


def _first_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:240]


def attempt_in_time(model_type: str, name: str, whole: bool) -> Outcome:
    """Try one class in a process for such attempts alone, which takes at most `SECONDS`."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        return attempt(model_type, name, whole)
    finally:
        signal.alarm(0)


def _pass(model_type: str, name: str, folder: Path, whole: bool) -> tuple[float, float | None]:
    """Take a class the whole way. Returns the quantized share of bytes, and the SQNR in dB."""
    kind = class_of(name, model_type)
    torch.manual_seed(0)
    network = kind(kind.config_class(**tiny_config(kind))).eval()
    widen(network)
    network.save_pretrained(folder / "saved")
    fresh = _gated(folder)
    facts(fresh)
    source = open_huggingface(fresh, "cpu")
    inputs = inputs_for(source.inputs, network.config)
    batch = ModelInputs(inputs.values(), list(inputs))
    exact = _floats(source.run(batch))
    _require_equal(exact, _floats(_values(network(**inputs))))
    if not whole:
        return 0.0, None
    save_file(inputs, folder / "samples.safetensors")
    share, noise = _way_back(source, Recipe(), folder, inputs, exact)
    _way_back(source, WEIGHT_ONLY, folder, inputs, exact)  # whose packed weights open in another way
    return share, noise.db


def _way_back(
    source: HuggingFaceSource, recipe: Recipe, folder: Path, inputs: Mapping[str, Tensor], exact: Sequence[Tensor]
) -> tuple[float, Noise]:
    """Quantize, write, and let transformers open. Returns the quantized share of bytes, and the noise of the outputs.

    Raises ValueError if the SQNR is too low.
    """
    complete_recipe = complete(recipe, "huggingface", [layer.name for layer in source.layers])
    samples = open_dataset(folder / "samples.safetensors", source.inputs, None)
    quantized = quantize_source(source, complete_recipe, plan(source, complete_recipe, samples), lambda *_: None)
    with TemporaryDirectory(dir=folder) as out:
        write_folder(quantized, Path(out))
        again = _floats(open_network(Path(out)).run(inputs))
    noise = Noise()
    for left, right in zip(exact, again, strict=True):
        noise.add(left, right)
    if noise.db is not None and noise.db < MIN_SQNR_DB:
        raise ValueError(f"{noise.db:.1f} dB after the way back")
    weights = sum(layer.layer.weight.numel() * layer.layer.weight.element_size() for layer in quantized.layers)
    return weights / source.original_bytes, noise


def _gated(folder: Path) -> Path:
    """Return the tar that the gate makes of the saved folder."""
    with tarfile.open(folder / "upload.tar", "w") as archive:
        archive.add(folder / "saved", ".")
    (folder / "scratch").mkdir()
    checked = read_folder(folder / "upload.tar", folder / "scratch", FOLDER_BYTES)
    with (folder / "fresh.tar").open("wb") as target:
        checked.write(target)
    return folder / "fresh.tar"


def _values(output: Any) -> list[object]:
    return list(output.to_tuple()) if hasattr(output, "to_tuple") else [output]


def _floats(values: Iterable[object]) -> list[Tensor]:
    flat: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            flat.append(value)
        elif isinstance(value, list | tuple):
            flat += _floats(value)
        elif hasattr(value, "to_tuple"):
            flat += _floats(value.to_tuple())
    return flat


def _require_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise ValueError unless the network that the service built computes what the saved one does."""
    for left, right in zip(found, expected, strict=False):
        if left.shape != right.shape or not torch.allclose(left, right, atol=1e-4, rtol=1e-3, equal_nan=True):
            raise ValueError("the network that the service builds computes something else")


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def main(log: Path, model_types: Sequence[str]) -> None:
    """Try the classes that the log does not know, and write the table of those that passed."""
    candidates, without_config = _candidates(model_types)
    known = set(map(_key, _outcomes(log)))
    jobs = sorted(
        ((place, model_type, name) for model_type, names in candidates.items() for place, name in enumerate(names))
    )  # the first classes of all types first: a run that ends early has tried every type
    left = [(model_type, name, place < WHOLE) for place, model_type, name in jobs if (model_type, name) not in known]
    before = TABLE.read_bytes()
    _write(table_of(candidates))
    try:
        with log.open("a") as file:
            for outcome in chain((one for one in without_config if _key(one) not in known), _tried(left)):
                print(json.dumps(asdict(outcome)), file=file, flush=True)
    finally:
        TABLE.write_bytes(before)
    passed = _passed(_outcomes(log))
    print(f"{len(passed)} model types of {len(candidates)}, {sum(map(len, passed.values()))} classes")
    _write(table_of(passed))


def _tried(jobs: Sequence[tuple[str, str, bool]]) -> Iterator[Outcome]:
    """Yield what became of each class, tried in one process after another: each leaves some memory behind."""
    waiting = deque(jobs)
    while waiting:
        with get_context("spawn").Pool(1) as pool:
            for _ in range(min(TASKS, len(waiting))):
                job = waiting.popleft()
                try:
                    yield pool.apply_async(attempt_in_time, job).get(2 * SECONDS)
                except NoAnswer:  # code that no signal reaches, or a process that died
                    yield Outcome(*job[:2], failed="TimeoutError: the process did not answer")
                    break


def _candidates(model_types: Sequence[str]) -> tuple[dict[str, list[str]], list[Outcome]]:
    """Return the classes to try by model type, and the types that have no tiny config; all types if none is given."""
    classes = model_classes()
    found: dict[str, list[str]] = {}
    failed: list[Outcome] = []
    for model_type in model_types or sorted(classes):
        names = [name for name in classes[model_type] if class_of(name, model_type)][:MOST]
        try:
            if names and table_of({model_type: names}):
                found[model_type] = names
        except Exception as error:
            failed.append(Outcome(model_type, names[0], _first_words(error)))
    return found, failed


def _outcomes(log: Path) -> list[Outcome]:
    return [Outcome(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def _key(outcome: Outcome) -> tuple[str, str]:
    return outcome.model_type, outcome.name


def _passed(outcomes: Iterable[Outcome]) -> dict[str, list[str]]:
    """Return the classes that passed, by the model types of which one went the whole way, with layers to quantize."""
    passed: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if not outcome.failed:
            passed.setdefault(outcome.model_type, []).append(outcome)
    whole = {model_type: found for model_type, found in passed.items() if any(one.share > MIN_SHARE for one in found)}
    return {model_type: [outcome.name for outcome in found] for model_type, found in sorted(whole.items())}


def _write(table: dict[str, Any]) -> None:
    """Write the table with one line for each entry."""
    parts = []
    for key, content in table.items():
        if isinstance(content, dict):
            lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
            parts.append(f"{json.dumps(key)}: {{\n{lines}\n}}")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(content)}")
    TABLE.write_text("{\n" + ",\n".join(parts) + "\n}\n", "ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
