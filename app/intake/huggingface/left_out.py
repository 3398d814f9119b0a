"""Why a file of a Hugging Face folder is left out: no such file is read, carried or refused."""

import re
from collections.abc import Iterable, Iterator

from app.intake.facts import LeftOut

MOST_LISTED = 100

_REASONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (r"\..*", "a hidden file"),
        (r".*\.(py|pyc|pyd|so|dll|sh|js|ts|ipynb|jar|exe)", "code, which is never run"),
        (r".*\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz|tar|zip|gz)", "a pickle or an archive, which is not opened"),
        (
            r".*\.(h5|keras|msgpack|ot|onnx|onnx_data|gguf|ggml|tflite|mlmodel|xml|pb)",
            "weights of another format; those in model.safetensors are taken",
        ),
        (r".*\.safetensors", "weights under another name than model.safetensors"),
        (r"(readme|license|licence|notice|copying|use_policy|changelog|authors|citation)\b.*", "a text for people"),
        (r".*\.(md|rst|txt|pdf|html|png|jpe?g|gif|webp|svg|mp4|wav|mp3|flac|csv)", "text, pictures or recordings"),
    )
)
UNKNOWN = "not a file that the service knows"
SUBFOLDER = "a folder that is not part of the network"
LINK = "a link"
OUTSIDE = "outside the folder of the network"


def reason_of(name: str) -> str:
    """Return why a file of this name, without its folder, is left out."""
    return next((reason for names, reason in _REASONS if names.fullmatch(name)), UNKNOWN)


def in_folder(path: str, reason: str) -> tuple[str, str]:
    """Return the path, and the reason of its folder if it lies in one below the network's."""
    if "/" not in path:
        return path, reason
    return path, "a hidden folder" if path.startswith(".") else SUBFOLDER


def listed(paths: Iterable[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """Return what to tell the owner about (path, reason) pairs: each subfolder once, at most `MOST_LISTED` entries."""
    entries = {entry.name: entry for entry in _entries(paths)}
    found = [entries[name] for name in sorted(entries)]
    if len(found) > MOST_LISTED:
        rest = len(found) - MOST_LISTED
        found = [*found[:MOST_LISTED], LeftOut(f"{rest} more", "the list ends here")]
    return tuple(found)


def _entries(paths: Iterable[tuple[str, str]]) -> Iterator[LeftOut]:
    for path, reason in paths:
        top, below, _ = path.partition("/")
        yield LeftOut(f"{plain(top)}/" if below else plain(top), reason)


def plain(name: str) -> str:
    """Return a name that is fit for a message: other characters become question marks, and its end may be cut off."""
    return re.sub(r"[^A-Za-z0-9_.+ -]", "?", name)[:128]
