"""Entry point ``promote``: verify, gate, and make a version the one in Production."""

import os
import tempfile
from pathlib import Path

import click
import mlflow
from mlflow.tracking import MlflowClient

from cli import YES_NO, Command
from registry import stages
from registry.signatures import SIGNATURE, SIGNING, key, sign
from registry.stages import ROLLED_BACK, ProductionChangedError
from registry.store import MODEL_NAME, answering, connect
from registry.versions import Version, check_examples, fetch, find, in_production
from training.errors import GateRefused
from training.gate import Verdict, judge, read_held_out

_TRIES = 3


def promote(client: MlflowClient, version: str | int, force: bool = False) -> Verdict | None:
    """Promote a version if its files are what was registered and the gate lets it pass.

    Parameters
    ----------
    client : MlflowClient
    version : str or int
        A number or ``latest``.
    force : bool
        Promote although the gate refuses, or although the version was rolled back. A version whose
        files were changed or that does not give its own example answers is never promoted.

    Returns
    -------
    Verdict or None
        Also logged to the version's run and tagged on the version. None if it is in Production already.

    Raises
    ------
    GateRefused
        If the gate refuses and ``force`` is not set; nothing is changed.
    RegistryError
        If there is no such version, or it cannot be verified, or it was rolled back.
    """
    for attempt in range(_TRIES):
        candidate = find(client, version)
        stages.refuse_rolled_back(candidate, force)
        signature = verify(candidate)
        serving = in_production(client)
        champion = serving[0] if serving else None
        if champion and champion.number == candidate.number:
            # only repairs what an interrupted promotion left undone: signature, alias, audit trail
            note_signature(client, candidate, signature)
            stages.promote(client, candidate.number, candidate.number, "", force=True)
            click.echo(f"nothing to do: {MODEL_NAME} version {candidate.number} is in Production")
            return None
        verdict = gate(candidate, champion)
        click.echo(f"version {candidate.number}: {verdict}")
        record(client, candidate, verdict, force)
        if not verdict.passed and not force:
            stays = f"version {champion.number} stays" if champion else "no version is"
            raise GateRefused(
                f"version {candidate.number} was not promoted, {stays} in Production; "
                f"'make promote VERSION={candidate.number} FORCE=1' bypasses the gate"
            )
        reason = str(verdict)
        if force:
            reason = f"FORCED{' though rolled back before' * (ROLLED_BACK in candidate.tags)}, {verdict}"
        note_signature(client, candidate, signature)
        try:
            stages.promote(client, candidate.number, champion.number if champion else None, reason, force)
        except ProductionChangedError:
            if attempt == _TRIES - 1:
                raise
            continue
        break
    click.echo(f"promoted: {MODEL_NAME} version {candidate.number} is in Production")
    return verdict


def verify(candidate: Version) -> str | None:
    """Check that a version's files are those registered, and that it gives its own example answers.

    Returns
    -------
    str or None
        A signature of those files, if a key is set.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = fetch(candidate, Path(folder), to_sign=key(SIGNING) is not None)
        signature = sign(copy)
        check_examples(copy)
    return signature


def note_signature(client: MlflowClient, candidate: Version, signature: str | None) -> None:
    """Tag a version with its signature, if there is one."""
    if signature:
        client.set_model_version_tag(MODEL_NAME, str(candidate.number), SIGNATURE, signature)
        click.echo(f"signed: {MODEL_NAME} version {candidate.number}")


def gate(candidate: Version, champion: Version | None) -> Verdict:
    """Judge a version by the held-out predictions that its run and the champion's run logged."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = read_held_out(candidate, Path(folder, "candidate"))
        except ValueError as error:
            return Verdict(False, champion.number if champion else None, [str(error)])
        if champion is None:
            return judge(rows, None)
        try:
            theirs = read_held_out(champion, Path(folder, "champion"))
        except ValueError as error:
            return judge(rows, None, champion.number, str(error))
        return judge(rows, theirs, champion.number)


def record(client: MlflowClient, candidate: Version, verdict: Verdict, forced: bool) -> None:
    """Log the verdict to the run of the version, and tag it on the version."""
    word = "forced" if forced else "passed" if verdict.passed else "refused"
    client.set_model_version_tag(MODEL_NAME, str(candidate.number), "gate", word)
    client.set_model_version_tag(MODEL_NAME, str(candidate.number), "gate_verdict", verdict.to_json())
    if candidate.run_id:
        client.log_text(candidate.run_id, verdict.to_json(), "gate.json")
        client.set_tag(candidate.run_id, "gate", word)


@click.command(cls=Command, help="Promote a version to Production, through the gate.")
@click.option("--version", default="latest", show_default=True, help="Number of the version, or latest.")
@click.option(
    "--force",
    type=YES_NO,
    default="no",
    show_default=True,
    help="Bypass the gate; the audit trail says so.",
)
def main(version: str, force: str) -> None:
    """Run the entry point."""
    client = connect()
    with answering():
        verdict = promote(client, version, force == "yes")
    if verdict and "MLFLOW_RUN_ID" in os.environ:  # `mlflow run` opened a run: let its page say what happened
        with mlflow.start_run():
            mlflow.log_metrics(verdict.numbers)
            mlflow.set_tag("gate", str(verdict)[:5000])


if __name__ == "__main__":
    main()
