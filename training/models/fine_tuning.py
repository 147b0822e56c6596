"""Fine-tuning a classifier end to end, with checkpoints from which a run that was killed goes on."""

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import click
import mlflow
import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from mlflow.entities import Metric
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from files import atomic_output, file_digest
from sentiment_model.encoder import Tokens, batches
from training.errors import TrainingError, one_line
from training.models.calibration import LengthCalibration
from training.models.encoder import Classifier, device, failures_told, score
from training.models.pretrained import find_weights
from training.parameters import Transformer
from training.report.metrics import accuracy_and_log_loss

WARM_UP, WEIGHT_DECAY, CLIP = 0.06, 0.01, 1.0
WINDOWS = 0.25  # the share of long texts of which a window at random is shown, in place of head and tail
BUCKET = 50  # batches whose rows are sorted by length together
EVALUATIONS = 3  # of the validation rows, in an epoch
PATIENCE = 5  # evaluations without a better one, after which training stops
CHECKPOINT_SECONDS = 120.0
LOG_STEPS = 20


@contextmanager
def checkpoint(table: pd.DataFrame, parameters: Transformer) -> Iterator[Path | None]:
    """Give the file in which this training, and no other, is kept while it lasts; none if another run has it now.

    It is removed when the block ends well.
    """
    # of a stack, not what its n-grams are fitted with
    tuned = {
        one.name: getattr(parameters, one.name) for one in fields(Transformer) if one.name != "checkpoints"
    }
    digest = hashlib.sha256(torch.__version__.encode())
    digest.update(json.dumps(tuned, sort_keys=True).encode())
    for column in ("review", "sentiment", "split"):
        digest.update("\0".join(table[column]).encode("utf-8", "surrogatepass"))
    weights = find_weights(parameters.weights)
    if isinstance(weights, Path):
        for file in sorted([*weights.glob("*.safetensors"), *weights.glob("*.json")]):
            digest.update(file_digest(file).encode())
    path = Path(parameters.checkpoints, f"{digest.hexdigest()[:16]}.safetensors")
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        click.echo("fit: another run trains the same now; this one keeps no checkpoints")
        yield None
        return
    except OSError as error:
        raise TrainingError(
            f"checkpoints={parameters.checkpoints}: no checkpoint can be kept there ({one_line(error)})"
        ) from None
    try:
        yield path
        path.unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


class FineTuning:
    """Trains a classifier, from the checkpoint of a run that was killed if there is one.

    Which texts are in a batch, and what is dropped in it, follows from the seed and the number of the step: a training that
    was killed and goes on ends with the same weights as one that was not, on the same device.

    Parameters
    ----------
    classifier : Classifier
        Ends with the best weights.
    tokens : Tokens
    parameters : Transformer
    kept : Path, optional
        Where the checkpoint is kept.

    Attributes
    ----------
    classifier : Classifier
    steps : int
        That were taken.
    """

    def __init__(
        self, classifier: Classifier, tokens: Tokens, parameters: Transformer, kept: Path | None
    ) -> None:
        self.steps = 0
        self._device = device()
        self.classifier = classifier
        self._tokens = tokens
        self._parameters = parameters
        self._kept = kept
        decayed = [p for p in classifier.parameters() if p.ndim > 1]
        others = [p for p in classifier.parameters() if p.ndim <= 1]
        self._tensors = [*decayed, *others]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
            lr=parameters.learning_rate,
            fused=True,
        )
        half = (
            torch.bfloat16
            if self._device.type == "cuda" and torch.cuda.is_bf16_supported()
            else torch.float16
        )
        self._mixed = torch.autocast(self._device.type, half, enabled=self._device.type == "cuda")
        scaled = self._device.type == "cuda" and half == torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=scaled)
        self._best: dict[str, Tensor] = {}
        self._best_loss = math.inf
        self._without_better = 0
        self._curves: list[tuple[str, float, int]] = []

    def run(
        self, rows: list[list[int]], y: np.ndarray, unseen: list[list[int]], unseen_y: np.ndarray
    ) -> None:
        """Train until the epochs are over, or validation gets no better.

        Parameters
        ----------
        rows : list of list of int, length n_rows
            Tokens, without special ones.
        y : ndarray of bool of shape (n_rows,)
        unseen, unseen_y
            The same of the validation rows, cut.

        Raises
        ------
        TrainingError
            If memory does not suffice, a GPU fails, or the loss is no number any more.
        """
        parameters = self._parameters
        an_epoch = math.ceil(len(rows) / parameters.batch_size)
        total = an_epoch * parameters.epochs
        evaluate_each = max(1, an_epoch // EVALUATIONS)
        texts = f"{parameters.batch_size} texts of {parameters.max_tokens} tokens"
        with failures_told(texts, "batch_size or max_tokens", lambda: self.steps):
            self.classifier.to(self._device)
            self._resume()
            saved = time.monotonic()
            losses: deque[float] = deque(maxlen=LOG_STEPS)
            with tqdm(
                total=total, initial=self.steps, desc="fine-tuning", unit=" steps", disable=None
            ) as progress:
                while self.steps < total and self._without_better < PATIENCE:
                    epoch, at = divmod(self.steps, an_epoch)
                    if at == 0 or not losses:
                        plan = self._plan(rows, epoch)
                    try:
                        losses.append(self._step(rows, y, plan[at], total))
                        self.steps += 1
                        progress.update()
                        if self.steps % LOG_STEPS == 0:
                            mean = float(np.mean(losses))
                            progress.set_postfix(loss=f"{mean:.3f}")
                            self._log(loss=mean, learning_rate=self._optimizer.param_groups[0]["lr"])
                        if self.steps % evaluate_each == 0 or self.steps == total:
                            self._evaluate(unseen, unseen_y)
                        if time.monotonic() - saved > CHECKPOINT_SECONDS:
                            self._save()
                            saved = time.monotonic()
                    except KeyboardInterrupt:
                        self._save()
                        raise
        if self.steps < total:
            click.echo(
                f"fit: stopped early after {self.steps:,} of {total:,} steps, validation got no better"
            )
        self.classifier.load_state_dict(self._best)

    def _plan(self, rows: list[list[int]], epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch: at random, but of about the same length each."""
        random = np.random.default_rng([self._parameters.seed, epoch])
        size = self._parameters.batch_size
        lengths = np.minimum([len(row) for row in rows], self._tokens.room)
        order = random.permutation(len(rows))
        plan: list[np.ndarray] = []
        for start in range(0, len(order), BUCKET * size):
            part = order[start : start + BUCKET * size]
            part = part[np.argsort(lengths[part], kind="stable")]
            found = [part[at : at + size] for at in range(0, len(part), size)]
            plan += [found[i] for i in random.permutation(len(found))]
        return plan

    def _step(self, rows: list[list[int]], y: np.ndarray, batch: np.ndarray, total: int) -> float:
        random = np.random.default_rng([self._parameters.seed, 1, self.steps])
        torch.manual_seed(int(random.integers(2**63)))
        warm_up = max(1, round(WARM_UP * total))
        rate = min((self.steps + 1) / warm_up, (total - self.steps) / max(1, total - warm_up))
        for group in self._optimizer.param_groups:
            group["lr"] = self._parameters.learning_rate * rate
        ((numbers, ids, mask),) = batches([self._shown(rows[row], random) for row in batch], len(batch))
        wanted = torch.from_numpy(y[batch][numbers].astype(np.float32)).to(self._device)
        self.classifier.train()
        with self._mixed:
            scores = self.classifier(
                torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)
            )
        loss = nn.functional.binary_cross_entropy_with_logits(scores.float(), wanted)
        self._stop_if_no_number(loss.item(), "the loss")
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._tensors, CLIP)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return float(loss.detach())

    def _shown(self, ids: list[int], random: np.random.Generator) -> list[int]:
        """Return head and tail of a text, or now and then a window of a long one."""
        room = self._tokens.room
        if len(ids) > room and random.random() < WINDOWS:
            start = int(random.integers(len(ids) - room + 1))
            ids = ids[start : start + room]
        return self._tokens.cut(ids)

    def _evaluate(self, unseen: list[list[int]], y: np.ndarray) -> None:
        """Judge the weights as they will be exported, calibrated: a network's log-odds grow while its answers get better."""
        scores = score(self.classifier, unseen)
        self._stop_if_no_number(float(scores.sum()), "a score")
        tokens = np.array([len(row) for row in unseen], float)
        calibration = LengthCalibration().fit(scores, tokens, y)
        accuracy, loss = accuracy_and_log_loss(y, calibration.log_odds(scores, tokens))
        self._log(validation_loss=loss, validation_accuracy=accuracy)
        click.echo(f"fit: step {self.steps:,}, validation loss {loss:.4f}, accuracy {accuracy:.4f}")
        self._without_better += 1
        if loss < self._best_loss or not self._best:
            self._best_loss, self._without_better = loss, 0
            self._best = {name: value.clone() for name, value in self.classifier.state_dict().items()}

    def _stop_if_no_number(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{what} is {value} in step {self.steps}; lower learning_rate ({self._parameters.learning_rate:g})"
            )

    def _log(self, **values: float) -> None:
        found = [(f"curve/{name}", value, self.steps) for name, value in values.items()]
        self._curves += found
        _log_curves(found)

    def _save(self) -> None:
        """Write the checkpoint, whole or not at all; where there is no place for it, say so and go on."""
        if self._kept is None:
            return
        tensors = {f"now.{name}": value for name, value in self.classifier.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        for number, parameter in enumerate(self._tensors):
            for name, value in self._optimizer.state[parameter].items():
                tensors[f"optimizer.{number}.{name}"] = value
        state = {
            "steps": self.steps,
            "best_loss": self._best_loss,
            "without_better": self._without_better,
            "curves": self._curves,
            "scaler": self._scaler.state_dict(),
        }
        try:
            with atomic_output(self._kept) as part:
                save_file(tensors, part, {"state": json.dumps(state)})
        except (SafetensorError, OSError) as error:
            click.echo(
                f"NOTE: in step {self.steps:,} no checkpoint could be written ({one_line(error)})", err=True
            )

    def _take_up(self, kept: Path) -> None:
        with safe_open(kept, "pt") as file:
            state = json.loads(file.metadata()["state"])
        of: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "optimizer": {}}
        for name, value in load_file(kept, device=str(self._device)).items():
            part, _, rest = name.partition(".")
            of[part][rest] = value
        self.classifier.load_state_dict(of["now"])
        for name, value in of["optimizer"].items():
            number, _, of_it = name.partition(".")
            self._optimizer.state[self._tensors[int(number)]][of_it] = value
        self._scaler.load_state_dict(state["scaler"])
        steps, best_loss, without_better = state["steps"], state["best_loss"], state["without_better"]
        curves = [(name, value, at) for name, value, at in state["curves"]]
        self._best, self._best_loss, self._without_better = of["best"], best_loss, without_better
        self.steps, self._curves = steps, curves

    def _resume(self) -> None:
        if self._kept is None or not self._kept.is_file():
            return
        before = {name: value.clone() for name, value in self.classifier.state_dict().items()}
        try:
            self._take_up(self._kept)
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # no fault of the checkpoint's: it stays
            raise
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError):
            click.echo("fit: the checkpoint of an earlier run cannot be read; from the beginning")
            self.classifier.load_state_dict(before)
            self._optimizer.state.clear()
            self.steps = 0
            return
        _log_curves(self._curves)
        click.echo(f"fit: an earlier run was broken off; going on from step {self.steps:,}")


def _log_curves(curves: list[tuple[str, float, int]]) -> None:
    active = mlflow.active_run()
    if active is None:
        return
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, at) for name, value, at in curves]
    for start in range(0, len(metrics), 1000):  # so many MLflow takes at once
        mlflow.MlflowClient().log_batch(active.info.run_id, metrics[start : start + 1000])
