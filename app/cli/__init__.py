"""The command line: `zeropoint serve | api | worker | migrate`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from app.cli.commands import api_command, with_root, worker_command
from app.cli.serve import serve
from app.database import migrate
from app.settings import get_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code."""
    options = _parser().parse_args(arguments)
    exit_code: int = options.run(options)
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zeropoint", description="Post-training static quantization as a service.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="API, worker and Redis on this machine, until Ctrl-C")
    _add_address(command)
    command.add_argument("--data", type=Path, default=Path("data"), help="folder for all that is kept (data)")
    command.set_defaults(run=lambda options: serve(options.host, options.port, options.data))

    command = commands.add_parser("api", help="the API alone, as the settings say")
    _add_address(command)
    command.set_defaults(run=_api)

    command = commands.add_parser("worker", help="one worker, as the settings say")
    command.add_argument("--device", choices=("cpu", "cuda"), help="what it computes on (ZEROPOINT_WORKER_DEVICE)")
    command.add_argument("--concurrency", type=int, help="jobs at the same time (ZEROPOINT_WORKER_SLOTS)")
    command.set_defaults(run=_worker)

    command = commands.add_parser("migrate", help="bring the database to the newest schema")
    command.set_defaults(run=_migrate)
    return parser


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    command.add_argument("--port", type=int, default=8000, help="port to listen on (8000)")


def _api(options: argparse.Namespace) -> int:
    return _become(api_command(options.host, options.port), dict(os.environ))


def _worker(options: argparse.Namespace) -> int:
    settings = get_settings()
    device = options.device or settings.worker_device
    slots = options.concurrency or settings.worker_slots
    return _become(worker_command(device, slots), os.environ | {"ZEROPOINT_WORKER_DEVICE": device})


def _migrate(_: argparse.Namespace) -> int:
    migrate(get_settings())
    return 0


def _become(command: list[str], environment: dict[str, str]) -> int:
    """Replace this process, so that signals reach the server itself. Never returns."""
    os.execve(sys.executable, command, with_root(environment))
