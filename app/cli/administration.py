"""The words of `zeropoint doctor | jobs | gc | backup | restore`; nothing of the service is imported to know them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from app.cli.accounts import whole

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DATA = "folder of zeropoint serve; else the settings count"


def add_commands(commands: Commands, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the commands to a parser."""
    doctor = commands.add_parser("doctor", help="say what of a service holds, what doesn't, and what to do")
    doctor.add_argument("--json", action="store_true", default=None, help="print the findings as JSON")
    collect = commands.add_parser("gc", help="remove now what nothing refers to any more")
    backup = commands.add_parser("backup", help="copy database and blobs of a service, which may run meanwhile")
    backup.add_argument("folder", type=Path, help="a new folder for the copy")
    restore = commands.add_parser("restore", help="bring a copy into an empty service")
    restore.add_argument("folder", type=Path, help="the folder that zeropoint backup wrote")
    parser = commands.add_parser("jobs", help="jobs and sweeps of all projects")
    parser.set_defaults(run=run, what="jobs")
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    listed = actions.add_parser("list", help="list them, newest first")
    listed.add_argument("--project", help="only those of this project")
    listed.add_argument("--state", help="only those in this state")
    listed.add_argument("--limit", type=whole(1, 1000), default=20, help="how many (20)")
    for action, words in (
        ("show", "print one as JSON"),
        ("cancel", "stop some"),
        ("retry", "submit some that have ended once more"),
        ("delete", "delete some that have ended, with history and files"),
    ):
        actions.add_parser(action, help=words).add_argument("ids", nargs="+", metavar="ID")
    for what, command in (("doctor", doctor), ("gc", collect), ("backup", backup), ("restore", restore)):
        command.set_defaults(run=run, what=what)
    for command in (doctor, collect, backup, restore, *actions.choices.values()):
        command.add_argument("--data", type=Path, help=DATA)
