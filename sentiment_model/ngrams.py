"""N-grams of words and punctuation, and the compiled linear scorer over them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .base import read_settings
from .calibration import Calibration
from .cleaning import MARK, WORD, clean, tokenize
from .compiled import kernels
from .contract import Contribution, Explanation

TABLE = "ngrams.parquet"
NGRAM_MOST = 8


def ngrams(text: str, ngram_max: int) -> list[str]:
    """Return all n-grams of 1 to ``ngram_max`` tokens of a raw text, tokens joined by one space.

    Examples
    --------
    >>> ngrams("Not bad.", ngram_max=2)
    ['not', 'bad', '.', 'not bad', 'bad .']
    """
    tokens = tokenize(text)
    found = list(tokens)
    for n in range(2, ngram_max + 1):
        found.extend(map(" ".join, zip(*(tokens[i:] for i in range(n)), strict=False)))
    return found


@dataclass(frozen=True)
class Settings(Calibration):
    """What a scorer needs beside its table: the calibration of its linear score by the number of known n-grams, and these.

    Attributes
    ----------
    ngram_max : int
    bias : float
        Of the linear score.
    """

    ngram_max: int
    bias: float


class NgramScorer:
    r"""TF-IDF, logistic regression and calibration over distinct n-grams, read from a plain table.

    For the distinct n-grams :math:`g` of a text that stand in the table, the linear score is
    :math:`s = b + \sum_g \mathrm{idf}_g w_g \,/\, \sqrt{\sum_g \mathrm{idf}_g^2}`: binary term frequency,
    inverse document frequency, Euclidean norm and a linear classifier in one sum. It equals the
    fitted scikit-learn pipeline. Scoring holds no lock and changes nothing: threads may share a scorer.

    Parameters
    ----------
    terms : sequence of str, length n_terms
        Sorted. The prefix and the last word of each n-gram are n-grams of the table too.
    idf, weight : ndarray of shape (n_terms,)
        Inverse document frequency, and coefficient times log-count ratio.
    settings : Settings

    Raises
    ------
    ValueError
        If a prefix or a last word is missing, an n-gram stands in the table twice or is not UTF-8, or a number is
        not finite or out of its range.
    """

    most_rows = 100_000

    def __init__(
        self, terms: Sequence[str] | pa.Array, idf: np.ndarray, weight: np.ndarray, settings: Settings
    ) -> None:
        table = (terms if isinstance(terms, pa.Array) else pa.array(terms, pa.string())).cast(
            pa.large_string()
        )
        table.validate(full=True)
        if not len(table) == len(idf) == len(weight) or not np.isfinite(idf * weight).all():
            raise ValueError(f"{len(table)} n-grams need as many finite numbers for idf and weight")
        if not 1 <= settings.ngram_max <= NGRAM_MOST:
            raise ValueError(f"ngram_max is {settings.ngram_max}; expected 1 to {NGRAM_MOST}")
        _, offsets, letters = table.buffers()
        ends = np.frombuffer(offsets, np.int64)[table.offset : table.offset + len(table) + 1]
        text = np.frombuffer(letters or b"", np.uint8)[ends[0] : ends[-1]]
        n_words = pc.sum(pc.equal(pc.count_substring(table, " "), 0)).as_py() or 0
        words = _places(2 * n_words)
        slots = max(_places(4 * (len(table) - n_words) // 3), words)
        self._kernels = kernels()
        self._settings = settings
        self._no_hits = np.empty(0, self._kernels.HIT)
        self._model = (
            settings.ngram_max,
            _classes(),
            np.empty(len(text), np.uint8),
            np.zeros(words, self._kernels.WORD),
            np.zeros(slots, self._kernels.SLOT),
            np.zeros(slots, self._kernels.VALUE),
        )
        wrong = self._kernels.fill(
            text,
            ends[1:] - ends[:1],
            (idf * weight).astype(np.float32),
            (idf * idf).astype(np.float32),
            *self._model[1:],
        )
        if wrong >= 0:
            raise ValueError(
                f"row {wrong} of the n-gram table, {table[wrong].as_py()!r}, stands there twice, "
                "or before its prefix or without it, or without its last word, or among too many that hash alike"
            )

    @classmethod
    def load(cls, folder: Path) -> "NgramScorer":
        """Read a scorer from the folder that training exported."""
        _, settings = read_settings(folder)
        table = pq.read_table(folder / TABLE)
        scorer = cls(
            terms=table["ngram"].combine_chunks(),
            idf=table["idf"].to_numpy(),
            weight=table["weight"].to_numpy(),
            settings=Settings(**settings),
        )
        del table
        pa.default_memory_pool().release_unused()  # else a third of what a server holds is of no use
        return scorer

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""
        return self._calibrate(*self._score(texts))

    def explain(self, text: str, most: int) -> Explanation:
        """Return the log-odds of a text as a sum, with the ``most`` n-grams that moved it most, strongest first."""
        _, known = self._score([text])
        hits = np.empty(int(known[0]), self._kernels.HIT)
        scores, _ = self._score([text], hits)
        log_odds = float(self._calibrate(scores, known)[0])
        score = self._settings.bias + float(scores[0])
        # how much log-odds one unit of the linear score is worth in this text
        worth = (log_odds - self._settings.intercept) / score if score else 0.0
        bias = self._settings.intercept + worth * self._settings.bias
        contributions = worth * hits["pull"] / np.sqrt(hits["square"].sum(dtype=np.float64) or 1.0)
        tokens = tokenize(text)
        strongest = [
            Contribution(
                ngram=" ".join(tokens[hits["token"][i] : hits["token"][i] + hits["order"][i]]),
                contribution=float(contributions[i]),
            )
            for i in np.argsort(-np.abs(contributions), kind="stable")[:most]
        ]
        rest = log_odds - bias - sum(one["contribution"] for one in strongest)
        return {"log_odds": log_odds, "bias": bias, "rest": rest, "ngrams": strongest}

    def _score(self, texts: Iterable[str], hits: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum over the n-grams of each text, and how many are known; fill ``hits`` with the last one's."""
        # a lone surrogate is as little a letter here as in the patterns of cleaning
        encoded = [clean(text).encode("utf-8", "surrogatepass") for text in texts]
        ends = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
        scores, known = np.empty(len(encoded)), np.empty(len(encoded))
        hits = self._no_hits if hits is None else hits
        self._kernels.score(
            np.frombuffer(b"".join(encoded), np.uint8), ends, *self._model, hits, scores, known
        )
        return scores, known

    def _calibrate(self, scores: np.ndarray, known: np.ndarray) -> np.ndarray:
        return self._settings.log_odds(self._settings.bias + scores, known)


def _places(least: int) -> int:
    """Return the length of a table for open addressing: a power of two above ``least``, so that a gap is left."""
    return 1 << least.bit_length()


@cache
def _classes() -> np.ndarray:
    """Return for each Unicode code point whether a word, a mark or nothing of a token holds it."""
    every = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    classes = np.zeros(len(every), np.uint8)
    for pattern, kind in ((WORD, kernels().LETTER), (MARK, kernels().MARK)):
        for run in re.finditer(f"{pattern}+", every):
            classes[run.start() : run.end()] = kind
    return classes
