"""The gate: absolute floors, and a paired test against the version in Production."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from scipy.special import expit
from scipy.stats import binomtest

from files import file_digest
from registry.versions import Version
from training.report.metrics import scores

HELD_OUT = "held_out/predictions.parquet"
HELD_OUT_DIGEST = "held_out_digest"
CONFIDENCE_LEVEL = 0.95
MIN_PAIRS = 100


@dataclass(frozen=True)
class Floors:
    """What a version must reach, whatever stands in Production."""

    rows: int = 200
    accuracy: float = 0.80
    roc_auc: float = 0.85
    ece: float = 0.10  # a perfectly calibrated model shows up to 0.06 on 200 rows


@dataclass
class Verdict:
    """Whether a version may be promoted, and the numbers that say why."""

    passed: bool
    champion: int | None
    reasons: list[str]
    numbers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"gate {'passed' if self.passed else 'refused'}: {'; '.join(self.reasons)}"

    def to_json(self) -> str:
        """Return the verdict for a tag."""
        return json.dumps(asdict(self))


def read_held_out(version: Version, folder: Path) -> pd.DataFrame:
    """Return the held-out predictions that the run of ``version`` logged, verified by their digest.

    Returns
    -------
    DataFrame
        Columns ``row`` (hash of the review), ``sentiment``, ``source`` and ``log_odds``, of models that
        never saw the row.

    Raises
    ------
    ValueError
        If there are none, or they are not those that were logged.
    """
    try:
        uri = f"runs:/{version.run_id}/{HELD_OUT}"
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        digest = file_digest(path)
        rows = pd.read_parquet(path)[["row", "sentiment", "source", "log_odds"]]
    except (MlflowException, OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"the held-out predictions of version {version.number} cannot be read ({error})"
        ) from None
    if digest != version.tags.get(HELD_OUT_DIGEST):
        raise ValueError(
            f"the held-out predictions of version {version.number} are not those that its tag names"
        )
    return rows


def judge(
    candidate: pd.DataFrame,
    champion: pd.DataFrame | None,
    champion_version: int | None = None,
    without_champion: str = "no version is in Production",
    floors: Floors = Floors(),
) -> Verdict:
    """Judge held-out predictions against the floors and, row by row, against the champion's.

    The paired test is McNemar's in its exact form [1]_: of the rows that just one of the two answers
    rightly, is the candidate's share smaller than chance would have it, at 95 % confidence? A candidate
    that is not significantly worse passes.

    Parameters
    ----------
    candidate, champion : DataFrame
        Columns ``row``, ``sentiment`` and ``log_odds``. Only rows that stand in both are compared.
    champion_version : int, optional
    without_champion : str
        Why there is no champion, where there is none.
    floors : Floors

    References
    ----------
    .. [1] Q. McNemar, "Note on the sampling error of the difference between correlated proportions
       or percentages", Psychometrika 12, 1947.
    """
    y = (candidate["sentiment"] == "positive").to_numpy()
    found = scores(y, expit(candidate["log_odds"].to_numpy())) if len(candidate) else {}
    numbers = {"held_out_rows": float(len(candidate)), **found}
    failures: list[str] = []
    notes: list[str] = []
    if len(candidate) < floors.rows:
        failures.append(
            f"{len(candidate)} held-out rows, at least {floors.rows} are needed (more reviews, or a larger test_size)"
        )
    for name in ("accuracy", "roc_auc"):
        value, floor = found.get(name, 0.0), getattr(floors, name)
        (failures if value < floor else notes).append(f"{name} {value:.4f}, floor {floor}")
    ece = found.get("ece", 1.0)
    (failures if ece > floors.ece else notes).append(f"ece {ece:.4f}, ceiling {floors.ece}")

    pairs = None if champion is None else _pairs(candidate, champion)
    if pairs is not None and len(pairs) < MIN_PAIRS:
        without_champion = (
            f"only {len(pairs)} held-out rows are shared with version {champion_version}, "
            f"{MIN_PAIRS} are needed"
        )
        pairs = None
    if pairs is None:
        notes.append(f"FLOORS ONLY, nothing to compare with: {without_champion}")
    else:
        worse, numbers_of_test, line = _compare(pairs, champion_version)
        numbers |= numbers_of_test
        (failures if worse else notes).append(line)
    return Verdict(not failures, champion_version, failures or notes[::-1], numbers)


def _pairs(candidate: pd.DataFrame, champion: pd.DataFrame) -> pd.DataFrame:
    both = candidate.merge(champion, on=["row", "sentiment"], suffixes=("", "_champion"))
    y = both["sentiment"] == "positive"
    return pd.DataFrame(
        {
            "candidate": (both["log_odds"] >= 0) == y,
            "champion": (both["log_odds_champion"] >= 0) == y,
        }
    )


def _compare(pairs: pd.DataFrame, version: int | None) -> tuple[bool, dict[str, float], str]:
    only_candidate = int((pairs["candidate"] & ~pairs["champion"]).sum())
    only_champion = int((~pairs["candidate"] & pairs["champion"]).sum())
    discordant = only_candidate + only_champion
    p = binomtest(only_candidate, discordant, alternative="less").pvalue if discordant else 1.0
    worse = p < 1 - CONFIDENCE_LEVEL
    ours, theirs = pairs["candidate"].mean(), pairs["champion"].mean()
    numbers = {
        "compared_rows": float(len(pairs)),
        "accuracy_on_compared": float(ours),
        "champion_accuracy_on_compared": float(theirs),
        "only_candidate_right": float(only_candidate),
        "only_champion_right": float(only_champion),
        "p_worse": float(p),
    }
    line = (
        f"{'significantly worse than' if worse else 'not significantly worse than'} version {version} "
        f"on the same {len(pairs)} rows: {ours:.4f} against {theirs:.4f}, "
        f"{only_candidate} to {only_champion} rows that one alone has right, p = {p:.3f} "
        f"({'<' if worse else '≥'} {1 - CONFIDENCE_LEVEL:.2f})"
    )
    return worse, numbers, line
