"""From a fitted pipeline to the artifact: an MLflow model without pickle, paths or secrets.

The module is an MLflow flavor in the sense of ``mlflow.models.Model.log``: its :func:`save_model`
saves a pyfunc and then takes the build machine's paths out of ``MLmodel``.
"""

import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sentiment_model
from sentiment_model.base import SETTINGS, Scorer
from sentiment_model.contract import TEXT, answer
from training.errors import TrainingError

FLAVOR_NAME = "pyfunc"  # under which MLflow lists the logged model
# of every kind; the last two make uvicorn faster, and free of the 44 ms that its second worker adds to each request else
SERVING_PACKAGES = ("mlflow", "numpy", "pandas", "pyarrow", "httptools", "uvloop")
NOT_ON_WINDOWS = {"uvloop"}
EXAMPLES = "examples.json"
EXAMPLE_TEXTS = (
    "A wonderful film. I laughed, I cried, and I would see it again tomorrow.",
    "Two hours of my life that I will never get back: dull, loud and badly acted.",
    "Not bad at all, but the second half drags.",
    "I can't say that it's good.",
    "<b>Caf&eacute; scenes</b> are great 😀<br /><br />10/10!",
    "zxqvjk",
)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", TEXT)]),
    outputs=Schema(
        [
            ColSpec("string", "sentiment", required=False),
            ColSpec("double", "confidence", required=False),
            ColSpec("string", "error", required=False),
        ]
    ),
    params=ParamSchema([ParamSpec("explain", DataType.long, default=0)]),
)


def write_settings(folder: Path, scorer: str, settings: dict[str, Any]) -> None:
    """Write what :func:`sentiment_model.base.read_settings` reads."""
    _write_json(folder / SETTINGS, {"scorer": scorer} | settings)


def write_examples(scorer: Scorer, folder: Path) -> None:
    """Write example texts with their answers, so that anyone can ask a loaded version whether it is itself.

    Raises
    ------
    TrainingError
        If it has no number for one of them, or for a text that holds nothing.
    """
    odds = scorer.log_odds(EXAMPLE_TEXTS)
    if not np.isfinite([*odds, *scorer.log_odds([""])]).all():
        raise TrainingError(
            "the fitted model scores a text by what is no finite number; it is not registered"
        )
    examples = [{TEXT: t, **answer(s)} for t, s in zip(EXAMPLE_TEXTS, odds.tolist(), strict=True)]
    _write_json(folder / EXAMPLES, examples)


def log_model(
    scorer_folder: Path, packages: Sequence[str], params: dict[str, Any], metadata: dict[str, Any]
) -> ModelInfo:
    """Log the artifact to the active run as the model named ``model``.

    Parameters
    ----------
    scorer_folder : Path
        What :attr:`training.models.base.Trained.export` wrote.
    packages : sequence of str
        What its scorer needs beside :data:`SERVING_PACKAGES`.
    params, metadata : dict
        Of the logged model.
    """
    # MLflow tries the model before it uploads the folder: bytecode left there would carry paths and
    # times of this machine
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return Model.log(
            artifact_path=None,
            name="model",
            flavor=sys.modules[__name__],
            params=params,
            metadata=metadata,
            scorer_folder=scorer_folder,
            packages=packages,
        )
    finally:
        sys.dont_write_bytecode = before


def save_model(path: str, mlflow_model: Model, scorer_folder: Path, packages: Sequence[str]) -> None:
    """Save the artifact to ``path``. MLflow calls this from :func:`log_model`."""
    with tempfile.TemporaryDirectory() as staging:
        package = Path(staging, "sentiment_model")
        package.mkdir()
        source = Path(sentiment_model.__file__).parent
        for module in sorted(source.glob("*.py")):
            shutil.copyfile(module, package / module.name)
        direct = sorted({*SERVING_PACKAGES, *packages})
        constraints = Path(staging, "constraints.txt")
        constraints.write_text("\n".join(dependency_pins(direct)) + "\n")
        mlflow.pyfunc.save_model(
            path=path,
            mlflow_model=mlflow_model,
            python_model=str(package / "entry.py"),
            code_paths=[str(package)],
            artifacts={"scorer": str(scorer_folder)},
            signature=SIGNATURE,
            input_example=pd.DataFrame({TEXT: EXAMPLE_TEXTS[:2]}),
            pip_requirements=[*map(_pin, direct), f"-c {constraints}"],
        )
    pyfunc = mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]
    pyfunc["model_code_path"] = Path(pyfunc["model_code_path"]).name
    for artifact in pyfunc["artifacts"].values():
        artifact["uri"] = artifact["path"]
    mlflow_model.artifact_path = "model"  # MLflow puts the absolute folder of the store here
    mlflow_model.save(str(Path(path, "MLmodel")))


def dependency_pins(packages: Sequence[str]) -> list[str]:
    """Return ``name==version`` for every installed package that the given ones depend on, sorted, without themselves."""
    found: dict[str, set[str]] = {}
    waiting = [Requirement(name) for name in packages]
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        if name in found and needed.extras <= found[name]:
            continue
        extras = found[name] = found.get(name, set()) | needed.extras
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                waiting.append(requirement)
    indirect = found.keys() - {canonicalize_name(name) for name in packages}
    return sorted(f"{name}=={importlib.metadata.version(name)}" for name in indirect)


def _pin(package: str) -> str:
    marker = '; sys_platform != "win32"' if package in NOT_ON_WINDOWS else ""
    return f"{package}=={importlib.metadata.version(package)}{marker}"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
