"""``make prune``: delete old versions, with the runs, models and artifacts behind them."""

from contextlib import suppress

import click
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from registry import canary
from registry.errors import RegistryError
from registry.stages import rollback_target, turn
from registry.store import MODEL_NAME, connect
from registry.versions import Version, all_versions, in_production

PRUNED = "sentiment.pruned"  # the version for whose sake a run is deleted


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
    """Delete all versions but those that :func:`kept` names, then the runs that no version is left of.

    A run is marked before its version goes and deleted after its artifacts went, so that a repeated call
    finishes what an interrupted one left.

    Returns
    -------
    tuple of list
        The numbers of the versions and the ids of the runs that are gone.
    """
    gone = []
    with turn(client):
        known = all_versions(client)
        stay = kept(client, newest)
        needed = {version.run_id for version in known if version.number in stay}
        for version in known:
            if version.number in stay:
                continue
            if version.run_id and version.run_id not in needed:
                _mark(client, version)
            client.delete_model_version(MODEL_NAME, str(version.number))
            gone.append(version.number)
            click.echo(f"deleted: version {version.number}")
    return gone, _sweep(client)


def _mark(client: MlflowClient, version: Version) -> None:
    try:
        client.set_tag(version.run_id, PRUNED, version.number)
    except MlflowException as error:  # somebody has deleted the run already
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise


def _sweep(client: MlflowClient) -> list[str]:
    """Delete the marked runs with their models and artifacts."""
    swept: list[str] = []
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    while runs := client.search_runs(experiments, f"tags.`{PRUNED}` LIKE '%'"):
        remaining = {version.source for version in all_versions(client)}
        for run in runs:
            _delete(client, run, remaining)
            swept.append(run.info.run_id)
            click.echo(f"deleted: run {run.info.run_id} with its artifacts")
    return swept


def _delete(client: MlflowClient, run: Run, remaining: set[str]) -> None:
    made = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    for model in made:
        if f"models:/{model.model_id}" not in remaining:  # registered again by other means than ours
            get_artifact_repository(model.artifact_location).delete_artifacts()
            client.delete_logged_model(model.model_id)
    get_artifact_repository(run.info.artifact_uri).delete_artifacts()
    client.delete_run(run.info.run_id)


@click.command(help="Delete old versions; what is in Production and what a rollback goes back to stay.")
@click.option(
    "--keep", type=click.IntRange(min=1), required=True, help="How many of the newest versions stay."
)
def main(keep: int) -> None:
    """Prune."""
    client = connect()
    for number, why in sorted(kept(client, keep).items()):
        click.echo(f"stays: version {number} ({why})")
    versions, runs = prune(client, keep)
    click.echo(f"pruned: {len(versions)} versions, {len(runs)} runs; 'mlflow gc' also empties MLflow's trash")


if __name__ == "__main__":
    main()
