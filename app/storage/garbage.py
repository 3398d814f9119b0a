"""Removes what nobody needs from a storage folder while others write to it: old blobs without a row, dead uploads.

Why no blob in use is removed. A row follows its blob's commit, and a commit makes the file's time fresh: it renames a
new file over the old one. A collection fixes its cutoff first, then asks the database, then looks at the time again and
unlinks. A row that the database did not name yet was committed after it was asked, hence its blob less than the grace
before that: the blob is younger than the cutoff, and the collection sees it, because commit's [touch, rename] and the
collection's [look, unlink] exclude each other. So the grace must be longer than a row takes to follow its blob.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from app.storage.blobs import Referenced, Removed
from app.storage.layout import DIGEST, LOCK, blob_path, locked, present_ns

BATCH = 500


def collect_garbage(root: Path, older_than_seconds: float, referenced: Referenced) -> Removed:
    """Remove what is older than the grace and named by nothing. Raises OSError, and what `referenced` raises."""
    cutoff = present_ns(root) - int(older_than_seconds * 1e9)
    unfinished = _remove_unfinished(root / "tmp", cutoff)
    sizes: list[int] = []
    candidates = _old_blobs(root / "blobs", cutoff)
    while batch := list(islice(candidates, BATCH)):
        needed = referenced(batch)
        removed = [_remove(root, sha256, cutoff) for sha256 in batch if sha256 not in needed]
        sizes += [size for size in removed if size is not None]
    return Removed(len(sizes), sum(sizes), unfinished)


def remove_unfinished(folder: Path, older_than_seconds: float) -> int:
    """Remove files that nobody writes any more, and folders where the gate unpacked; return how many."""
    return _remove_unfinished(folder, present_ns(folder) - int(older_than_seconds * 1e9))


def remove_dead_files(folder: Path, older_than_seconds: float) -> None:
    """Remove files that nobody writes any more, and no folder."""
    cutoff = present_ns(folder) - int(older_than_seconds * 1e9)
    for path in folder.iterdir():
        if path.is_file() and path.name != LOCK:
            _drop_unfinished(path, cutoff)


def _remove_unfinished(folder: Path, cutoff: int) -> int:
    return sum(_drop_unfinished(path, cutoff) for path in folder.iterdir() if path.name != LOCK)


def _old_blobs(folder: Path, cutoff: int) -> Iterator[str]:
    for path in folder.glob("*/*/*"):
        if DIGEST.fullmatch(path.name) and _time_ns(path) <= cutoff:
            yield path.name


def _remove(root: Path, sha256: str, cutoff: int) -> int | None:
    """Unlink a blob that nothing named, and return its size; None when it was committed again, or is gone."""
    with ExitStack() as opened:
        with locked(root, fcntl.LOCK_EX):
            path = blob_path(root, sha256)
            try:
                # Opened, not only looked at: a network file system may answer a look from memory, an open it may not.
                facts = os.fstat(opened.enter_context(path.open("rb")).fileno())
            except FileNotFoundError:
                return None
            if facts.st_mtime_ns > cutoff:
                return None
            # No need to sync the folder: a blob that a crash brings back is removed another time.
            path.unlink()
        # The file is still open: its room is freed after the lock is released, so no commit waits for that.
        return facts.st_size


def _drop_unfinished(path: Path, cutoff: int) -> bool:
    """Remove an upload that nobody writes any more, and return whether it was one.

    A living writer holds a lock on its file, however slow it is. A folder is where the gate unpacked an upload, which
    takes less than the grace.
    """
    if path.is_dir():
        if _time_ns(path) > cutoff:
            return False
        shutil.rmtree(path, ignore_errors=True)
        return True
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns > cutoff:
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (FileNotFoundError, BlockingIOError):
        return False
    return True


def _time_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 2**63
