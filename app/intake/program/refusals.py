"""The errors for a refused program, with the place in the archive and the remedy."""

from typing import Any

from app.errors import Invalid
from app.intake.parsing.names import is_name
from app.intake.parsing.typed import Wrong
from app.intake.program.missing_operators import missing_operators
from app.intake.program.releases import KNOWN_WORDS
from app.intake.recognition import EXPORT

MOST_SHOWN = 128
"""Characters of a name that a refusal repeats."""


def refused(detail: str) -> Invalid:
    """Return the refusal of a program."""
    return Invalid("program_invalid", detail, EXPORT)


def misfit(file: str, wrong: Wrong, parsed: Any = None) -> Invalid:
    """Return the refusal for a failed check: `models/model.json: node 17: target: torch.ops.x is not accepted.`

    `parsed`: the whole program, of which all operators that are not accepted are named.
    """
    path = [key for key in wrong.path if key not in ("graph_module", "graph", "nodes")]
    node, rest = (path[:1], path[1:]) if path and path[0].startswith("node ") else ([], path)
    place = ": ".join([file, *node, *(["/".join(_shown(key) for key in rest)] if rest else [])])
    if parsed is not None and node and rest == ["target"]:
        missing = missing_operators(parsed)
        return Invalid("operator_unsupported", f"{file}: {missing.detail}", missing.remedy)
    return refused(f"{place}: {wrong.detail}.")


def of_unknown_release(refusal: Invalid, release: str) -> Invalid:
    """Return a refusal that also says that the program's release of torch isn't known."""
    return Invalid(
        refusal.code,
        f"{refusal.detail} torch {release} exported the program; known are torch {KNOWN_WORDS}.",
        f"Export the model with torch {KNOWN_WORDS}. {refusal.remedy}",
    )


def _shown(key: str) -> str:
    """Return a key from an upload, or generic words if it is unfit for a message."""
    return key if len(key) <= MOST_SHOWN and is_name(key) else "(a name that is not shown)"
