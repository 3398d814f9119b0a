"""The words of `zeropoint projects …` and `zeropoint keys …`; nothing of the service is imported to know them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from app.accounts.caller import DEFAULT_PROJECT, Role

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


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
        limit.add_argument(f"--{quota.replace('_', '-')}", type=_number_or_none, default=argparse.SUPPRESS)
    create = of_keys.add_parser("create", help="make a key; its secret is printed once")
    create.add_argument("--role", required=True, choices=[role.value for role in Role])
    create.add_argument("--name", default="made on the command line", help="what people call it")
    create.add_argument("--days", type=int, help="how long it holds; without end unless given")
    of_keys.add_parser("list", help="list a project's keys, newest first")
    rotate = of_keys.add_parser("rotate", help="make a key like another, which ends")
    rotate.add_argument("id")
    rotate.add_argument("--overlap-seconds", type=int, default=0, help="how long the old one holds (0)")
    of_keys.add_parser("revoke", help="end a key at once").add_argument("id")
    for parser in of_keys.choices.values():
        parser.add_argument("--project", default=DEFAULT_PROJECT, help=f"whose key ({DEFAULT_PROJECT})")
    for parser in [*of_projects.choices.values(), *of_keys.choices.values()]:
        parser.add_argument("--data", type=Path, help="folder of zeropoint serve; else ZEROPOINT_DATABASE_URL counts")


def _number_or_none(word: str) -> int | None:
    return None if word == "none" else int(word)


def _actions(commands: Commands, run: Callable[[argparse.Namespace], int], what: str, words: str) -> Commands:
    parser = commands.add_parser(what, help=words)
    parser.set_defaults(run=run, what=what)
    return parser.add_subparsers(required=True, metavar="ACTION", dest="action")
