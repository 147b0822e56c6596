"""The module that fits each model.

To add a model, write a class of its parameters in :mod:`training.parameters`, a module that offers what
:class:`training.models.base.Model` says and a line here, and for serving a scorer in :data:`sentiment_model.scorers.SCORERS`.
"""

import importlib
from typing import cast

from training import parameters
from training.errors import TrainingError
from training.models.base import Model

FITTED_BY: dict[type[parameters.Parameters], str] = {
    parameters.Ngram: "training.models.ngram",
    parameters.Hashing: "training.models.hashing",
    parameters.Embedding: "training.models.embedding",
    parameters.Transformer: "training.models.transformer",
    parameters.Stack: "training.models.stack",
    parameters.Own: "training.models.pipeline",
}


def model_of(chosen: parameters.Parameters) -> Model:
    """Return the module that fits a model with these parameters.

    Raises
    ------
    TrainingError
        If what it needs is not installed.
    """
    try:
        return cast(Model, importlib.import_module(FITTED_BY[type(chosen)]))
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"model={chosen.model} needs {error.name}, which is not installed: run 'make env-deep', or python -m pip install -r "
            "requirements/deep.txt"
        ) from None
