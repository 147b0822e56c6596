"""The model ``path.to.module:function``: a scikit-learn pipeline of the user's own, from raw texts to a classifier.

Its fitted form is written by skops, which makes nothing but types that it knows to be harmless or that the user has
agreed to (the setting ``trust``), and reads no pickle.
"""

import importlib
import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pandas as pd
import skops.io
from sklearn.base import BaseEstimator, is_classifier
from threadpoolctl import threadpool_limits

from sentiment_model.pipeline import PIPELINE, PipelineScorer, scores
from sentiment_model.pipeline import Settings as Scoring
from training.artifact import write_settings
from training.errors import TrainingError, one_line
from training.models.base import Trained
from training.models.calibration import LengthCalibration
from training.models.validation import judge, validation_rows
from training.parameters import Own
from training.steps import step

PACKAGES = ("scikit-learn", "skops")
SCORER, SCHEMA = "pipeline", "schema.json"
AGREE = 1e-6  # scores in which the pipeline that is read back and the fitted one may differ


def train(table: pd.DataFrame, parameters: Own) -> Trained:
    """Fit the pipeline on the training rows but those of validation, write it, calibrate; judge what is exported."""
    pipeline = _unfitted(parameters.model)
    left_out = validation_rows(table)
    fitted = table[(table["split"] == "train").to_numpy() & ~left_out]
    with step("fit", f"{parameters.model} on {len(fitted):,} reviews"), threadpool_limits(1):
        try:
            pipeline.fit(fitted["review"].tolist(), (fitted["sentiment"] == "positive").to_numpy())
        except Exception as error:  # whatever it holds may fail in ways of its own
            raise TrainingError(
                f"model={parameters.model}: the pipeline cannot be fitted: {one_line(error)}"
            ) from error
    made = TemporaryDirectory(prefix="pipeline-")
    with step("export", "skops, calibration"):
        scorer = _export(pipeline, table[left_out], parameters, Path(made.name))
    recipe = (
        f"`{parameters.model}`: {one_line(repr(pipeline))}; calibration by length on rows left out of fitting. Types "
        f"agreed to: {', '.join(scorer.settings.trusted) or 'none but those that skops knows to be harmless'}."
    )
    packages = (*PACKAGES, *_packages(scorer.settings.trusted))
    return judge(scorer, made, recipe, packages, table, left_out)


def _unfitted(name: str) -> Any:
    """Return what the user's function returns, if that is a classifier of raw texts.

    Raises
    ------
    TrainingError
        If there is no such function, it fails, or returns something else.
    """
    module, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), function)()
        can = any(hasattr(made, method) for method in ("decision_function", "predict_proba"))
        is_one = can and isinstance(made, BaseEstimator) and is_classifier(made)
    except (Exception, SystemExit) as error:  # it is the user's code, and may end in ways of its own
        raise TrainingError(f"model={name}: {one_line(error)}") from error
    if not is_one:
        raise TrainingError(
            f"model={name} returned {one_line(repr(made))[:100]}, which is no classifier; return an unfitted scikit-learn pipeline "
            "from raw texts to a classifier with decision_function or predict_proba"
        )
    return made


def _export(pipeline: Any, validation: pd.DataFrame, parameters: Own, folder: Path) -> PipelineScorer:
    """Write a fitted pipeline, calibrated on the validation rows, and return the scorer as it is read back.

    Raises
    ------
    TrainingError
        If it cannot be written, holds types that were not agreed to or that are not there to be served, or answers otherwise
        when it is read back.
    """
    name = parameters.model
    try:
        skops.io.dump(pipeline, folder / PIPELINE)
        _without_addresses(folder / PIPELINE)
        unknown = skops.io.get_untrusted_types(file=folder / PIPELINE)
    except Exception as error:  # of a type that it does not know, it may fail anywhere
        raise TrainingError(
            f"model={name}: its fitted form cannot be written by skops: {one_line(error)}"
        ) from error
    trusted = [entry.strip() for entry in parameters.trust.split(",") if entry.strip()]
    asked = [entry for entry in unknown if entry not in trusted]
    if asked:
        raise TrainingError(
            f"model={name}: its fitted form holds types that skops does not know to be harmless: {', '.join(asked)}. If you trust "
            f"them, repeat this with trust={','.join(unknown)}"
        )
    texts = validation["review"].tolist()
    try:
        found = scores(pipeline, texts)
    except (Exception, SystemExit) as error:  # as above
        raise TrainingError(f"model={name}: texts cannot be scored: {one_line(error)}") from error
    if found[0].shape != (len(texts),) or not np.isfinite(found[0]).all():
        raise TrainingError(f"model={name}: its scores are not one finite number for each text")
    calibration = LengthCalibration().fit(*found, (validation["sentiment"] == "positive").to_numpy())
    write_settings(folder, SCORER, asdict(Scoring(unknown, **calibration.learnt())))
    try:
        scorer = PipelineScorer.load(folder)
    except Exception as error:  # as above
        raise TrainingError(
            f"model={name}: its fitted form cannot be read back: {one_line(error)}"
        ) from error
    gap = np.abs(scorer.log_odds(texts) - calibration.log_odds(*found)).max()
    if not gap <= AGREE:
        raise TrainingError(
            f"model={name}: the pipeline that is read back and the fitted one differ by {gap:.2g} in a score, more than {AGREE:.0g}"
        )
    return scorer


def _without_addresses(path: Path) -> None:
    """Write a file of skops anew, its objects numbered from 0 in place of where they lay in memory, and without the time.

    The same pipeline gives the same file then.
    """
    with ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}

    def numbered(node: dict[str, Any]) -> dict[str, Any]:
        # a dict of the user's has its own keys, which may be the same words; what lies under them is a node
        if isinstance(key := node.get("__id__"), int):
            node["__id__"] = numbers.setdefault(key, len(numbers))
        if isinstance(file := node.get("file"), str) and file in contents:
            node["file"] = names.setdefault(file, f"{len(names)}{Path(file).suffix}")
        return node

    schema = json.loads(contents.pop(SCHEMA), object_hook=numbered)
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr(ZipInfo(SCHEMA), json.dumps(schema))
        for name, content in contents.items():
            archive.writestr(ZipInfo(names[name]), content)


def _packages(types: list[str]) -> list[str]:
    """Return the distributions that types come from, which serving must have.

    Raises
    ------
    TrainingError
        If a type comes from no installed distribution, as one of the user's own modules, which is not shipped.
    """
    distributions = importlib.metadata.packages_distributions()
    found = set()
    for name in types:
        module = name.partition(".")[0]
        if module not in distributions:
            raise TrainingError(
                f"the pipeline holds {name}, of a module that does not ship with the model; use what an installed package has"
            )
        found |= {*distributions[module]}
    return sorted(found)
