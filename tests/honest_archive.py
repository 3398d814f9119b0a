"""The archive of an honest export: what attacks and damaged uploads are made from."""

import tempfile
from functools import cache
from pathlib import Path

from tests.networks import convolutional
from tests.upload_archives import Members, members_below_root


def honest_members() -> Members:
    """Return the members of an honest export, named as below its root folder."""
    return dict(_exported())


@cache
def _exported() -> Members:
    """Export once a process: that takes seconds, and always gives the same."""
    with tempfile.TemporaryDirectory() as folder:
        return members_below_root(convolutional().export(Path(folder) / "model.pt2"))
