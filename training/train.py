"""Entry point ``train``: features → fit → evaluate → explain → log → register."""

import importlib.metadata
import platform
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cloudpickle
import mlflow
import pandas as pd
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from sklearn.pipeline import Pipeline

import sentiment_model
import training
from cli import Command
from data.ingest import TABLE, read_summary
from data.table import COLUMNS, read_table, reviews_of, row_hashes
from files import file_digest
from registry.store import MODEL_NAME, connect
from registry.versions import register
from sentiment_model.base import Scorer
from sentiment_model.contract import answer
from training.artifact import log_model, write_examples
from training.gate import HELD_OUT, HELD_OUT_DIGEST
from training.models.base import Trained
from training.models.catalog import model_of
from training.options import limit_option, register_option
from training.parameters import Parameters, choose, parameter_options
from training.report.card import model_card
from training.report.explain import confident_mistakes, strongest_ngrams
from training.report.metrics import scores_by_source
from training.report.plots import judgement_plots, strongest_ngrams_plot
from training.steps import PATIENT, run, step
from training.trained_on import TRAINED_ON

TAGGED = ("accuracy", "f1", "roc_auc", "log_loss", "ece")  # the metrics that a version's tags have
CHECKED = 1_000  # held-out reviews on which what is exported is compared with what was fitted


@dataclass(frozen=True)
class Candidate:
    """A logged model with everything that its registered version will carry."""

    model_uri: str
    run_id: str
    tags: dict[str, str]
    description: str
    scores: dict[str, float]


def train(table: pd.DataFrame, summary: dict[str, Any], parameters: Parameters) -> Candidate:
    """Fit, judge and log a model to the active MLflow run.

    Parameters
    ----------
    table : DataFrame
        Columns ``review``, ``sentiment``, ``split`` and ``source``.
    summary : dict
        What ingest said of the data.
    parameters : Parameters

    Raises
    ------
    TrainingError
        If the model cannot be fitted on these rows, or needs what is not installed.
    """
    model = model_of(parameters)
    active = mlflow.active_run()
    assert active is not None  # noqa: S101 -- the entry points start one
    run_id = active.info.run_id
    log_context(run_id, table, summary, parameters.used() | {"rows": len(table)})

    trained = model.train(table, parameters)

    with step("evaluate", "judging rows that the model never saw"):
        judged = table[["sentiment", "split", "source"]].assign(log_odds=trained.log_odds)
        judged = judged.reset_index(drop=True)
        held_out = judged[judged["split"] == "test"]
        left_out = judged[(judged["split"] == "train") & judged["log_odds"].notna()]
        scores, unseen = scores_by_source(held_out), scores_by_source(left_out)
        prefix = "cv" if trained.judged == "cross-validation" else trained.judged
        mlflow.log_metrics(scores | {f"{prefix}/{name}": value for name, value in unseen.items()})

    with step("explain", "plots, mistakes, what pulls most"):
        strongest = None if trained.ngrams is None else strongest_ngrams(trained.ngrams)
        log_pictures(held_out, strongest, table)

    with step("log", "artifact, pipeline, model card"), tempfile.TemporaryDirectory() as folder:
        scorer_folder = Path(folder, "scorer")
        scorer_folder.mkdir()
        scorer = trained.export(scorer_folder, pd.Series(reviews_of(table, held_out.index[:CHECKED])))
        write_examples(scorer, scorer_folder)
        digest = log_predictions(held_out, row_hashes(table), trained, Path(folder))
        if trained.pipeline is not None:
            log_pipeline(trained.pipeline, Path(folder))
        card = model_card(trained, summary, scores, unseen, strongest, answer_to_nothing(scorer))
        mlflow.log_text(card, "model_card.md")
        mlflow.set_tag(MLFLOW_RUN_NOTE, card)
        if trained.weights is not None:
            mlflow.log_artifacts(trained.weights.name, "weights")
        info = log_model(
            scorer_folder, trained.packages, parameters.deciding(), {"data_sha256": summary["table_sha256"]}
        )
    tags = version_tags(run_id, scores, parameters.model, summary, len(table)) | {HELD_OUT_DIGEST: digest}
    shown = ", ".join(f"{name} {value}" for name, value in tags.items() if name in scores)
    click.echo(f"held out: {shown}")
    return Candidate(f"models:/{info.model_id}", run_id, tags, card, scores)


def version_tags(
    run_id: str, scores: dict[str, float], model: str, summary: dict[str, Any], rows: int
) -> dict[str, str]:
    """Return what a registered version says of itself, beside the digests of its files."""
    tags = {name: f"{scores[name]:.4f}" for name in TAGGED if name in scores}
    tags |= {
        "model": model,
        "data_source": summary["source"],
        "data_sha256": summary["table_sha256"],
        "rows": str(rows),
    }
    if commit := mlflow.get_run(run_id).data.tags.get("mlflow.source.git.commit"):
        tags["git_commit"] = commit
    return tags


def log_context(
    run_id: str, table: pd.DataFrame, summary: dict[str, Any], params: dict[str, str | int | float]
) -> None:
    """Log parameters, data set and environment."""
    # `mlflow run` has logged the parameters as the user typed them: log what is missing
    known = mlflow.get_run(run_id).data.params
    mlflow.log_params({name: value for name, value in params.items() if name not in known})
    for split, context in (("train", "training"), ("test", "held-out")):
        count = (table["split"] == split).sum()
        rows = pd.DataFrame("", range(count), COLUMNS, dtype=object)  # their number and columns are logged
        with warnings.catch_warnings():
            # MLflow has registered its own source for local files twice, and warns of it
            warnings.filterwarnings("ignore", message="The specified dataset source can be")
            dataset = from_pandas(
                rows,
                source=f"data/{TABLE.name}",
                targets="sentiment",
                name=f"{summary['source'].rsplit('/', 1)[-1]}-{split}",
                digest=summary["table_sha256"][:12],
            )
        try:
            mlflow.log_input(dataset, context=context)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            # another run of the same rows wrote the data set after MLflow had looked for it
            mlflow.log_input(dataset, context=context)
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            package.metadata["Name"]: package.version
            for package in sorted(
                importlib.metadata.distributions(), key=lambda one: one.metadata["Name"].lower()
            )
        },
    }
    mlflow.log_dict(environment, "environment.json")


def log_pictures(held_out: pd.DataFrame, strongest: pd.DataFrame | None, table: pd.DataFrame) -> None:
    """Log the plots of a judgement, the n-grams that pull most if there are some, and the most confident mistakes."""
    plots = judgement_plots(held_out)
    if strongest is not None:
        plots["strongest_ngrams"] = strongest_ngrams_plot(strongest)
    for name, figure in plots.items():
        mlflow.log_figure(figure, f"plots/{name}.png")
    mlflow.log_table(confident_mistakes(held_out, table), "held_out/confident_mistakes.json")


def log_predictions(held_out: pd.DataFrame, hashes: pd.Series, trained: Trained, folder: Path) -> str:
    """Log held-out predictions and trained-on rows by row hash; return the digest of the former."""
    predictions = folder / Path(HELD_OUT).name
    held_out.assign(row=hashes[held_out.index])[["row", "sentiment", "source", "log_odds"]].to_parquet(
        predictions, index=False
    )
    mlflow.log_artifact(str(predictions), str(Path(HELD_OUT).parent))
    trained_on = folder / Path(TRAINED_ON).name
    rows = hashes[trained.seen]
    if trained.earlier is not None:
        rows = pd.concat([trained.earlier, rows]).drop_duplicates()
    pd.DataFrame({"row": rows}).to_parquet(trained_on, index=False)
    mlflow.log_artifact(str(trained_on), str(Path(TRAINED_ON).parent))
    return file_digest(predictions)


def log_pipeline(pipeline: Pipeline, folder: Path) -> None:
    """Log the fitted scikit-learn pipeline for notebooks. Nothing that serves ever loads it."""
    path = folder / "pipeline.cloudpickle"
    ours = (sentiment_model, training)
    for package in ours:
        cloudpickle.register_pickle_by_value(package)
    try:
        with path.open("wb") as file:
            cloudpickle.dump(pipeline, file)
    finally:
        for package in ours:
            cloudpickle.unregister_pickle_by_value(package)
    mlflow.log_artifact(str(path), "pipeline")


def answer_to_nothing(scorer: Scorer) -> dict[str, Any]:
    """Return the answer for a text without one known n-gram."""
    return dict(answer(float(scorer.log_odds([""])[0])))


def pick(table: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """Return about ``limit`` rows with the shares of split, label and source kept; all if it is 0."""
    if not 0 < limit < len(table):
        return table
    others = table.drop(columns="review").reset_index(drop=True)
    groups = others.groupby(["split", "sentiment", "source"])
    picked = groups.sample(frac=limit / len(table), random_state=seed).sort_index()
    return picked.assign(review=reviews_of(table, picked.index))[COLUMNS].reset_index(drop=True)


def register_candidate(candidate: Candidate) -> int:
    """Register a candidate and return the number of its version."""
    with step("register", "one version with all its tags"):
        number = register(
            connect(), candidate.model_uri, candidate.run_id, candidate.tags, candidate.description
        ).number
    mlflow.set_tag("version", number)
    click.echo(f"registered: {MODEL_NAME} version {number}")
    return number


@click.command(cls=Command, help="Train on the table that ingest wrote, log everything, register.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    default=TABLE,
    help="The table.  [default: data/imdb.csv]",
)
@parameter_options
@limit_option
@register_option
def main(data: Path, limit: int, register: str, model: str, **given: Any) -> None:
    """Run the entry point."""
    chosen = choose(model, given)
    model_of(chosen)  # that what it needs is installed
    table, summary = pick(read_table(data), limit, chosen.seed), read_summary(data)
    connect(PATIENT)
    with run("train"):
        candidate = train(table, summary, chosen)
        if register == "yes":
            register_candidate(candidate)


if __name__ == "__main__":
    main()
