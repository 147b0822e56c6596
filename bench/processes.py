"""Processes that measure and processes that are measured: pinned, watched, ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import click
import psutil

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1e6
QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    "PYTHONPATH": str(ROOT),
}


class BenchError(click.ClickException):
    """Something could not be measured, so nothing is reported."""


def cores() -> tuple[int, int] | None:
    """Return the core of whatever is measured and the core of the load client; None if nothing can be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def _pin(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


def ask(module: str, job: dict[str, Any], core: int | None, timeout: float = 1800.0) -> Any:
    """Have ``python -m module`` do ``job`` on one core, and return what its last line of output says.

    Raises
    ------
    BenchError
        If it fails.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | QUIET,
            timeout=timeout,
            start_new_session=True,
            preexec_fn=lambda: _pin(core),
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{module} did not end within {timeout:.0f} s") from None
    if done.returncode:
        raise BenchError(f"{module} failed: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def running(
    command: list[str], environment: dict[str, str], folder: Path, core: int | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in ``folder`` on one core with its output in ``server.log``; kill it with all its children."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | QUIET | {"TMPDIR": str(folder)} | environment,
            start_new_session=True,
            preexec_fn=lambda: _pin(core),
        )
        try:
            yield process
        finally:
            members = family(process.pid)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for member in members:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()
            psutil.wait_procs(members, timeout=10)


def wait_for_answer(
    process: subprocess.Popen[bytes], port: int, path: str, body: bytes, timeout: float = 180.0
) -> None:
    """Post ``body`` every 10 ms until it is answered with 200.

    Raises
    ------
    BenchError
        If the server ends, or does not answer within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
        with closing(connection), suppress(OSError, HTTPException):
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            if connection.getresponse().status == 200:
                return
        time.sleep(0.01)
    raise BenchError(
        f"the server ended with exit code {process.returncode}"
        if process.returncode is not None
        else f"the server did not answer within {timeout:.0f} s"
    )


def memory(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return resident megabytes of the largest process without children (a worker), and of all processes."""
    sizes = {member: member.memory_info().rss / MEGABYTE for member in family(process.pid)}
    return max(size for member, size in sizes.items() if not member.children()), sum(sizes.values())


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants; nothing if it has ended."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
