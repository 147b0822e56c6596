"""The models: ours fetched, its peers trained, each asked once for the held-out rows."""

import importlib.metadata
from pathlib import Path

import click
import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from bench.processes import MEGABYTE, ROOT, BenchError, ask
from data.ingest import TABLE, read_summary
from registry.store import connect
from registry.versions import PRODUCTION, fetch, find
from training.artifact import SIGNATURE

JUDGES = {
    "ours": "ours",
    "sklearn": "sklearn-pipeline",
    "usual": "usual-pipeline",
    "fasttext": "fasttext",
    "vader": "vader",
    "textblob": "textblob",
}
PACKAGED = {"vader": "vaderSentiment", "textblob": "textblob"}


def fetch_ours(
    model: str | None, rows: int, folder: Path
) -> tuple[dict[str, str], dict[str, float], list[str]]:
    """Fetch our model and the scikit-learn pipeline that its run logged.

    Parameters
    ----------
    model : str, optional
        Path or URI; default: the version in Production.
    rows : int
        Of the table of reviews.
    folder : Path
        Existing and empty; the pipeline goes beside it.

    Returns
    -------
    files : dict
        Where ``ours`` and ``sklearn`` are.
    figures : dict
        Accuracies and ``train_seconds`` as the run logged them.
    remarks : list of str
        What the reader should know.

    Raises
    ------
    BenchError
        If the store does not have it all.
    """
    client = connect()
    try:
        if model:
            copy = Path(mlflow.artifacts.download_artifacts(artifact_uri=model, dst_path=str(folder)))
        else:
            copy = fetch(find(client, PRODUCTION), folder)
        logged = Model.load(str(copy))
        run = client.get_run(logged.run_id)
        into = folder.with_name("run")
        into.mkdir()
        pipeline = client.download_artifacts(logged.run_id, "pipeline/pipeline.cloudpickle", str(into))
        known = run.data.metrics
        figures = {
            "accuracy": known["accuracy"],
            "imdb": known["imdb/accuracy"],
            "rotten_tomatoes": known["rotten_tomatoes/accuracy"],
            "train_seconds": known["seconds/features"] + known["seconds/fit"],
        }
        trained_on = int(run.data.params["rows"])
        same_table = (logged.metadata or {})["data_sha256"] == read_summary(TABLE)["table_sha256"]
    except (MlflowException, KeyError) as error:
        raise BenchError(f"our model, or what its run logged, cannot be read: {error}") from None
    remarks = []
    if not same_table or trained_on != rows:
        remarks.append(
            f"ours was trained on {trained_on:,} rows, the table has {rows:,}: "
            "its accuracies are NOT COMPARABLE with those of the peers"
        )
    return {"ours": str(copy), "sklearn": pipeline}, figures, remarks


def save_pyfunc(name: str, path: Path, pipeline: str | None) -> None:
    """Save ``bench/peers/<name>.py`` as a pyfunc with our signature, around a scikit-learn pipeline or nothing."""
    mlflow.pyfunc.save_model(
        path,
        python_model=str(ROOT / "bench" / "peers" / f"{name}.py"),
        artifacts={"pipeline": pipeline} if pipeline else None,
        signature=SIGNATURE,
        input_example=pd.DataFrame({"text": ["A film."]}),
        pip_requirements=["mlflow"],
    )


def train(name: str, rows: pd.DataFrame, path: Path, core: int | None) -> float:
    """Train the peer ``name`` on ``rows``, write it to ``path`` and return the seconds."""
    table = path.with_suffix(".json")
    rows.reset_index(drop=True).to_json(table)
    seconds: float = ask("bench.fit", {"rows": str(table), "model": name, "path": str(path)}, core)
    click.echo(f"trained {name} in {seconds:.1f} s")
    return seconds


def label(name: str, files: dict[str, str], texts: list[str], core: int | None) -> list[str]:
    """Return what the model ``name`` answers to ``texts`` in a process of its own."""
    if name == "noop":
        return ["positive"] * len(texts)
    job = {"do": "label", "peer": JUDGES[name], "files": files, "texts": texts}
    return ["positive" if positive else "negative" for positive in ask("bench.inprocess", job, core)]


def accuracies(labels: list[str], rows: pd.DataFrame) -> dict[str, float]:
    """Return the share of right labels of all ``rows``, and of each source by its name."""
    right = rows["sentiment"] == labels
    by_source = right.groupby(rows["source"]).mean().items()
    return {"accuracy": float(right.mean())} | {str(source): float(share) for source, share in by_source}


def megabytes(name: str, files: dict[str, str]) -> float:
    """Return the size of a model on disk; of a lexicon, that of its package."""
    if name in PACKAGED:
        listed = importlib.metadata.files(PACKAGED[name]) or []
        paths = [Path(str(file.locate())) for file in listed]
    else:
        path = Path(files[name])
        paths = [path, *path.rglob("*")]
    wanted = (path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in wanted) / MEGABYTE
