"""Where the registry is, and the model's name in it."""

import atexit
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from registry.errors import RegistryError
from registry.extras import how_to_install

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
MODEL_NAME = "SentimentClassifier"
ROOT = Path(__file__).resolve().parent.parent

# at its end a process looks for garbage in all that MLflow loaded, which takes one to three seconds: not in what is frozen
atexit.register(gc.freeze)


def connect(retries: int = 2) -> MlflowClient:
    """Return a client of the store: ``MLFLOW_TRACKING_URI`` if set, else ``mlflow.db`` in the project root.

    Parameters
    ----------
    retries : int
        How often this process repeats a request from now on if a server does not answer: 2 take 4 s, 5 a
        minute. The variable ``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` goes before it.

    Raises
    ------
    RegistryError
        If the store does not answer.
    """
    # MLflow's own default is a file in the current folder: from elsewhere a new, empty store
    # would appear without a word
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{ROOT / 'mlflow.db'}"
    given = os.environ.get(RETRIES)
    os.environ[RETRIES] = given or "2"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(uri)
    try:
        client = MlflowClient()
        client.search_registered_models(max_results=1)
    except Exception as error:  # whatever MLflow, a driver of a database, SQLAlchemy or alembic raises
        if isinstance(error, ImportError) and (missing := how_to_install(error)):
            raise RegistryError(
                _without_password(f"MLFLOW_TRACKING_URI={uri} needs a package: {missing}")
            ) from None
        reason = str(error).splitlines()[0][:400]
        what = "does not answer", "check MLFLOW_TRACKING_URI and that its server runs"
        if "error code 401" in reason or "error code 403" in reason:
            what = (
                "does not let you in",
                "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the name that you call it by",
            )
        elif "CERTIFICATE_VERIFY_FAILED" in str(error):
            what = "has a certificate that is not trusted here", "give it in MLFLOW_TRACKING_SERVER_CERT_PATH"
        raise RegistryError(
            _without_password(f"the tracking store {uri} {what[0]} ({reason}); {what[1]}")
        ) from None
    os.environ[RETRIES] = given or str(retries)
    return client


@contextmanager
def answering() -> Iterator[None]:
    """Say it in one line if a tracking server fails, does not answer any more, does not allow something, or lost it.

    Raises
    ------
    RegistryError
        If that is so.
    """
    try:
        yield
    except ImportError as error:  # of what keeps the artifacts
        if missing := how_to_install(error):
            raise RegistryError(missing) from None
        raise
    except MlflowException as error:
        first = error.__context__  # what ended the run before its end could not be written down
        while first is not None and not isinstance(first, KeyboardInterrupt | click.ClickException):
            first = first.__context__
        if first is not None:
            raise first from None
        if "failed with error code 403" in error.message:
            raise RegistryError(
                f"the tracking server {store_name()} does not allow you to do this; "
                "use another MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            ) from None
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"{error.message}: it was deleted meanwhile; run again") from None
        if experiment := re.match(r"Experiment\(name=(.*?)\) already exists", error.message):
            raise RegistryError(
                f"another run made the experiment {experiment[1]!r} just now; run again. If it stays so, the experiment "
                "was deleted: restore it, or give another name (MLFLOW_EXPERIMENT_NAME)"
            ) from None
        if not re.match(r"API request to .* failed with (timeout )?exception", error.message):
            raise
        what = "fails, its log says why" if "error responses" in error.message else "does not answer any more"
        raise RegistryError(
            f"the tracking server {store_name()} {what}; its data is intact. Fix the server, then run again"
        ) from None


def store_name() -> str:
    """Return where the store is, without a password."""
    return _without_password(mlflow.get_tracking_uri())


def _without_password(text: str) -> str:
    return re.sub(r"(?<=//)[^/@\s]+@", "", text)
