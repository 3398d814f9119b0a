"""Networks of transformers, from small configs."""

from typing import Any

import transformers
from torch import Tensor

from scripts.coverage.architecture import Architecture
from tests.tiny_networks import tiny_config


def pretrained(name: str, samples: dict[str, Tensor], **config: Any) -> Architecture:
    """Return a network of a class of transformers, exported with its arguments by name.

    What `config` does not say is small by the class's own defaults.
    """
    kind: Any = getattr(transformers, name)
    settings = kind.config_class(**(tiny_config(kind) | {"use_cache": False} | config))
    return Architecture(kind(settings), dict(samples), keywords=True)
