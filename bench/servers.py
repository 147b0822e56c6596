"""How each server is started, and one round of measuring it."""

import json
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import PROTOCOLS
from bench.models import save_pyfunc
from bench.processes import ROOT, BenchError, ask, cores, memory, running, wait_for_answer

MLSERVER = ROOT / ".venv-bench-mlserver" / "bin" / "mlserver"


@dataclass(frozen=True)
class Server:
    """A model behind HTTP.

    Attributes
    ----------
    title : str
        What the report calls it.
    product : str
        ``mlflow``, ``fastapi``, ``bentoml`` or ``mlserver``.
    model : str
        The name of the model that it serves.
    workers : int
    default : bool
        Whether it is measured without being asked for.
    """

    title: str
    product: str
    model: str
    workers: int = 1
    default: bool = True


SERVERS = {
    "mlflow-ours": Server("ours: `mlflow models serve`", "mlflow", "ours"),
    "mlflow-ours-2-workers": Server("ours: the same, 2 workers", "mlflow", "ours", workers=2),
    "mlflow-usual": Server("`mlflow models serve`, usual pipeline", "mlflow", "usual"),
    "mlflow-sklearn": Server("`mlflow models serve`, the pipeline that ours equals", "mlflow", "sklearn"),
    "fastapi-usual": Server("FastAPI app, usual pipeline", "fastapi", "usual"),
    "fastapi-sklearn": Server("FastAPI app, the pipeline that ours equals", "fastapi", "sklearn"),
    "bentoml-usual": Server("BentoML, usual pipeline", "bentoml", "usual"),
    "bentoml-sklearn": Server("BentoML, the pipeline that ours equals", "bentoml", "sklearn", default=False),
    "mlserver-usual": Server("MLServer, usual pipeline", "mlserver", "usual"),
    "mlserver-sklearn": Server(
        "MLServer, the pipeline that ours equals", "mlserver", "sklearn", default=False
    ),
    "mlflow-noop": Server("floor: `mlflow models serve`, a model that does nothing", "mlflow", "noop"),
}


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def prepare(server: Server, path: str | None, folder: Path) -> tuple[list[str], dict[str, str], int]:
    """Return the command of a server, its environment and its port; write what else it needs to ``folder``.

    Parameters
    ----------
    server : Server
    path : str, optional
        Where its model is; the one that does nothing has no path.
    folder : Path
        Its working directory.
    """
    port, *others = free_ports(3)
    address = ["--host", "127.0.0.1", "--port", str(port)]
    python = [sys.executable, "-m"]
    model = path or ""
    environment = {"PIPELINE": model}
    match server.product:
        case "mlflow":
            if server.model != "ours":
                peer = "noop_model" if server.model == "noop" else "pipeline_model"
                save_pyfunc(peer, folder / "model", path)
                model = str(folder / "model")
            command = [*python, "mlflow", "models", "serve", "--model-uri", model, "--env-manager", "local"]
            command += ["--workers", str(server.workers), *address]
        case "fastapi":
            command = [*python, "uvicorn", "bench.peers.fastapi_app:app", *address]
            command += ["--loop", "uvloop", "--http", "httptools"]
        case "bentoml":
            command = [*python, "bentoml", "serve", "bench.peers.bentoml_service:Sentiment", *address]
            environment["BENTOML_HOME"] = str(folder)
        case _:
            settings: dict[str, Any] = {"host": "127.0.0.1", "debug": False, "parallel_workers": 0}
            settings |= {"http_port": port, "grpc_port": others[0], "metrics_port": others[1]}
            described = {
                "name": "sentiment",
                "implementation": "bench.peers.mlserver_model.SentimentModel",
                "parameters": {"uri": model},
            }
            (folder / "settings.json").write_text(json.dumps(settings))
            (folder / "model-settings.json").write_text(json.dumps(described))
            command = [str(MLSERVER), "start", str(folder)]
    return command, environment, port


def measure(
    server: Server, path: str | None, folder: Path, job: dict[str, Any], labels: list[str]
) -> dict[str, float]:
    """Start a server, time its first answer, load it, weigh it and end it.

    Parameters
    ----------
    server : Server
    path : str, optional
        Where its model is.
    folder : Path
        Empty, the server's own.
    job : dict
        What :func:`bench.load.measure` wants, without port, protocol and labels.
    labels : list of str
        What the model answers in process.

    Raises
    ------
    BenchError
        If it does not start, or one answer is wrong. The message ends with its log.
    """
    command, environment, port = prepare(server, path, folder)
    protocol = PROTOCOLS[server.product]
    server_core, client_core = cores() or (None, None)
    start = time.perf_counter()
    try:
        with running(command, environment, folder, server_core) as process:
            wait_for_answer(process, port, protocol.path, protocol.body(job["texts"][:1]))
            cold_start = time.perf_counter() - start
            asked = job | {"port": port, "protocol": server.product, "labels": labels}
            found: dict[str, float] = ask("bench.load", asked, client_core)
            worker, everything = memory(process)
    except BenchError as error:
        log = (folder / "server.log").read_text(errors="replace").strip().splitlines()[-15:]
        raise BenchError("\n".join([f"{server.title}: {error.message}", *log])) from None
    return found | {"cold_start": cold_start, "worker": worker, "memory": everything}
