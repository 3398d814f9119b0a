"""Coverage-guided fuzzing of what reads uploads, by atheris and libFuzzer.

`python -m tests.app.intake.fuzzing TARGET RUNS SEED MODEL` begins with an honest export, or a part of it. Whatever
bytes come, a reader raises its own refusal or nothing. Crashes end the program with their input in hex. torch is not
needed: to import it would take longer than the fuzzing.
"""

import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app.intake"]):
    from app.errors import Invalid
    from app.intake.archives.stored_zip import Archive
    from app.intake.limits import Limits
    from app.intake.parsing.typed import Wrong
    from app.intake.pickles.machine import read_pickle
    from app.intake.pickles.tree import tensors_of
    from app.intake.pickles.weights import read_pickled_weights
    from app.intake.program.read import read_program
    from app.intake.program.symbols import expression
    from app.intake.program.trees import output_spec
    from app.intake.tensors.read import plan_samples

from tests.hostile_pickles import honest as saved_values
from tests.hostile_pickles import saved, saved_long_ago
from tests.upload_archives import PROGRAM, Members, members_below_root, write

LIMITS = Limits(program_bytes=2**20, nodes=1000, tensors=1000, tensor_bytes=2**30)


def on_file(read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """A target that reads a file."""
    folder = Path(tempfile.mkdtemp())

    def target(data: bytes) -> None:
        path = folder / "upload"
        path.write_bytes(data)
        try:
            read(path)
        except Invalid:
            return

    return target


def on_text(read: Callable[[str], object]) -> Callable[[bytes], None]:
    """A target that reads text inside of JSON."""

    def target(data: bytes) -> None:
        try:
            read(data.decode("utf-8", "replace"))
        except (Wrong, Invalid):
            return

    return target


def read_archive(path: Path) -> None:
    """Open, check and read everything."""
    with Archive(path) as archive:
        archive.check_members()
        for name in archive.sizes:
            archive.read(name, 2**20)


def on_program_of(members: Members) -> Callable[[bytes], None]:
    """A target that reads an archive whose program is the data."""

    def target(data: bytes) -> None:
        path = write(members | {PROGRAM: data}, FOLDER / "fuzzed.pt2")
        try:
            read_program(path, LIMITS).write(io.BytesIO())
        except Invalid:
            return

    return target


def on_values(data: bytes) -> None:
    """Read a pickle of torch.save, and collect its tensors."""
    try:
        tensors_of(read_pickle(io.BytesIO(data)))
    except Wrong:
        return


FOLDER = Path(tempfile.mkdtemp())


def target_and_seed(name: str, model: Path) -> tuple[Callable[[bytes], None], bytes]:
    """What reads the data, and honest input to begin with."""
    members, whole = members_below_root(model), model.read_bytes()
    header = json.dumps({"x": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}).encode()
    match name:
        case "archive":
            return on_file(read_archive), whole
        case "program":
            return on_file(lambda path: read_program(path, LIMITS)), whole
        case "document" | "regions":
            return on_program_of(members), members[PROGRAM]
        case "samples":
            tensors = len(header).to_bytes(8, "little") + header + bytes(8)
            return on_file(lambda path: plan_samples(path, LIMITS.dataset_bytes)), tensors
        case "pickle":
            return on_values, saved_values()
        case "saved":
            return on_file(lambda path: read_pickled_weights(path).write(io.BytesIO())), saved(saved_values())
        case "saved long ago":
            return on_file(lambda path: read_pickled_weights(path).write(io.BytesIO())), saved_long_ago(saved_values())
        case "expression":
            size = b"Add(Mul(Integer(2), Symbol('s1', positive=True, integer=True)), Integer(-1))"
            return on_text(expression), size
        case "tree":
            signature = json.loads(members[PROGRAM])["graph_module"]["module_call_graph"][0]["signature"]
            return on_text(output_spec), signature["in_spec"].encode()
    raise ValueError(name)


def main(name: str, runs: str, seed: str, model: str) -> None:
    """Fuzz one target so many times; the same seed finds the same."""
    target, honest = target_and_seed(name, Path(model))
    corpus = Path(tempfile.mkdtemp())
    (corpus / "honest").write_bytes(honest)
    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        "-max_len=65536",
        "-timeout=10",
        f"-artifact_prefix={FOLDER}/",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
