"""The end of ``make run``: serve Production, ask it one question over HTTP, stop it."""

import json
import tempfile
from pathlib import Path

import click

from cli import Command, stop_in_order
from inference.server import ServeError, free_port, loopback, serving, wait_until_ready
from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, all_versions, fetch, find

QUESTION = {"inputs": ["A wonderful film.", "Two hours of my life that I will never get back."]}


def ask(url: str, question: dict[str, list[str]]) -> list[dict[str, object]]:
    """Return the answer rows of a running model server.

    Raises
    ------
    ServeError
        If it does not answer every row.
    """
    with loopback() as session:
        response = session.post(f"{url}/invocations", json=question, timeout=60)
    if not response.ok:
        raise ServeError(f"the model server answered {response.status_code}: {response.text[:300]}")
    rows: list[dict[str, object]] = response.json()["predictions"]
    if len(rows) != len(question["inputs"]) or any(row["error"] for row in rows):
        raise ServeError(f"the model server did not answer every row: {rows}")
    return rows


@click.command(cls=Command, help="Serve the Production version, get one real answer over HTTP, stop.")
def main() -> None:
    """Run the smoke test."""
    stop_in_order()
    client = connect()
    version = find(client, PRODUCTION)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="sentiment-") as folder:
        copy = fetch(version, Path(folder))
        click.echo(f"serving {MODEL_NAME} version {version.number} with mlflow models serve …")
        with serving(copy, "127.0.0.1", port) as process:
            wait_until_ready(process, url)
            rows = ask(url, QUESTION)
    click.echo(f"\nPOST /invocations  {json.dumps(QUESTION)}")
    for row in rows:
        click.echo(f"  {json.dumps(row)}")
    newest = all_versions(client)[-1].number
    if newest > version.number:
        click.echo(
            f"\nVersion {newest} is registered, and NOT in Production: 'make promote VERSION={newest}' promotes it through the gate"
        )
    click.echo(
        f"\nVersion {version.number} is in Production. Next:\n"
        "  make serve                  answer on http://127.0.0.1:5000/invocations\n"
        "  make serve FOLLOW=1         the same on port 8000, and follow every promotion (needs HAProxy)\n"
        "  make ui                     the run page, on http://127.0.0.1:5001\n"
        "  make history                every version and every change of Production\n"
        "  make promote VERSION=n      through the gate;  make rollback goes back"
    )


if __name__ == "__main__":
    main()
