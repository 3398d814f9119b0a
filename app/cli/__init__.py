"""The command line: the service, its administration, and programs of the library.

The library is installed without the service: what a command needs is imported when it runs.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import zeropoint
from app.cli import accounts, administration
from app.cli.accounts import whole
from app.cli.commands import api_command, library_command, with_root, worker_command

PRIVATE_UMASK = 0o077
SERVICE_PACKAGES = ("alembic", "celery", "fastapi", "jwt", "limits", "pydantic_settings", "sqlalchemy", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options, more = _parser().parse_known_args(arguments)
    if more and options.run is not _library:
        _parser().error(f"unrecognized arguments: {' '.join(more)}")
    options.more = more
    exit_code: int = options.run(options)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zeropoint", description="Post-training static quantization.")
    parser.add_argument("--version", action="version", version=zeropoint.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    command = commands.add_parser("serve", help="API, worker and Redis on this machine, until Ctrl-C")
    _add_address(command)
    command.add_argument("--data", type=Path, default=Path("data"), help="folder for all that is kept (data)")
    command.set_defaults(run=_of_service(_serve))

    command = commands.add_parser("api", help="the API alone, as the settings say")
    _add_address(command)
    command.set_defaults(run=_of_service(_api))

    command = commands.add_parser("worker", help="one worker, as the settings say")
    command.add_argument("--device", choices=("cpu", "cuda"), help="what it computes on (ZEROPOINT_WORKER_DEVICE)")
    command.add_argument("--concurrency", type=whole(1, 64), help="jobs at the same time (ZEROPOINT_WORKER_SLOTS)")
    command.set_defaults(run=_of_service(_worker))

    command = commands.add_parser("migrate", help="bring the database to the newest schema")
    command.set_defaults(run=_of_service(_migrate))

    accounts.add_commands(commands, _of_service(_accounts))
    administration.add_commands(commands, _of_service(_administration))

    for program, words in (
        ("job", "do the job that a folder holds; no service is needed"),
        ("validate", "check a saved folder; no service is needed"),
    ):
        command = commands.add_parser(program, help=words, add_help=False)
        command.set_defaults(run=_library)
    return parser


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    command.add_argument("--port", type=whole(1, 65_535), default=8000, help="port to listen on (8000)")


def _of_service(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return the command, which says what to install where the service's packages are missing."""

    def checked(options: argparse.Namespace) -> int:
        missing = [name for name in SERVICE_PACKAGES if find_spec(name) is None]
        if missing:
            print(f"The service needs packages that are not installed: {', '.join(missing)}.", file=sys.stderr)
            print(
                "In the checkout: pip install '.[service,embedded]'. The library and its programs work without.",
                file=sys.stderr,
            )
            return 1
        os.umask(PRIVATE_UMASK)  # what is kept holds models and samples: it is for this user alone
        return run(options)

    return checked


def _serve(options: argparse.Namespace) -> int:
    from app.cli.serve import serve  # noqa: PLC0415 - the service's packages are an extra

    return serve(options.host, options.port, options.data)


def _api(options: argparse.Namespace) -> int:
    from app.settings import get_settings  # noqa: PLC0415

    get_settings()  # or end here, with the reason
    return _become(api_command(options.host, options.port), dict(os.environ))


def _worker(options: argparse.Namespace) -> int:
    from app.settings import get_settings  # noqa: PLC0415

    settings = get_settings()
    device = options.device or settings.worker_device
    slots = options.concurrency or settings.worker_slots
    return _become(
        worker_command(device, slots),
        os.environ | {"ZEROPOINT_WORKER_DEVICE": device, "ZEROPOINT_WORKER_SLOTS": str(slots)},
    )


def _migrate(_: argparse.Namespace) -> int:
    from app.cli.children import ServerError  # noqa: PLC0415
    from app.cli.migration import migrate_or_refuse  # noqa: PLC0415
    from app.settings import get_settings  # noqa: PLC0415

    try:
        migrate_or_refuse(get_settings())
    except ServerError as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


def _accounts(options: argparse.Namespace) -> int:
    from app.cli import account_actions  # noqa: PLC0415

    return account_actions.run(options)


def _administration(options: argparse.Namespace) -> int:
    from app.cli import administration_actions  # noqa: PLC0415

    return administration_actions.run(options)


def _library(options: argparse.Namespace) -> int:
    """Run a program of the library in a process of its own: this one loads no torch."""
    command = library_command(options.command, *options.more)
    return subprocess.run(command, env=with_root(dict(os.environ)), check=False).returncode


def _become(command: list[str], environment: dict[str, str]) -> int:
    """Replace this process, so that signals reach the server itself. Never returns."""
    os.execve(sys.executable, command, with_root(environment))
