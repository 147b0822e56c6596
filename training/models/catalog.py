"""The models by name.

To add one, write a module that offers what :class:`training.models.base.Kind` says, write a scorer and name it in
:data:`sentiment_model.scorers.SCORERS`, and add a line here.
"""

import importlib
import re
from typing import cast

from training.errors import TrainingError
from training.models.base import Kind

KINDS = {
    "ngram": "training.models.ngram",
    "hashing": "training.models.hashing",
    "embedding": "training.models.embedding",
    "transformer": "training.models.transformer",
    "stack": "training.models.stack",
}
OWN = "training.models.pipeline"  # of a function of the user's, path.to.module:function


def kind(name: str) -> Kind:
    """Return the module that fits a kind of model.

    Raises
    ------
    TrainingError
        If there is no such kind, or what it needs is not installed.
    """
    module = KINDS.get(name) or (OWN if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) else None)
    if module is None:
        raise TrainingError(
            f"model is {name[:80]!r}; expected {', '.join(KINDS)}, or path.to.module:function of your own"
        )
    try:
        return cast(Kind, importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"model={name} needs {error.name}, which is not installed: run 'make env-deep', or python -m pip install -r "
            "requirements/deep.txt"
        ) from None
