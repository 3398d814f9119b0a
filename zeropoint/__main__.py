"""Programs of the library by hand: `python -m zeropoint job | validate | describe`.

`loadback` and `compiled` are started by these, and read questions from standard input.
"""

import argparse
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zeropoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one program and return its exit code."""
    options = _parser().parse_args(arguments)
    exit_code: int = options.run(options)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zeropoint", description="Post-training static quantization.")
    parser.add_argument("--version", action="version", version=zeropoint.__version__)
    programs = parser.add_subparsers(required=True, metavar="PROGRAM")

    job = programs.add_parser("job", help="do the job that a folder holds (job.json and its files)")
    job.add_argument("folder", type=Path)
    job.set_defaults(run=_job)

    validate = programs.add_parser("validate", help="check a saved folder; prints what it finds as JSON")
    validate.add_argument("folder", type=Path)
    validate.add_argument("--model", type=Path, help="the float program (.pt2) that was quantized")
    validate.add_argument("--dataset", type=Path, help="samples (.safetensors) to compare both on; needs --model")
    validate.set_defaults(run=lambda options: _validate(validate, options))

    describe = programs.add_parser("describe", help="tell what the Hugging Face folder in a tar is, as JSON")
    describe.add_argument("tar")
    describe.set_defaults(run=_describe)

    loadback = programs.add_parser("loadback", help="open and run saved files; reads questions from standard input")
    loadback.set_defaults(run=_loadback)
    compiled = programs.add_parser("compiled", help="compile a saved program and run it; reads from standard input")
    compiled.set_defaults(run=_compiled)
    return parser


# torch takes seconds to import: each program imports what it needs, and `--help` needs none of it.


@contextmanager
def _importing() -> Iterator[None]:
    """Don't look for garbage meanwhile, of which imports make none: it would be a fifth of their time."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def _job(options: argparse.Namespace) -> int:
    with _importing():
        from zeropoint.entrypoints.job import run_by_hand  # noqa: PLC0415

    return run_by_hand(options.folder)


def _validate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    with _importing():
        from zeropoint.entrypoints.validate import run_by_hand  # noqa: PLC0415

    if options.dataset is not None and options.model is None:
        parser.error("--dataset needs --model")
    return run_by_hand(options.folder, options.model, options.dataset)


def _describe(options: argparse.Namespace) -> int:
    if not Path(options.tar).is_file():
        print(f"There is no file {options.tar}.", file=sys.stderr)  # noqa: T201 - a program speaks
        return 2
    with _importing():
        from zeropoint.entrypoints.describe import main as describe  # noqa: PLC0415

    return describe(_Unconfined(), options.tar)


def _loadback(_: argparse.Namespace) -> int:
    with _importing():
        from zeropoint.loading.loadback import main as loadback  # noqa: PLC0415

    return loadback(_Unconfined())


def _compiled(_: argparse.Namespace) -> int:
    with _importing():
        from zeropoint.loading.compile_process import main as compiled  # noqa: PLC0415

    return compiled(_Unconfined())


class _Unconfined:
    """Locks nothing down: by hand, a program runs with the rights of whoever starts it."""

    compiles = True

    def __call__(self) -> None:
        """Give up nothing."""

    def for_compiling(self, folder: Path) -> None:
        """Give up nothing."""


if __name__ == "__main__":
    sys.exit(main())
