"""One ``mlflow models serve`` process: start it, ask it who it is, end it with all its children."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil
import requests

from registry.examples import compare, read_examples

MEMORY_GIB = 2.0  # of addresses that answering may take beside what a loaded version has
OURS = "SENTIMENT_MODEL_SERVER"  # in the environment of every process that belongs to a follower
PATIENCE = 15.0
# the command `mlflow models` without loading all others, which takes as long again
MLFLOW_MODELS = "from mlflow.models.cli import commands; commands()"

log = logging.getLogger("follow")


class ServeError(click.ClickException):
    """The model server cannot start or does not answer."""


def refuse_workers() -> None:
    """Raise ServeError if MLflow's number of processes to a model server is no such number."""
    given = os.environ.get("MLFLOW_MODELS_WORKERS", "1")
    if not given.isdecimal() or not 1 <= int(given) <= 256:
        raise ServeError(f"MLFLOW_MODELS_WORKERS is {given[:40]!r}; expected a whole number from 1 to 256")


def refuse_taken(host: str, port: int, variable: str = "PORT") -> None:
    """Raise ServeError if another process listens on a port."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ServeError(
            f"cannot listen on {host}:{port} ({error.strerror}); give another port: {variable}=n, or address: HOST"
        ) from None


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(
    copy: Path, host: str, port: int, log: Path | None = None, mark: dict[str, Any] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``mlflow models serve`` on a verified copy, in a session of its own, with pickle refused.

    Parameters
    ----------
    copy : Path
        What :func:`registry.versions.fetch` returned.
    host : str
    port : int
    log : Path, optional
        Where its output goes; else where ours goes.
    mark : dict, optional
        What :func:`marked` is to find it by.
    """
    python = os.path.abspath(sys.executable)  # it is started from another folder
    command = [python, "-c", MLFLOW_MODELS, "serve", "--model-uri", str(copy)]
    command += ["--env-manager", "local", "--host", host, "--port", str(port)]
    environment = os.environ | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        # glibc reserves 64 MiB of addresses for each of eight arenas a core, which would count as memory
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
        # MLflow starts `uvicorn` by name: let it be the one beside this interpreter
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")]),
    }
    if mark is not None:
        environment |= {
            OURS: json.dumps(mark),
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "PYTHONDONTWRITEBYTECODE": "1",  # the copy stays as it was verified
            "UVICORN_ACCESS_LOG": "false",  # the proxy writes the log of requests
        }
    output = log.open("ab") if log else None
    try:
        return subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )
    finally:
        if output:
            output.close()


@contextmanager
def serving(copy: Path, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a model server in the foreground; end it with all its children.

    Raises
    ------
    ServeError
        If the port is taken.
    """
    refuse_taken(host, port)
    process = launch(copy, host, port)
    try:
        yield process
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            if not signal_group(process.pid, sent):
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
                break
        signal_group(process.pid, signal.SIGKILL)  # whatever is left of the group


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to every process of a group; return whether there was one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def bound_memory(leader: psutil.Process) -> None:
    """Let no process of a loaded model server take more than 2 GiB of addresses beside what the largest has, where the system can.

    Under ``inputs``, MLflow makes all rows as wide as the longest, so that a body of 1 MB asks for 6 GB. Bounded, that
    is an answer of status 400. What loading takes differs: 2 GiB, or 4 where a library brings PyTorch along.
    """
    if not hasattr(leader, "rlimit"):  # Linux has it
        return
    try:
        processes = [leader, *leader.children(recursive=True)]
        most = max(process.memory_info().vms for process in processes) + int(MEMORY_GIB * 2**30)
        for process in [*processes, *leader.children(recursive=True)]:  # also one that was started meanwhile
            with suppress(psutil.NoSuchProcess):
                _, hard = process.rlimit(psutil.RLIMIT_AS)
                process.rlimit(psutil.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
    except (psutil.Error, OSError) as error:
        # a sandbox may forbid it; the model server is healthy all the same
        log.warning("the memory of the model server is not bounded: %s", error)


def loopback() -> requests.Session:
    """Return a session for addresses of this machine, which no proxy of the environment may answer for."""
    session = requests.Session()
    session.trust_env = False
    return session


def wait_until_ready(process: subprocess.Popen[bytes], url: str, timeout: float = 120.0) -> None:
    """Poll ``url``/ping until it answers, then bound its memory.

    Raises
    ------
    ServeError
        If the server ends, or does not answer within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServeError(f"the model server ended with exit code {process.returncode}; its log is above")
        with suppress(requests.RequestException), loopback() as session:
            if session.get(f"{url}/ping", timeout=2).ok:
                bound_memory(psutil.Process(process.pid))
                return
        time.sleep(0.1)
    raise ServeError(f"the model server did not answer on {url} within {timeout:.0f} s")


@dataclass
class ModelServer:
    """A model server that a follower started, or that it found when it started itself.

    Attributes
    ----------
    version : int
    port : int
        On the loopback address.
    leader : psutil.Process
        The first process of its session.
    process : Popen, optional
        The same, if it is our child.
    gives_way : bool
        Whether it leaves the processor to others.
    """

    version: int
    port: int
    leader: psutil.Process
    process: subprocess.Popen[bytes] | None = None
    gives_way: bool = False

    @classmethod
    def start(cls, version: int, copy: Path, state: Path) -> "ModelServer":
        """Start a server of a version on a port that nobody listens on."""
        port = free_port()
        mark = {"state": str(state), "version": version, "port": port}
        process = launch(copy, "127.0.0.1", port, state / f"server-{version}-{port}.log", mark)
        return cls(version, port, psutil.Process(process.pid), process)

    def give_way(self, wanted: bool) -> None:
        """Leave the processor to others, or no longer, where Linux's scheduler groups sessions.

        Unlike the niceness of a process, that of its session's group may be lowered again without
        privileges, though not twice within 0.1 s: then the next call does it.
        """
        if wanted == self.gives_way:
            return
        try:
            Path(f"/proc/{self.leader.pid}/autogroup").write_text("10" if wanted else "0")
        except BlockingIOError:
            return
        except OSError:
            pass  # no such groups here
        self.gives_way = wanted

    def alive(self) -> bool:
        """Return whether its first process runs."""
        if self.process is not None:
            return self.process.poll() is None
        with suppress(psutil.NoSuchProcess):
            return self.leader.is_running() and self.leader.status() != psutil.STATUS_ZOMBIE
        return False

    def pings(self) -> bool:
        """Return whether its event loop answers within 2 s, however busy its predictions are."""
        try:
            with loopback() as session:
                return session.get(f"http://127.0.0.1:{self.port}/ping", timeout=2).ok
        except requests.RequestException:
            return False

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to all its processes; it finishes what it is answering before it ends on SIGTERM."""
        signal_group(self.leader.pid, number)

    def processes(self) -> list[psutil.Process]:
        """Return its processes."""
        with suppress(psutil.NoSuchProcess):
            return [self.leader, *self.leader.children(recursive=True)]
        return []

    def wait_until_itself(self, copy: Path, timeout: float, cancelled: Callable[[], bool]) -> None:
        """Wait until it gives the answers that the version carries for its own example texts.

        Parameters
        ----------
        copy : Path
            What it serves.
        timeout : float
            Seconds.
        cancelled : callable
            Whether to wait no longer.

        Raises
        ------
        ServeError, RegistryError
            If it ends, gives other answers, or none within ``timeout``.
        """
        examples = read_examples(copy)
        question = {"inputs": [example["text"] for example in examples]}
        url = f"http://127.0.0.1:{self.port}/invocations"
        deadline = time.monotonic() + timeout
        while not cancelled():
            if not self.alive():
                raise ServeError("its server ended while it started")
            left = deadline - time.monotonic()
            if left <= 0:
                raise ServeError(f"it did not answer within {timeout:.0f} s")
            try:
                with loopback() as session:
                    response = session.post(url, json=question, timeout=min(left, 30))
            except requests.ConnectionError:
                time.sleep(0.1)
                continue
            except requests.Timeout:
                raise ServeError("it does not answer its own example texts within 30 s") from None
            if not response.ok:
                raise ServeError(f"it answers its own example texts with status {response.status_code}")
            try:
                answers = response.json()["predictions"]
            except (ValueError, LookupError, TypeError):
                raise ServeError("its answer to its own example texts cannot be read") from None
            compare(examples, answers)
            bound_memory(self.leader)
            return
        raise ServeError("it is not needed any more")


def marked(state: Path) -> list[tuple[psutil.Process, dict[str, Any]]]:
    """Return every process that was started for a state folder, with its mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError):
            mark = json.loads(process.environ().get(OURS, "null"))
            if isinstance(mark, dict) and mark.get("state") == str(state):
                found.append((process, mark))
    return found
