"""Coverage-guided fuzzing of what reads uploads: `python -m tests.app.intake.fuzzing TARGET RUNS` (atheris, libFuzzer).

Whatever bytes come, a reader raises its own refusal or nothing. Crashes end the program with their input in hex.
"""

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app.intake"]):
    from app.errors import Invalid
    from app.intake.archives.stored_zip import Archive
    from app.intake.limits import Limits
    from app.intake.parsing.typed import Wrong
    from app.intake.program.read import read_program
    from app.intake.program.symbols import expression
    from app.intake.program.trees import output_spec
    from app.intake.tensors.read import plan_samples

from tests.upload_archives import PROGRAM, honest_members, write

LIMITS = Limits(program_bytes=2**20, nodes=1000, tensors=1000, tensor_bytes=2**30)
SEED = 7


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


def read_document(data: bytes) -> None:
    """An archive whose program is the data."""
    path = write(MEMBERS | {PROGRAM: data}, FOLDER / "fuzzed.pt2")
    try:
        read_program(path, LIMITS).write(io.BytesIO())
    except Invalid:
        return


FOLDER = Path(tempfile.mkdtemp())
MEMBERS = honest_members()
TARGETS: dict[str, Callable[[bytes], None]] = {
    "archive": on_file(read_archive),
    "program": on_file(lambda path: read_program(path, LIMITS)),
    "document": read_document,
    "samples": on_file(lambda path: plan_samples(path, LIMITS.dataset_bytes)),
    "expression": on_text(expression),
    "tree": on_text(output_spec),
}


def seeds(target: str) -> Iterator[bytes]:
    """Honest input to begin with."""
    document = json.loads(MEMBERS[PROGRAM])
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    with tempfile.TemporaryDirectory() as folder:
        whole = write({**MEMBERS, "data/sample_inputs/model.pt": b""}, Path(folder) / "model.pt2").read_bytes()
    header = json.dumps({"x": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}).encode()
    yield {
        "archive": whole,
        "program": whole,
        "document": MEMBERS[PROGRAM],
        "samples": len(header).to_bytes(8, "little") + header + bytes(8),
        "expression": b"Add(Mul(Integer(2), Symbol('s1', positive=True, integer=True)), Integer(-1))",
        "tree": signature["in_spec"].encode(),
    }[target]


def main(name: str, runs: str) -> None:
    """Fuzz one target so many times."""
    corpus = Path(tempfile.mkdtemp())
    for position, seed in enumerate(seeds(name)):
        (corpus / f"{position}").write_bytes(seed)
    options = [
        f"-runs={runs}",
        f"-seed={SEED}",
        "-max_len=65536",
        "-timeout=10",
        f"-artifact_prefix={FOLDER}/",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
