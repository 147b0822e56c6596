"""Registered versions: finding one, registering one whole, fetching a verified copy."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from registry.digests import digests
from registry.errors import RegistryError, VerificationError
from registry.examples import compare, read_examples
from registry.extras import how_to_install
from registry.signatures import SIGNATURE, check_signature
from registry.store import MODEL_NAME, store_name

PRODUCTION = "Production"
REFUSED = "serve_refused"
PROMOTED_AT = "promoted_at_ns"
PROGRAM = Path(__file__).with_name("predict.py")


@dataclass(frozen=True)
class Version:
    """A registered version as it was read."""

    number: int
    stage: str
    status: str
    run_id: str
    source: str
    tags: dict[str, str]


def find(client: MlflowClient, wanted: str | int) -> Version:
    """Return a version by number, or the one in ``Production``, or the ``latest``.

    Raises
    ------
    RegistryError
        If there is no such version.
    """
    wanted = str(wanted)
    if wanted.lower() == PRODUCTION.lower():
        serving = in_production(client)
        if not serving:
            raise RegistryError(
                f"no version of {MODEL_NAME} is in {PRODUCTION} in the store {store_name()}; train with 'make run' or "
                "promote one with 'make promote VERSION=n'"
            )
        return serving[0]
    known = all_versions(client)
    if wanted == "latest" and known:
        return known[-1]
    for version in known:
        if str(version.number) == wanted:
            return version
    numbers = ", ".join(str(version.number) for version in known) or "none"
    raise RegistryError(f"{MODEL_NAME} has no version {wanted!r} (it has: {numbers})")


def all_versions(client: MlflowClient) -> list[Version]:
    """Return every version of the model, oldest first."""
    found: list[Version] = []
    token: str | None = ""
    while token is not None:
        page = client.search_model_versions(f"name = '{MODEL_NAME}'", page_token=token or None)
        found.extend(map(_read, page))
        token = page.token or None
    return sorted(found, key=lambda version: version.number)


def _read(found: ModelVersion) -> Version:
    # the SQL store gives the number as int, the REST store as str
    return Version(
        number=int(found.version),
        stage=found.current_stage or "None",
        status=found.status,
        run_id=found.run_id or "",
        source=found.source or "",
        tags=dict(found.tags),
    )


def tags(client: MlflowClient) -> dict[str, str]:
    """Return the tags of the registered model; none if there is no model yet."""
    try:
        return dict(client.get_registered_model(MODEL_NAME).tags)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def in_production(client: MlflowClient) -> list[Version]:
    """Return the versions in Production, the highest (which MLflow serves) first."""
    return [v for v in reversed(all_versions(client)) if v.stage == PRODUCTION]


def register(
    client: MlflowClient, model_uri: str, run_id: str, tags: dict[str, str], description: str
) -> Version:
    """Register a logged model with all its tags at once.

    The digests are taken of the files as the artifact store gives them back. A version is one
    transaction in the store: whoever is killed leaves a whole version or none.
    """
    with tempfile.TemporaryDirectory() as folder:
        tags = tags | digests(_download(model_uri, Path(folder)))
    try:
        client.create_registered_model(
            MODEL_NAME, description="Sentiment of a review: positive or negative, with its confidence."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model_id = model_uri.removeprefix("models:/")
    # what mlflow.register_model calls, which takes no description: set later, it could be missing
    version = client._create_model_version(
        MODEL_NAME,
        source=model_uri,
        run_id=run_id,
        tags=tags,
        description=description,
        model_id=model_id,
    )
    # the UI links a logged model to its versions by this tag
    linked = client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]")
    links = json.loads(linked)
    if not any(int(link["version"]) == int(version.version) for link in links):
        links.append({"name": MODEL_NAME, "version": version.version})
        client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(links)})
    return _read(version)


def fetch(version: Version, into: Path, to_sign: bool = False) -> Path:
    """Download a private copy of a version's files and verify it before anything loads it.

    Parameters
    ----------
    version : Version
    into : Path
        A folder that nobody else writes to.
    to_sign : bool
        Whether it may lack a signature, as it is about to be signed.

    Raises
    ------
    VerificationError
        If a file is missing, added or changed, or the version carries no digest.
    """
    where = f"{MODEL_NAME} version {version.number}"
    if version.status != "READY":
        raise RegistryError(f"{where} is {version.status}, not READY; register it again")
    uri = f"models:/{MODEL_NAME}/{version.number}"
    try:
        copy = _download(uri, into)
    except (MlflowException, OSError, ImportError) as error:
        missing = how_to_install(error) if isinstance(error, ImportError) else None
        raise VerificationError(f"{where} cannot be fetched: {missing or error}") from None
    verify(version, copy, to_sign)
    return copy


def verify(version: Version, copy: Path, to_sign: bool = False) -> None:
    """Check that the files of a private copy are those that were registered, and signed if signatures are asked for.

    Parameters
    ----------
    version : Version
    copy : Path
        What :func:`fetch` returned, now or at an earlier time.
    to_sign : bool
        As for :func:`fetch`.

    Raises
    ------
    VerificationError
        If a file is missing, added or changed, the version carries no digest, or its signature does not hold.
    """
    where = f"{MODEL_NAME} version {version.number}"
    try:
        found = digests(copy)
    except (OSError, ValueError) as error:
        raise VerificationError(f"{where} cannot be read: {error}") from None
    for name, digest in found.items():
        expected = version.tags.get(name)
        if expected is None:
            raise VerificationError(
                f"{where} has no tag {name!r}: it was not registered by this project and cannot be verified"
            )
        if expected != digest:
            raise VerificationError(
                f"{where} is not what was registered: its {name} is {digest[:12]}…, the tag says "
                f"{expected[:12]}…. Its files were changed; do not load it. Train a new version"
            )
    if not to_sign:
        check_signature(version.tags.get(SIGNATURE), copy, where)


def _download(uri: str, into: Path) -> Path:
    """Return a private copy of an artifact without bytecode.

    Whoever loads a model in place, as ``mlflow models serve`` does from a local store, leaves bytecode
    beside the sources; and Python would run a forged one in place of the source.
    """
    copy = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into)))
    for cache in [path for path in copy.rglob("__pycache__") if not path.is_symlink()]:
        shutil.rmtree(cache)
    return copy


def predict(copy: Path, texts: pd.Series, timeout: float = 1800.0) -> pd.DataFrame:
    """Score texts with a verified copy, by its own code in a process of its own, with pickle refused.

    Parameters
    ----------
    copy : Path
        What :func:`fetch` returned.
    texts : Series of str
    timeout : float
        Seconds.

    Returns
    -------
    DataFrame
        Columns ``sentiment``, ``confidence`` and ``error``; one row a text, in order.

    Raises
    ------
    RegistryError
        If the version does not load or does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.json"), Path(folder, "answered.json")
        asked.write_text(json.dumps(texts.tolist()))
        command = [sys.executable, "-P", str(PROGRAM), str(copy), str(asked), str(answered)]
        environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
        try:
            subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, check=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise RegistryError(f"the model did not answer within {timeout:.0f} s") from None
        except subprocess.CalledProcessError as error:
            last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise RegistryError(f"the model does not load or answer: {' '.join(last)}") from None
        rows = json.loads(answered.read_text())
    try:
        return pd.DataFrame(rows)[["sentiment", "confidence", "error"]].astype({"confidence": float})
    except (KeyError, TypeError, ValueError):
        raise RegistryError(
            f"the model does not answer with sentiment, confidence and error: {rows[:1]}"
        ) from None


def check_examples(copy: Path, ask: Callable[[pd.Series], pd.DataFrame] | None = None) -> None:
    """Ask a verified copy whether it gives the answers that it carries for its own example texts.

    Parameters
    ----------
    copy : Path
        What :func:`fetch` returned.
    ask : callable, optional
        How it is asked, as :func:`predict` is: by default in a process of its own.

    Raises
    ------
    RegistryError
        If it does not.
    """
    examples = read_examples(copy)
    texts = pd.Series([example["text"] for example in examples])
    answers = ask(texts) if ask else predict(copy, texts, timeout=300)
    compare(examples, answers.to_dict("records"))


def note(client: MlflowClient, number: int, tag: str, text: str) -> None:
    """Tag a version with the time and what happened to it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    client.set_model_version_tag(MODEL_NAME, str(number), tag, f"{now}: {text}"[:5000])


def withdraw(client: MlflowClient, number: int, tag: str) -> None:
    """Take a tag from a version, if it is there."""
    if tag in client.get_model_version(MODEL_NAME, str(number)).tags:
        client.delete_model_version_tag(MODEL_NAME, str(number), tag)
