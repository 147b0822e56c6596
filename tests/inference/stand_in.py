"""Stands in for `mlflow models serve` where a test is about the follower and its HAProxy: real uvicorn, no MLflow, up in half a second.

It gives a version's own example answers, and says positive to every other text. The processes, their names and how they end are as
MLflow has them: one that waits, and uvicorn under it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

MODEL = "STAND_IN_MODEL"
COMMAND = "from tests.inference.stand_in import main; main()"  # what the follower runs in place of MLflow's


def main() -> None:
    """Take the arguments of ``mlflow models serve``, start uvicorn, and wait for it."""
    given = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    command = [
        "uvicorn",
        "--host",
        given["--host"],
        "--port",
        given["--port"],
        "tests.inference.stand_in:answer",
    ]
    command += ["--log-level", "warning"]
    sys.exit(subprocess.call(command, env=os.environ | {MODEL: given["--model-uri"]}))


def known() -> dict[str, Any]:
    """Return the example answers of the version by text."""
    path = next(Path(os.environ[MODEL]).rglob("examples.json"))
    return {example["text"]: example for example in json.loads(path.read_text(encoding="utf-8"))}


async def answer(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer GET /ping and POST /invocations with ``inputs``."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
    told: Any = {}
    if scope["path"] == "/invocations":
        examples = known()
        other = {"sentiment": "positive", "confidence": 0.99}
        told = {
            "predictions": [
                {**examples.get(text, other), "error": None} for text in json.loads(body)["inputs"]
            ]
        }
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
