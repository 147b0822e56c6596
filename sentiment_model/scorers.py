"""What loads and scores each kind of model."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

SETTINGS = "settings.json"
# by the name that an exported scorer gives itself in its settings
SCORERS = {
    "ngrams": ("ngrams", "NgramScorer"),
    "hashing": ("hashing", "HashingScorer"),
    "pipeline": ("pipeline", "PipelineScorer"),
    "encoder": ("encoder", "EncoderScorer"),
    "stack": ("stack", "StackScorer"),
}


class Scorer(Protocol):
    """An exported model. Threads may share it. One whose log-odds are a sum over n-grams has ``explain`` too."""

    most_rows: int  # of one request to a server

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""


def read_settings(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the scorer that training exported to a folder, and its settings."""
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return settings.pop("scorer"), settings


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
