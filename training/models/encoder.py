"""A classifier on top of a pretrained encoder, and its export to ONNX."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import pandas as pd
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from sentiment_model.calibration import Calibration
from sentiment_model.encoder import MODEL, TOKENIZER, EncoderScorer, Settings, Tokens, batches
from training.artifact import write_settings
from training.errors import TrainingError
from training.models.calibration import LengthCalibration
from training.models.validation import with_progress
from training.report.metrics import accuracy_and_log_loss

PACKAGES = ("onnxruntime", "tokenizers")
SCORER = "encoder"
OPSET = 20
AGREE = 1e-3  # log-odds in which the exported network and the fitted one may differ
# what int8 may cost on the validation rows: their share, and log-loss relative to that of float32
INT8_ACCURACY, INT8_LOG_LOSS = 0.002, 1.02


@dataclass(frozen=True)
class Network:
    """A calibrated scorer in a folder of its own, what it is, and the weights from which a fine-tuning can go on."""

    folder: TemporaryDirectory[str]
    scorer: EncoderScorer
    recipe: str
    weights: TemporaryDirectory[str] | None


class Classifier(nn.Module):
    """Mean of the last hidden states over the tokens of a text, and a head on top.

    Parameters
    ----------
    encoder : PreTrainedModel
    head : Module
        From vectors of shape (n_texts, hidden size) to scores of shape (n_texts, 1).
    """

    def __init__(self, encoder: PreTrainedModel, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the scores, of shape (n_texts,), of tokens of shape (n_texts, n_tokens)."""
        return self.head(self.embed(ids, mask))[:, 0]

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the hidden states of the tokens that are no padding, of shape (n_texts, hidden size)."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        shares = mask[:, :, None].to(states.dtype)
        return (states * shares).sum(1) / shares.sum(1).clamp(min=1)  # of no token, it is 0


@dataclass(frozen=True)
class Exported:
    """A scorer as it is read back, and how it does on the validation rows."""

    scorer: EncoderScorer
    precision: str
    accuracy: float
    log_loss: float


def export(
    classifier: Classifier,
    max_tokens: int,
    validation: pd.DataFrame,
    precision: str,
    folder: Path,
) -> Exported:
    """Write a classifier as a scorer that is calibrated on the validation rows.

    Parameters
    ----------
    classifier : Classifier
    max_tokens : int
    validation : DataFrame
        Columns ``review`` and ``sentiment``, of rows that the classifier has not seen.
    precision : str
        ``float32``, ``int8``, or ``auto`` for int8 where the validation rows lose next to nothing by it.
    folder : Path
        Holds the ``tokenizer.json`` and nothing else.

    Raises
    ------
    TrainingError
        If the exported network scores otherwise than the classifier.
    """
    _write_onnx(classifier.eval().cpu(), folder / MODEL)
    float32 = _calibrate(folder, max_tokens, True, validation)
    _check_equal(
        classifier, float32.scorer, Tokens(folder / TOKENIZER, max_tokens), validation["review"].head(32)
    )
    if precision == "float32":
        return float32
    kept = (folder / MODEL).rename(folder / f"float32-{MODEL}")
    with _quiet():
        quantize_dynamic(
            kept, folder / MODEL, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )
    int8 = _calibrate(folder, max_tokens, False, validation)
    told = (
        f"int8: {int8.accuracy:.4f} of the validation rows right, log loss {int8.log_loss:.4f}; "
        f"float32: {float32.accuracy:.4f}, {float32.log_loss:.4f}"
    )
    good = (
        int8.accuracy >= float32.accuracy - INT8_ACCURACY
        and int8.log_loss <= float32.log_loss * INT8_LOG_LOSS
    )
    click.echo(f"{told}: {'int8' if good or precision == 'int8' else 'float32'} is taken")
    if good or precision == "int8":
        kept.unlink()
        return int8
    kept.replace(folder / MODEL)
    write_settings(folder, SCORER, asdict(float32.scorer.settings))
    return float32


def _calibrate(folder: Path, max_tokens: int, batched: bool, validation: pd.DataFrame) -> Exported:
    """Calibrate the network in a folder on the validation rows, write its settings, and judge it on these rows."""
    uncalibrated = Calibration(scale=1.0, saturating=0.0, growing=0.0, intercept=0.0)
    scorer = EncoderScorer(folder, Settings(max_tokens, batched, **asdict(uncalibrated)))
    scores, tokens = with_progress(scorer.scores, validation, np.full(len(validation), True))
    y = (validation["sentiment"] == "positive").to_numpy()
    calibration = LengthCalibration().fit(scores, tokens, y)
    scorer.settings = Settings(max_tokens, batched, **calibration.learnt())
    write_settings(folder, SCORER, asdict(scorer.settings))
    accuracy, log_loss = accuracy_and_log_loss(y, calibration.log_odds(scores, tokens))
    return Exported(scorer, "float32" if batched else "int8", accuracy, log_loss)


def _write_onnx(classifier: Classifier, path: Path) -> None:
    """Write a network without what the exporter notes of this machine: paths of source files."""
    ids, mask = torch.ones(
        2, 2, 8, dtype=torch.long
    )  # two tensors: one given twice would be taken for one input
    texts, tokens = torch.export.Dim("texts"), torch.export.Dim("tokens")
    with _quiet():
        program = torch.onnx.export(
            classifier,
            (ids, mask),
            input_names=["ids", "mask"],
            output_names=["score"],
            dynamic_shapes={name: {0: texts, 1: tokens} for name in ("ids", "mask")},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 -- with dynamo it is there
    model = program.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def _check_equal(classifier: Classifier, scorer: EncoderScorer, tokens: Tokens, texts: pd.Series) -> None:
    ours, _ = scorer.scores(texts)
    theirs = score(classifier, [tokens.cut(ids) for ids in tokens(texts)])
    gap = float(np.abs(ours - theirs).max(initial=0))
    if not gap <= AGREE:
        raise TrainingError(
            f"the exported network and the fitted one differ by {gap:.2g} in a score, more than {AGREE:.0g}"
        )


@torch.inference_mode()
def score(classifier: Classifier, rows: list[list[int]], batch_size: int = 32) -> np.ndarray:
    """Return the raw scores of rows of tokens, of shape (n_rows,), where the network is."""
    classifier.eval()
    device = next(classifier.parameters()).device
    scores = np.empty(len(rows))
    for numbers, ids, mask in batches(rows, batch_size):
        found = classifier(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
        scores[numbers] = found.float().cpu().numpy()
    return scores


@torch.inference_mode()
def embeddings(classifier: Classifier, rows: list[list[int]], batch_size: int = 32) -> np.ndarray:
    """Return the vectors that the head is given, of shape (n_rows, hidden size), behind a progress bar."""
    classifier.eval()
    device = next(classifier.parameters()).device
    found = np.empty((len(rows), classifier.encoder.config.hidden_size), np.float32)
    with tqdm(total=len(rows), desc="embeddings", unit=" reviews", disable=None) as progress:
        for numbers, ids, mask in batches(rows, batch_size):
            vectors = classifier.embed(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
            found[numbers] = vectors.float().cpu().numpy()
            progress.update(len(numbers))
    return found


def device() -> torch.device:
    """Return where networks are trained: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def failures_told(texts: str, lower: str, at_step: Callable[[], int] | None = None) -> Iterator[None]:
    """Say in a line what to lower where memory does not suffice, or that a GPU was lost.

    Parameters
    ----------
    texts : str
        What memory has to suffice for.
    lower : str
        The parameters to lower.
    at_step : callable, optional
        Gives the step of a training that keeps checkpoints.

    Raises
    ------
    TrainingError
        In place of the error of either.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        little = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if little or "allocate memory" in reason or "out of memory" in reason:
            raise TrainingError(
                f"memory does not suffice for {texts} at once ({reason}); lower {lower}"
            ) from None
        if device().type == "cuda":
            at = "" if at_step is None else f" in step {at_step():,}"
            then = "starts again" if at_step is None else "goes on from its last checkpoint"
            raise TrainingError(f"the GPU failed{at} ({reason}); the same command {then}") from None
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what exporters print of their steps and deprecations from the terminal."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
