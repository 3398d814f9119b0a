"""Names of tensors that torch can't write into Python source: `class.weight` would become `self.class.weight`.

torch writes what is no identifier as `getattr(self, "my layer")`, whatever is between the quotes, but takes Python's
own words, and letters that Python reads as others, for identifiers. What runs such a program has other names for its
tensors; what is stored keeps them.
"""

import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputSpec, OutputKind, OutputSpec

from zeropoint.graph.pruning import copy_graph

_ENDING_TEXT = frozenset('"\\')
_SEPARATING = frozenset(",;()[]")
_UNFIT = re.compile(r"\W")


def spelled_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names that need another spelling, each with one that no other name has: `class_.weight`."""
    names = list(names)
    taken = {word for name in names for word in name.split(".")}
    spelled: dict[str, str] = {}
    for word in sorted(taken):
        if not _can_be_written(word):
            spelled[word] = _free(_UNFIT.sub("_", unicodedata.normalize("NFKC", word)) + "_", taken)
            taken.add(spelled[word])
    respelled = {name: ".".join(spelled.get(word, word) for word in name.split(".")) for name in names}
    return {name: other for name, other in respelled.items() if name != other}


def _can_be_written(word: str) -> bool:
    if word.isidentifier():
        return not keyword.iskeyword(word) and unicodedata.normalize("NFKC", word) == word
    return word.isprintable() and _ENDING_TEXT.isdisjoint(word)


def _free(word: str, taken: set[str]) -> str:
    while word in taken:
        word += "_"
    return word


def stored_names(program: ExportedProgram) -> list[str]:
    """Return the names of a program's parameters, buffers and constants."""
    return [*program.state_dict, *program.constants]


def spelled(program: ExportedProgram) -> ExportedProgram:
    """Return the program, under names that torch can write into Python source and files; the tensors are shared.

    Modules whose names have what separates modules in a file are left out of what nodes remember of them.
    """
    names = spelled_names(stored_names(program))
    separating = any(not _SEPARATING.isdisjoint(name) for name in stored_names(program))
    if not names and not separating:
        return program
    result = renamed(program, names)
    if separating:
        for node in result.graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            kept = {key: (path, kind) for key, (path, kind) in stack.items() if _SEPARATING.isdisjoint(path)}
            node.meta["nn_module_stack"] = kept
    return result


def renamed(program: ExportedProgram, names: Mapping[str, str]) -> ExportedProgram:
    """Return the program with other names for its tensors, which are shared."""
    signature = program.graph_signature
    inputs = [_renamed_input(spec, names) for spec in signature.input_specs]
    outputs = [_renamed_output(spec, names) for spec in signature.output_specs]
    return ExportedProgram(
        root=program.graph_module,
        graph=copy_graph(program.graph),
        graph_signature=ExportGraphSignature(inputs, outputs),
        state_dict={names.get(name, name): tensor for name, tensor in program.state_dict.items()},
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants={names.get(name, name): value for name, value in program.constants.items()},
        verifiers=program.verifiers,
    )


def _renamed_input(spec: InputSpec, names: Mapping[str, str]) -> InputSpec:
    return spec if spec.target is None else replace(spec, target=names.get(spec.target, spec.target))


def _renamed_output(spec: OutputSpec, names: Mapping[str, str]) -> OutputSpec:
    if spec.kind is not OutputKind.BUFFER_MUTATION or spec.target is None:
        return spec
    return replace(spec, target=names.get(spec.target, spec.target))
