"""The parameters of each model: name, type, range, default and one sentence.

To add one, add a line to its class, use it in the model's module and run ``make docs``. The command line, the run page
and docs/reference.md follow.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import click

from cli import YES_NO, Number
from spark.session import MASTER
from training.errors import TrainingError


def _parameter(default: Any, allowed: Any, what: str, *, decides: bool = True) -> Any:
    """Return a dataclass field; ``decides``: whether the fitted model depends on it."""
    return field(default=default, metadata={"allowed": allowed, "what": what, "decides": decides})


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What every model has."""

    model: str
    seed: int = _parameter(
        0, Number(int, 0, 2**32 - 1), "Seed of all that is random: folds, solver, batches, the rows of limit."
    )

    def unused(self) -> dict[str, str]:
        """Return the parameters that have no effect beside these values, and beside which."""
        return {}

    def used(self) -> dict[str, str | int | float]:
        """Return all that has an effect, for the run page."""
        return {name: value for name, value in asdict(self).items() if name not in self.unused()}

    def deciding(self) -> dict[str, str | int | float]:
        """Return what the fitted model depends on, for its artifact: not where it was fitted."""
        elsewhere = {one.name for one in fields(self) if not one.metadata.get("decides", True)}
        return {name: value for name, value in self.used().items() if name not in elsewhere}


@dataclass(frozen=True, kw_only=True)
class Ngrams(Parameters):
    """What the models of n-grams share."""

    ngram_max: int = _parameter(4, Number(int, 1, 8), "Longest n-gram, in words and punctuation marks.")


@dataclass(frozen=True, kw_only=True)
class WarmStart(Parameters):
    """What the models share that can go on from a version."""

    warm_start: int = _parameter(
        0, Number(int, 0), "Version to continue (hashing), or whose network to reuse (stack); 0 for none."
    )


@dataclass(frozen=True, kw_only=True)
class Encoder(Parameters):
    """What the models share that read texts with a pretrained encoder."""

    weights: str = _parameter(
        "minilm",
        str,
        "Pretrained: minilm, a folder that save_pretrained wrote, or a name on the Hugging Face hub.",
    )
    max_tokens: int = _parameter(
        128, Number(int, 8, 8192), "Tokens read of a text: a quarter from its head, the rest from its tail."
    )
    precision: str = _parameter(
        "auto",
        click.Choice(["auto", "float32", "int8"]),
        "Precision in serving; auto: int8 if the loss of quality is negligible.",
    )


@dataclass(frozen=True, kw_only=True)
class LogCountRatios(Ngrams):
    """What decides n-grams, log-count ratios and logistic regression. Chosen by cross-validation on the training split."""

    min_df: int = _parameter(2, Number(int, 1), "Fewest reviews that an n-gram must stand in.")
    max_features: int = _parameter(
        0, Number(int, 0), "Most n-grams to keep, those in the most reviews; 0 for all."
    )
    alpha: float = _parameter(0.1, Number(float, 1e-6, 1_000_000), "Smoothing of the log-count ratios.")
    C: float = _parameter(
        30.0, Number(float, 1e-6, 1_000_000), "Inverse strength of the classifier's regularisation."
    )


@dataclass(frozen=True, kw_only=True)
class Ngram(LogCountRatios):
    """The model ``ngram``."""

    model: str = "ngram"
    engine: str = _parameter(
        "local",
        click.Choice(["local", "spark"]),
        "Count and fit on this machine, or on Apache Spark.",
        decides=False,
    )
    master: str = _parameter(
        "local[*]",
        str,
        MASTER,
        decides=False,
    )

    def unused(self) -> dict[str, str]:
        """Return the master where Spark is not asked."""
        return {"master": "without engine=spark"} if self.engine == "local" else {}


@dataclass(frozen=True, kw_only=True)
class Hashing(Ngrams, WarmStart):
    """The model ``hashing``."""

    model: str = "hashing"
    n_features: int = _parameter(
        2**20, Number(int, 2, 2**28), "Number of features that n-grams are hashed to."
    )
    passes: int = _parameter(5, Number(int, 1, 1000), "Passes over the training rows.")


@dataclass(frozen=True, kw_only=True)
class Embedding(Encoder):
    """The model ``embedding``."""

    model: str = "embedding"
    head: str = _parameter(
        "mlp",
        click.Choice(["mlp", "logistic"]),
        "Classifier on the vectors: a small deep network, or logistic regression.",
    )


@dataclass(frozen=True, kw_only=True)
class Transformer(Encoder):
    """The model ``transformer``."""

    model: str = "transformer"
    epochs: int = _parameter(2, Number(int, 1, 1000), "Most passes of fine-tuning over the training rows.")
    batch_size: int = _parameter(16, Number(int, 1, 4096), "Texts in a step of fine-tuning.")
    learning_rate: float = _parameter(
        8e-5, Number(float, 1e-8, 1), "Learning rate of fine-tuning, at its highest."
    )
    checkpoints: str = _parameter(
        "data/checkpoints", str, "Folder that keeps a fine-tuning while it lasts.", decides=False
    )


@dataclass(frozen=True, kw_only=True)
class Stack(LogCountRatios, Transformer, WarmStart):
    """The model ``stack``."""

    model: str = "stack"
    cascade: str = _parameter("yes", YES_NO, "Ask the transformer only where the n-grams are unsure.")

    def unused(self) -> dict[str, str]:
        """Return all of the transformer's own where the network of a version is reused."""
        if not self.warm_start:
            return {}
        common = {one.name for one in fields(Parameters)}
        beside = f"with warm_start={self.warm_start}, which reuses a network"
        return {one.name: beside for one in fields(Transformer) if one.name not in common}


@dataclass(frozen=True, kw_only=True)
class Own(Parameters):
    """A pipeline of the user's own, ``model=path.to.module:function``."""

    trust: str = _parameter(
        "", str, "Comma-separated types that the fitted pipeline may hold besides those skops trusts."
    )

    def deciding(self) -> dict[str, str | int | float]:
        """Leave out the seed: of a pipeline it picks the rows of limit alone."""
        return {name: value for name, value in super().deciding().items() if name != "seed"}


MODELS: dict[str, type[Parameters]] = {
    "ngram": Ngram,
    "hashing": Hashing,
    "embedding": Embedding,
    "transformer": Transformer,
    "stack": Stack,
}
OWN = "path.to.module:function"


def choose(model: str, given: dict[str, Any]) -> Parameters:
    """Return the parameters of a model: those given, and the defaults of the others.

    Parameters
    ----------
    model : str
        A name of :data:`MODELS`, or ``path.to.module:function``.
    given : dict
        Values by name; None where nothing was given.

    Raises
    ------
    TrainingError
        If there is no such model, it has no such parameter, or one has no effect beside the others.
    """
    own = MODELS.get(model) or (Own if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", model) else None)
    if own is None:
        raise TrainingError(f"model is {model[:80]!r}; expected {', '.join(MODELS)}, or {OWN} of your own")
    given = {name: value for name, value in given.items() if value is not None}
    names = [one.name for one in fields(own) if one.name != "model"]
    if unknown := [name for name in given if name not in names]:
        raise TrainingError(f"model={model} has no parameter {', '.join(unknown)}; it has {', '.join(names)}")
    chosen = own(model=model, **given)
    for name, beside in chosen.unused().items():
        if name in given:
            raise TrainingError(f"{name} has no effect {beside}; leave it out")
    return chosen


def by_name() -> dict[str, tuple[Any, list[str]]]:
    """Return the dataclass field of each parameter, and the models that have it."""
    found: dict[str, tuple[Any, list[str]]] = {}
    for model, its in (MODELS | {OWN: Own}).items():
        for one in fields(its):
            if one.name != "model":
                found.setdefault(one.name, (one, []))[1].append(model)
    return found


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--model``, and an option for each parameter of any model: None where it is not given."""
    for name, (one, models) in reversed(by_name().items()):
        default = "empty" if one.default == "" else one.default
        told = f"{one.metadata['what']}  [{', '.join(models)}; default: {default}]"
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, type=one.metadata["allowed"], help=told)(command)
    what = f"What to train: {', '.join(MODELS)}, or {OWN} of your own."
    return click.option("--model", default="ngram", show_default=True, help=what)(command)
