"""All architectures of the table, by domain."""

from collections.abc import Callable, Mapping

from scripts.coverage import audio, detection, generation, graphs, others, tables, text, vision
from scripts.coverage.architecture import Architecture

DOMAINS: Mapping[str, Mapping[str, Callable[[], Architecture]]] = {
    "vision": vision.NETWORKS,
    "detection and segmentation": detection.NETWORKS,
    "diffusion": generation.DIFFUSION,
    "generation": generation.NETWORKS,
    "audio": audio.NETWORKS,
    "text": text.NETWORKS,
    "time series": tables.SERIES,
    "graphs": graphs.NETWORKS,
    "recommenders": tables.RECOMMENDERS,
    "tabular": tables.TABULAR,
    "others": others.NETWORKS,
}
NETWORKS = {name: make for members in DOMAINS.values() for name, make in members.items()}
