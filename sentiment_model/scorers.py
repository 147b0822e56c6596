"""What loads and scores each kind of model."""

import importlib
from pathlib import Path
from typing import cast

from .base import Scorer, read_settings

# by the name that an exported scorer gives itself in its settings
SCORERS = {
    "ngrams": ("ngrams", "NgramScorer"),
    "hashing": ("hashing", "HashingScorer"),
    "pipeline": ("pipeline", "PipelineScorer"),
    "encoder": ("encoder", "EncoderScorer"),
    "stack": ("stack", "StackScorer"),
}


def load(folder: Path) -> Scorer:
    """Return the scorer that training exported to a folder. Only the modules that it needs are imported.

    Raises
    ------
    ValueError
        If the folder names a scorer that this package does not have.
    """
    name, _ = read_settings(folder)
    if name not in SCORERS:
        raise ValueError(f"the artifact asks for the scorer {name!r}; there are {', '.join(SCORERS)}")
    module, scorer = SCORERS[name]
    loads = getattr(importlib.import_module(f".{module}", __package__), scorer).load
    return cast(Scorer, loads(folder))
