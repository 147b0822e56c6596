"""``make prune``: delete old versions, with the runs, models and artifacts behind them."""

from contextlib import suppress

import click
import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from cli import Command
from registry import canary
from registry.errors import RegistryError
from registry.stages import finish_pending, rollback_target, turn
from registry.store import MODEL_NAME, connect
from registry.versions import all_versions, in_production, tags

PRUNED = "pruned."  # before the id of a run that is to be deleted


def kept(client: MlflowClient, newest: int) -> dict[int, str]:
    """Return the versions that stay, each with the reason.

    Parameters
    ----------
    client : MlflowClient
    newest : int
        How many of the versions that were registered last stay in any case.
    """
    stay = {version.number: "new" for version in all_versions(client)[-newest:]}
    shared = canary.asked(client)
    if shared:
        stay[shared.version] = "canary"
    serving = in_production(client)
    if serving:
        with suppress(RegistryError):  # there may be nothing to go back to
            stay[rollback_target(client, serving[0]).number] = "rollback target"
    return stay | {version.number: "Production" for version in serving}


def prune(client: MlflowClient, newest: int) -> tuple[list[int], list[str]]:
    """Delete all versions but those that :func:`kept` names, then the runs that nothing needs any more.

    A run is written down at the registered model before its version goes, and crossed out after its artifacts
    went, so that a repeated call finishes what an interrupted one left.

    Returns
    -------
    tuple of list
        The numbers of the versions and the ids of the runs that are gone.

    Raises
    ------
    RegistryError
        If the artifacts of a run could not be deleted; all others are.
    """
    gone = []
    with turn(client):
        finish_pending(client)  # it may say what a rollback goes back to
        stay = kept(client, newest)
        for number, why in sorted(stay.items()):
            click.echo(f"stays: version {number} ({why})")
        for version in all_versions(client):
            if version.number in stay:
                continue
            if version.run_id:
                client.set_registered_model_tag(MODEL_NAME, f"{PRUNED}{version.run_id}", str(version.number))
            client.delete_model_version(MODEL_NAME, str(version.number))
            gone.append(version.number)
            click.echo(f"deleted: version {version.number}")
        return gone, _sweep(client)


def _sweep(client: MlflowClient) -> list[str]:
    """Delete the runs that are written down with their models and artifacts, unless something needs them."""
    swept, faults = [], []
    needed = _needed(client)
    for tag in [name for name in tags(client) if name.startswith(PRUNED)]:
        run_id = tag.removeprefix(PRUNED)
        try:
            if _delete(client, run_id, needed):
                swept.append(run_id)
                click.echo(f"deleted: run {run_id} with its artifacts")
            client.delete_registered_model_tag(MODEL_NAME, tag)
        except (OSError, MlflowException) as error:
            faults.append(f"run {run_id}: {str(error).splitlines()[0][:200]}")
    if faults:
        raise RegistryError(
            f"the artifacts of {len(faults)} runs could not be deleted, the next 'make prune' tries again: "
            + "; ".join(faults[:3])
        )
    return swept


def _needed(client: MlflowClient) -> set[str]:
    """Return what the versions that are left need, under any name: ids of runs, and places of files."""
    found: set[str] = set()
    for version in mlflow.search_model_versions():
        where = client.get_model_version_download_uri(version.name, version.version)
        found |= {version.run_id or "", _plain(where)}
    return found - {""}


def _delete(client: MlflowClient, run_id: str, needed: set[str]) -> bool:
    """Delete a run, and return whether it could go."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    if run.info.lifecycle_stage == "deleted":
        click.echo(f"run {run_id} is in MLflow's trash: 'mlflow gc' deletes it with its artifacts")
        return False
    models = mlflow.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}'", output_format="list"
    )
    places = [_plain(run.info.artifact_uri), *(_plain(model.artifact_location) for model in models)]
    if run_id in needed or any(f"{one}/".startswith(f"{place}/") for place in places for one in needed):
        return False
    for model in models:
        get_artifact_repository(model.artifact_location).delete_artifacts()
        client.delete_logged_model(model.model_id)
    get_artifact_repository(run.info.artifact_uri).delete_artifacts()
    client.delete_run(run_id)
    return True


def _plain(uri: str) -> str:
    return uri.removeprefix("file://").rstrip("/")


@click.command(
    cls=Command, help="Delete old versions; what is in Production and what a rollback goes back to stay."
)
@click.option(
    "--keep", type=click.IntRange(min=1), required=True, help="How many of the newest versions stay."
)
def main(keep: int) -> None:
    """Prune."""
    client = connect()
    versions, runs = prune(client, keep)
    click.echo(f"pruned: {len(versions)} versions, {len(runs)} runs; 'mlflow gc' also empties MLflow's trash")


if __name__ == "__main__":
    main()
