"""Going on from a registered version."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from data.table import reviews_of, row_hash
from registry.store import connect
from registry.versions import fetch, find
from sentiment_model.base import read_settings
from training.errors import TrainingError
from training.trained_on import trained_on


@dataclass(frozen=True)
class Registered:
    """The scorer of a registered version, in a folder of its own, and the hashes of the rows that it has seen."""

    folder: TemporaryDirectory[str]
    seen: pd.Series


def registered(number: int, scorer: str, kind: str, table: pd.DataFrame) -> Registered:
    """Return the scorer of a version that may be gone on from, verified.

    Parameters
    ----------
    number : int
        Of the version.
    scorer : str
        What its scorer must be called, for its ``kind``.
    kind : str
    table : DataFrame
        Columns ``review`` and ``split``.

    Raises
    ------
    TrainingError
        If it is of another kind, or has seen rows that are held out here.
    RegistryError
        If there is no such version, or it is not what was registered.
    """
    version = find(connect(), number)
    folder = TemporaryDirectory(prefix="registered-")
    with TemporaryDirectory() as fetched:
        files = fetch(version, Path(fetched)) / "artifacts" / "scorer"
        found, _ = read_settings(files)
        if found != scorer:
            raise TrainingError(
                f"warm_start={number}: version {number} is no {kind} (its scorer is {found}); give a version of model={kind}"
            )
        if (model := version.tags.get("model", kind)) != kind:
            raise TrainingError(
                f"warm_start={number}: version {number} is of model={model}; give a version of model={kind}"
            )
        shutil.copytree(files, folder.name, dirs_exist_ok=True)
    seen = trained_on(version)
    if seen.empty:
        raise TrainingError(
            f"warm_start={number}: what version {number} was trained on cannot be read, so that held-out rows could be among it"
        )
    held_out = np.flatnonzero(table["split"] == "test")
    leaked = len({row_hash(review) for review in reviews_of(table, held_out)}.intersection(seen))
    if leaked:
        raise TrainingError(
            f"warm_start={number}: version {number} was trained on {leaked:,} of the rows that are held out here; "
            "give the same source and test_size as for that version, or a smaller test_size"
        )
    return Registered(folder, seen)
