"""A transformer encoder with a classifier on top, run by ONNX Runtime."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from tokenizers import Tokenizer

from .base import read_settings
from .calibration import Calibration
from .cleaning import encodable, plain

MODEL = "encoder.onnx"
TOKENIZER = "tokenizer.json"
BATCH = 32  # texts of about the same length
# characters of each end of a text that are read: no token of a word is shorter than one, but white space can be long
ENDS = 50_000


@dataclass(frozen=True)
class Settings(Calibration):
    """What a scorer needs beside its network: the calibration of its score by the number of tokens, and these.

    Attributes
    ----------
    max_tokens : int
        Of a text, the special ones included. Of a longer one a quarter is taken from its head, the rest from its tail.
    batched : bool
        Whether texts are scored side by side. Where activations are quantized by what is in a batch, they are not: a text
        then has the same score, to the last bit, whatever it is sent with.
    """

    max_tokens: int
    batched: bool


class Tokens:
    """Cuts texts into the numbers of their tokens.

    Parameters
    ----------
    path : Path
        The ``tokenizer.json`` of a model.
    max_tokens : int
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        inner = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a").ids
        at = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
        self._before, self._after = whole[:at], whole[at + len(inner) :]
        self.room = max_tokens - len(self._before) - len(self._after)

    def __call__(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the tokens of each text, without special ones."""
        encoded = self._tokenizer.encode_batch([_ends(text) for text in texts], add_special_tokens=False)
        return [one.ids for one in encoded]

    def cut(self, ids: Sequence[int]) -> list[int]:
        """Return the tokens of a text that are scored, special ones around them."""
        if len(ids) > self.room:
            head = self.room // 4
            ids = [*ids[:head], *ids[len(ids) - (self.room - head) :]]
        return [*self._before, *ids, *self._after]


def _ends(text: str) -> str:
    text = plain(text)
    if len(text) > 2 * ENDS:
        text = f"{text[:ENDS]} {text[-ENDS:]}"
    return encodable(text)  # the tokenizer takes no others


def batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the numbers of rows of about the same length, their tokens side by side, and which of these are no padding.

    Yields
    ------
    numbers : ndarray of shape (n,)
    ids, mask : ndarray of int64 of shape (n, longest)
    """
    order = np.argsort([len(row) for row in rows], kind="stable")
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        ids = np.zeros((len(numbers), len(rows[numbers[-1]])), np.int64)
        mask = np.zeros_like(ids)
        for i, number in enumerate(numbers):
            ids[i, : len(rows[number])] = rows[number]
            mask[i, : len(rows[number])] = 1
        yield numbers, ids, mask


class EncoderScorer:
    """A network over tokens, and its calibration. Threads may share a scorer.

    Parameters
    ----------
    folder : Path
        Holds ``encoder.onnx`` and ``tokenizer.json``.
    settings : Settings
    """

    most_rows = 2_000

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self._tokens = Tokens(folder / TOKENIZER, settings.max_tokens)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            folder / MODEL, options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a scorer from the folder that training exported."""
        _, settings = read_settings(folder)
        return cls(folder, Settings(**settings))

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""
        return self.calibrated(texts)[0]

    def calibrated(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-odds of each text, and how many tokens of it were scored, each of shape (n_texts,)."""
        scores, tokens = self.scores(texts)
        return self.settings.log_odds(scores, tokens), tokens

    def scores(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the raw score of each text, and how many tokens of it were scored, each of shape (n_texts,)."""
        rows = [self._tokens.cut(ids) for ids in self._tokens(texts)]
        scores = np.empty(len(rows))
        for numbers, ids, mask in batches(rows, BATCH if self.settings.batched else 1):
            try:
                scores[numbers] = self._session.run(["score"], {"ids": ids, "mask": mask})[0]
            except RuntimeException as error:
                raise MemoryError(str(error)) from None  # else it runs whatever tokens it is given
        return scores, np.array([len(row) for row in rows], float)
