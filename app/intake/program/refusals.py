"""The errors for a refused program, with the place in the archive and the remedy."""

from app.errors import Invalid
from app.intake.parsing.typed import Wrong
from app.intake.program.releases import KNOWN_WORDS
from app.intake.recognition import EXPORT

DECOMPOSE = "Save program.run_decompositions() instead: it needs fewer operators. If it is refused too, ask for more."


def refused(detail: str) -> Invalid:
    """Return the refusal of a program."""
    return Invalid("program_invalid", detail, EXPORT)


def misfit(file: str, wrong: Wrong) -> Invalid:
    """Return the refusal for a failed check: `models/model.json: node 17: target: torch.ops.x is not accepted.`"""
    path = [key for key in wrong.path if key not in ("graph_module", "graph", "nodes")]
    node, rest = (path[:1], path[1:]) if path and path[0].startswith("node ") else ([], path)
    place = ": ".join([file, *node, *(["/".join(_shown(key) for key in rest)] if rest else [])])
    if path and path[-1] == "target":
        return Invalid("operator_unsupported", f"{place}: {wrong.detail}.", DECOMPOSE)
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
    plain = len(key) <= 128 and key.isascii() and key.replace("_", "").replace(".", "").replace("-", "").isalnum()
    return key if plain else "(a name that is not shown)"
