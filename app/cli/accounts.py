"""The words of `zeropoint projects …` and `zeropoint keys …`; nothing of the service is imported to know them."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from app.accounts.caller import DEFAULT_PROJECT, Role

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


MOST_NAME = 255
QUOTAS = ("bytes", "uploads", "jobs", "jobs_a_day", "requests_a_second")


def add_commands(commands: Commands, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the commands to a parser."""
    of_projects = _actions(commands, run, "projects", "tenants of this service")
    of_keys = _actions(commands, run, "keys", "their API keys")
    of_projects.add_parser("create", help="make a project").add_argument("name")
    of_projects.add_parser("list", help="list all projects, with the quotas that are their own")
    limit = of_projects.add_parser("limit", help="give a project quotas of its own; none takes one back")
    limit.add_argument("name")
    for quota in QUOTAS:
        least = 1 if quota == "requests_a_second" else 0
        limit.add_argument(f"--{quota.replace('_', '-')}", type=or_none(whole(least)), default=argparse.SUPPRESS)
    create = of_keys.add_parser("create", help="make a key; its secret is printed once")
    create.add_argument("--role", required=True, choices=[role.value for role in Role])
    create.add_argument("--name", type=_name, default="made on the command line", help="what people call it")
    create.add_argument("--days", type=whole(1, 36_500), help="how long it holds; without end unless given")
    of_keys.add_parser("list", help="list a project's keys, newest first")
    rotate = of_keys.add_parser("rotate", help="make a key like another, which ends")
    rotate.add_argument("id")
    seconds = whole(0, 7 * 24 * 3600)
    rotate.add_argument("--overlap-seconds", type=seconds, default=0, help="how long the old one holds (0)")
    of_keys.add_parser("revoke", help="end a key at once").add_argument("id")
    for parser in of_keys.choices.values():
        parser.add_argument("--project", default=DEFAULT_PROJECT, help=f"whose key ({DEFAULT_PROJECT})")
    for parser in [*of_projects.choices.values(), *of_keys.choices.values()]:
        parser.add_argument("--data", type=Path, help="folder of zeropoint serve; else ZEROPOINT_DATABASE_URL counts")


def whole(least: int, most: int = 2**60) -> Callable[[str], int]:
    """Return what reads a whole number within bounds from an option, and says which they are."""

    def read(word: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,19}", word) or not least <= int(word) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return int(word)

    return read


def or_none(read: Callable[[str], int]) -> Callable[[str], int | None]:
    """Return what reads such a number, or the word none."""

    def read_or_none(word: str) -> int | None:
        try:
            return None if word == "none" else read(word)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or none") from None

    return read_or_none


def _name(word: str) -> str:
    if not word.isprintable() or not 0 < len(word) <= MOST_NAME:
        raise argparse.ArgumentTypeError(f"must be 1 to {MOST_NAME} characters that can be seen")
    return word


def _actions(commands: Commands, run: Callable[[argparse.Namespace], int], what: str, words: str) -> Commands:
    parser = commands.add_parser(what, help=words)
    parser.set_defaults(run=run, what=what)
    return parser.add_subparsers(required=True, metavar="ACTION", dest="action")
