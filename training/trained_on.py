"""Which rows a version was fitted on, as the run that trained it says."""

import tempfile

import click
import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException

from registry.versions import Version

TRAINED_ON = "data/trained_on.parquet"


def trained_on(version: Version) -> pd.Series:
    """Return the hashes of the rows that a version was fitted on; empty, said loudly, if unknown."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            uri = f"runs:/{version.run_id}/{TRAINED_ON}"
            path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            return pd.read_parquet(path)["row"]
        except (MlflowException, OSError, KeyError, pa.ArrowException):
            click.echo(
                f"WARNING: what version {version.number} was trained on cannot be read; "
                "the metrics may be of rows that it has seen",
                err=True,
            )
            return pd.Series([], dtype=str)
