"""What a user may set, for all kinds of model."""

from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """What a user may set. The defaults were chosen by cross-validation on the training split.

    Each kind of model uses some of them: its module of :mod:`training` says which.
    """

    model: str = "ngram"
    ngram_max: int = 4
    min_df: int = 2
    max_features: int = 0
    alpha: float = 0.1
    C: float = 30.0
    seed: int = 0
    n_features: int = 2**20
    passes: int = 5
    weights: str = "minilm"
    max_tokens: int = 128
    head: str = "mlp"
    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 8e-5
    precision: str = "auto"
    trust: str = ""
    cascade: str = "yes"
    warm_start: int = 0
    checkpoints: str = "data/checkpoints"
    engine: str = "local"
    master: str = "local[*]"

    def as_params(self, uses: Sequence[str]) -> dict[str, str | int | float]:
        """Return the kind and the settings that it uses, under the names of the MLproject parameters."""
        return {name: getattr(self, name) for name in ("model", *uses)}

    def unused(self, uses: Sequence[str]) -> list[str]:
        """Return what was set otherwise than by default and is of no use to a kind with these settings."""
        always = {"model", "engine", "master", "checkpoints", *uses}
        return [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name not in always and getattr(self, field.name) != field.default
        ]
