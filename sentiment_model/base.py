"""What every scorer offers, and the file of its settings."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SETTINGS = "settings.json"


class Scorer(Protocol):
    """An exported model. Threads may share it. One whose log-odds are a sum over n-grams has ``explain`` too."""

    most_rows: int  # of one request to a server

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""


def read_settings(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the scorer that training exported to a folder, and its settings."""
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return settings.pop("scorer"), settings
