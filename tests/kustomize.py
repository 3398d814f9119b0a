"""What kustomize makes of deploy/kubernetes, as far as these files go: no such program is in a wheel."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Object = dict[str, Any]

KNOWN_KEYS = {"apiVersion", "kind", "namespace", "resources", "components", "images", "configMapGenerator"}


@dataclass
class Build:
    """Objects, the files that they are from, and generated settings."""

    objects: list[Object] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)


def documents(path: Path) -> Iterator[Object]:
    """Yield the objects of a file."""
    yield from YAML(typ="safe").load_all(path)


def build(folder: Path) -> Build:
    """Return what `kubectl apply -k FOLDER` would send, but for hashes behind the names of generated objects."""
    built = Build()
    _read(folder, built)
    for name, values in built.settings.items():
        metadata = {"name": name, "namespace": "zeropoint"}
        built.objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": values})
    for one in built.objects:
        for container in containers(one):
            name, _, tag = container["image"].partition(":")
            container["image"] = built.images.get(name, f"{name}:{tag}")
    return built


def _read(folder: Path, built: Build) -> None:
    path = folder / "kustomization.yaml"
    built.files.add(path.resolve())
    (file,) = documents(path)
    assert set(file) <= KNOWN_KEYS, f"{path}: this test does not know {set(file) - KNOWN_KEYS}"
    for entry in (*file.get("resources", ()), *file.get("components", ())):
        target = (folder / entry).resolve()
        if target.is_dir():
            _read(target, built)
        else:
            built.files.add(target)
            built.objects += documents(target)
    for generated in file.get("configMapGenerator", ()):
        merges = generated.get("behavior") == "merge"
        assert merges == (generated["name"] in built.settings), f"{path}: {generated['name']}"
        values = dict(literal.split("=", 1) for literal in generated["literals"])
        built.settings.setdefault(generated["name"], {}).update(values)
    built.images |= {image["name"]: f"{image['newName']}:{image['newTag']}" for image in file.get("images", ())}


def has_pods(one: Mapping[str, Any]) -> bool:
    """Return whether an object makes pods."""
    return "template" in one.get("spec", {})


def pod_of(one: Mapping[str, Any]) -> Object:
    """Return the template of a workload's pods: `metadata` and `spec`."""
    template: Object = one["spec"]["template"]
    return template


def containers(one: Mapping[str, Any]) -> list[Object]:
    """Return the containers of an object, those first that run first."""
    pod = pod_of(one)["spec"] if has_pods(one) else {}
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]
