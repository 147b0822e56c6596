"""What ``bench.switches`` runs in processes of their own: the follower, and whoever writes the registry.

``python -m bench.following follower PATCHES …`` is ``python -m inference.service.follow …`` with something replaced in it,
so that the product needs no option for it. ``python -m bench.following writer`` promotes and rolls back.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast
from unittest.mock import patch

import mlflow
import psutil
import requests
from mlflow.tracking import MlflowClient

from bench.processes import QUIET, ROOT, BenchError
from inference.server import free_port, marked
from inference.service import follow, loading, supervisor
from registry import canary, stages
from registry.digests import CONTENT, MANIFEST, digests
from registry.store import MODEL_NAME, connect
from registry.versions import PROMOTED_AT, REFUSED, all_versions, find, in_production, register

LEAK = 512 * 1024
_OF_ONE_VERSION = {MANIFEST, CONTENT, PROMOTED_AT, REFUSED, stages.ROLLED_BACK, canary.STOPPED}

# how a version is spoilt, by what happens to its entry.py
_AT_LOAD = {"slow": "import time\ntime.sleep(1e6)\n", "crashing": "import os\nos._exit(3)\n"}
# its example answers and the health check of the proxy are right, everything else is not
_AT_PREDICT = """
_right = importlib.import_module(f"{{_name}}.pyfunc").SentimentModel


class Worse(_right):
    def predict(self, context, model_input, params=None):
        if len(model_input) == 1 and model_input.iloc[0, 0] != "A wonderful film.":
            {what}
        return super().predict(context, model_input, params)


set_model(Worse())
"""
_WORSE = {"failing": "raise RuntimeError('spoilt')", "slow-canary": "__import__('time').sleep(0.1)"}
SPOILT = ("corrupt", "missing", "slow", "crashing", "wrong answers", "other pins", *_WORSE)


def leak_at_switches(follower: type[supervisor.Follower]) -> None:
    """Have a follower lose half a megabyte and a file descriptor at each switch."""
    switch, lost = follower._switch, []

    def leaking(self: supervisor.Follower, slot: supervisor.Slot) -> None:
        lost.append((os.urandom(LEAK), os.open(os.devnull, os.O_RDONLY)))
        switch(self, slot)

    patch.object(follower, "_switch", leaking).start()


def run_follower(patches: dict[str, Any], arguments: list[str]) -> None:
    """Run the follower with ``leak`` or ``timeout`` (seconds) patched in."""
    if patches.get("leak"):
        leak_at_switches(supervisor.Follower)
    if "timeout" in patches:
        loading.TIMEOUT = supervisor.TIMEOUT = patches["timeout"]
    sys.argv[1:] = arguments
    follow.main()


def _download(client: MlflowClient, number: int, into: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        copy = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{MODEL_NAME}/{number}", dst_path=folder
        )
        return Path(shutil.copytree(copy, into, ignore=shutil.ignore_patterns("__pycache__")))


def _spoil(folder: Path, how: str) -> None:
    entry = folder / "entry.py"
    code = entry.read_text()
    if how in _AT_LOAD:
        entry.write_text(_AT_LOAD[how] + code)
    elif how in _WORSE:
        kept, found, _ = code.rpartition("\nset_model(")
        if not found:
            raise BenchError("entry.py does not end with set_model(…) any more")
        entry.write_text(kept + _AT_PREDICT.format(what=_WORSE[how]))
    elif how == "wrong answers":
        (examples,) = folder.rglob("examples.json")
        rows = json.loads(examples.read_text())
        rows[0]["confidence"] += 0.01
        examples.write_text(json.dumps(rows))
    elif how == "other pins":
        pins = folder / "requirements.txt"
        pins.write_text(re.sub(r"numpy==\S+", "numpy==1.0.0", pins.read_text()))


class Writer:
    """What can be asked of the process that writes the registry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client = connect()

    def promote(self, version: int) -> None:
        """Promote a version, also one that was rolled back."""
        serving = in_production(self._client)
        stages.promote(self._client, version, serving[0].number if serving else None, "bench", force=True)

    def rollback(self) -> int:
        """Roll back; return the version that is in Production then."""
        done = stages.rollback(self._client, None, "bench")
        if done is None:
            raise BenchError("there was nothing to roll back")
        return done[1]

    def copies(self, count: int) -> list[int]:
        """Register the first version again; return the new numbers."""
        first = all_versions(self._client)[0]
        tags = {name: value for name, value in first.tags.items() if name not in _OF_ONE_VERSION}
        return [
            register(self._client, first.source, first.run_id, tags, "a copy").number for _ in range(count)
        ]

    def spoilt(self, how: str) -> int:
        """Register a spoilt version, with the digests of its files unless that is what is wrong; return its number."""
        first = all_versions(self._client)[0]
        folder = Path(tempfile.mkdtemp(prefix="spoilt-", dir=self._folder)) / "model"
        _download(self._client, first.number, folder)
        _spoil(folder, how)
        tags = {name: value for name, value in first.tags.items() if name not in _OF_ONE_VERSION}
        version = self._client._create_model_version(
            MODEL_NAME, source=str(folder), run_id=first.run_id, tags=tags | digests(folder), description=how
        )
        if how == "corrupt":
            with (folder / "entry.py").open("a") as file:
                file.write("# changed\n")
        elif how == "missing":
            shutil.rmtree(folder)
        return int(version.version)

    def start_canary(self, version: int, percent: int) -> None:
        """Ask for a canary."""
        canary.start(self._client, version, percent, find(self._client, "Production").number)

    def stop_canary(self) -> None:
        """Take it back."""
        canary.stop(self._client)

    def canary(self) -> int:
        """Return the version of the canary that is asked for, 0 for none."""
        asked = canary.asked(self._client)
        return asked.version if asked else 0

    def tag(self, version: int, name: str) -> str:
        """Return a tag of a version, empty if it has none."""
        return find(self._client, version).tags.get(name, "")


def write(folder: Path) -> None:
    """Do what each line of standard input asks for, and answer with one line."""
    writer = Writer(folder)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer: dict[str, Any] = {"start": time.monotonic()}
        try:
            answer["value"] = getattr(writer, name)(*arguments)
        except Exception as error:  # whatever it is, the bench is to hear of it
            answer["error"] = f"{name}{tuple(arguments)}: {error}"
        print(json.dumps(answer | {"end": time.monotonic()}), flush=True)


class Registry:
    """The process that writes the registry, seen from the bench."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        self._log = (folder / "writer.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.following", "writer", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=os.environ | QUIET | {"MLFLOW_TRACKING_URI": uri},
            start_new_session=True,
        )

    def ask(self, name: str, *arguments: Any) -> dict[str, Any]:
        """Return when a method of :class:`Writer` was begun, when it had ended, and what it returned.

        Raises
        ------
        BenchError
            If it failed.
        """
        stdin, stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        stdin.write(json.dumps([name, arguments]) + "\n")
        stdin.flush()
        line = stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the registry's writer has ended"}
        if "error" in answer:
            raise BenchError(answer["error"])
        return answer

    def value(self, name: str, *arguments: Any) -> Any:
        """Return what a method of :class:`Writer` returned."""
        return self.ask(name, *arguments)["value"]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._log.close()


class Service:
    """A follower with all that it starts, on ports and in a state folder of its own.

    Parameters
    ----------
    uri : str
        Of the tracking store.
    folder : Path
        Where its log goes.
    state : Path
        Its state folder. Short: the path of a socket has room for a hundred characters.
    patches : dict, optional
        See :func:`run_follower`.
    """

    def __init__(self, uri: str, folder: Path, state: Path, patches: dict[str, Any] | None = None) -> None:
        self.uri, self.state, self.patches = uri, state, patches or {}
        self.port, self.metrics_port = free_port(), free_port()
        self.log = folder / f"follower-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._read = 0
        self._lines: list[tuple[float, str]] = []

    def start(self) -> None:
        """Start the follower, or another one after the last has ended."""
        command = [sys.executable, "-m", "inference.service.follow"]
        if self.patches:
            command = [sys.executable, "-m", "bench.following", "follower", json.dumps(self.patches)]
        command += ["--port", str(self.port), "--metrics-port", str(self.metrics_port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--state", str(self.state)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | QUIET | {"MLFLOW_TRACKING_URI": self.uri},
                start_new_session=True,
            )

    @property
    def supervisor(self) -> psutil.Process:
        """The follower's own process."""
        if self.process is None:
            raise BenchError("the follower was not started")
        return psutil.Process(self.process.pid)

    @property
    def haproxy(self) -> psutil.Process:
        """The process of the proxy."""
        for process, mark in marked(self.state):
            if "version" not in mark and process.name() == "haproxy":
                return process
        raise BenchError("there is no HAProxy")

    def servers(self) -> dict[int, list[tuple[psutil.Process, int]]]:
        """Return the processes of the model servers with their port, by version, parents first."""
        found: dict[int, list[tuple[psutil.Process, int]]] = {}
        for process, mark in marked(self.state):
            if "version" in mark:
                found.setdefault(int(mark["version"]), []).append((process, int(mark["port"])))
        return {version: sorted(rows, key=lambda row: row[0].pid) for version, rows in found.items()}

    def gone(self, version: int) -> bool:
        """Return whether no process of a version is left."""
        return version not in self.servers()

    def alone(self, version: int) -> bool:
        """Return whether a version has processes and no other has."""
        return set(self.servers()) == {version}

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs for this service."""
        ours = [process for process, _ in marked(self.state)]
        if self.process is not None and self.process.poll() is None:
            ours.append(psutil.Process(self.process.pid))
        return ours

    def ready(self) -> int | None:
        """Return the version that ``/ready`` names, None if it is not ready."""
        with suppress(requests.RequestException, ValueError, LookupError):
            response = requests.get(f"http://127.0.0.1:{self.port}/ready", timeout=2)
            if response.ok:
                return int(response.json()["version"])
        return None

    def wait_ready(self, version: int, timeout: float = 90.0) -> float:
        """Wait until ``/ready`` names a version; return the time."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.ready() == version:
                return time.monotonic()
            time.sleep(0.05)
        raise BenchError(f"version {version} was not ready within {timeout:.0f} s: {self.last_words()}")

    def said(self, pattern: str, since: float) -> tuple[float, str] | None:
        """Return the first log line after a moment that a pattern is found in, with its time on the monotonic clock."""
        offset = time.time() - time.monotonic()
        with self.log.open("rb") as log:
            log.seek(self._read)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.decode(errors="replace").splitlines():
            with suppress(ValueError):  # what comes from elsewhere has no time
                at = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone()
                self._lines.append((at.timestamp() - offset, line[24:]))
        found = re.compile(pattern)
        # the log has milliseconds
        late = itertools.takewhile(lambda row: row[0] >= since - 0.002, reversed(self._lines))
        return next((row for row in reversed(list(late)) if found.search(row[1])), None)

    def wait_for(self, pattern: str, since: float, timeout: float = 60.0) -> float:
        """Wait until the log has a line after a moment; return its time.

        Raises
        ------
        BenchError
            If it does not come within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := self.said(pattern, since):
                return found[0]
            time.sleep(0.1)
        raise BenchError(f"the follower did not say {pattern!r} within {timeout:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of the log."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the follower itself a signal."""
        if self.process is not None:
            self.process.send_signal(number)
            if number == signal.SIGKILL:
                self.process.wait()

    def close(self) -> None:
        """End everything that runs for it, and remove its state folder."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        follow.end_all(self.state)
        shutil.rmtree(self.state, ignore_errors=True)


@contextmanager
def serving(
    registry: Registry, folder: Path, version: int, patches: dict[str, Any] | None = None
) -> Iterator[Service]:
    """Promote a version and run a service until it serves it; end everything afterwards."""
    registry.ask("promote", version)
    service = Service(registry.uri, folder, Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp")), patches)
    try:
        service.start()
        service.wait_ready(version)
        service.wait_for(rf"SERVING: version {version},", 0.0)
        yield service
    finally:
        service.close()


ROLES: dict[str, Callable[[list[str]], None]] = {
    "follower": lambda arguments: run_follower(json.loads(arguments[0]), arguments[1:]),
    "writer": lambda arguments: write(Path(arguments[0])),
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](sys.argv[2:])
