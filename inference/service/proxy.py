"""HAProxy in front of the model servers: started with ``haproxy.cfg``, told what to do through its runtime socket."""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import click
import psutil

from inference.server import OURS, refuse_taken

CONFIGURATION = Path(__file__).with_name("haproxy.cfg")
LONGEST_DRAIN = 30.0  # seconds that requests in flight have
REQUESTS = "requests.jsonl"
FULL = 100  # weight of a server that gets all requests
SERVER = "maxconn 64 check inter 2s fall 10 rise 1"
_LONGEST_SOCKET_PATH = 90  # of about 104, and HAProxy first binds a longer name


class ProxyError(click.ClickException):
    """HAProxy is missing, does not start, or does not do what it was told."""


def find_haproxy() -> str:
    """Return the path of the program.

    Raises
    ------
    ProxyError
        If it is not installed.
    """
    # Debian keeps it where only root looks
    path = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise ProxyError(
            "HAProxy is not installed: apt-get install haproxy (Debian, Ubuntu) or brew install haproxy (macOS); "
            "without FOLLOW=1, make serve does without it"
        )
    return path


@dataclass(frozen=True)
class Entry:
    """One model server as HAProxy knows it."""

    version: int
    port: int
    taking: bool  # whether it gets new requests
    weight: int
    in_flight: int


class Proxy:
    """HAProxy for one state folder.

    Parameters
    ----------
    state : Path
        Holds its socket, its map and its logs. Short: the path of a socket has room for a hundred characters.
    host : str
    port : int
        Where clients ask.
    metrics_port : int
        Where Prometheus asks.
    """

    def __init__(self, state: Path, host: str, port: int, metrics_port: int) -> None:
        self.state, self.host, self.port, self.metrics_port = state, host, port, metrics_port
        self.log = state / "haproxy.log"
        self._socket, self._map = state / "haproxy.sock", state / "service.map"
        self._process: psutil.Popen | psutil.Process | None = None

    def start(self) -> None:
        """Start it, with no model server and not ready.

        Raises
        ------
        ProxyError
            If it is not installed, does not like its configuration, or does not answer within 10 s.
        ServeError
            If a port is taken.
        """
        program = find_haproxy()
        if len(str(self._socket)) > _LONGEST_SOCKET_PATH:
            raise ProxyError(f"the path {self.state} is too long for a socket; give a shorter one: --state")
        refuse_taken(self.host, self.port)
        refuse_taken(self.host, self.metrics_port, "METRICS_PORT")
        self._map.write_text("version none\nwaiting starting\n")
        # appended to, so that a rotation can cut it off; not through a pipe, which would end with the follower
        requests = os.open(self.state / REQUESTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.lseek(requests, 0, os.SEEK_END)
        environment = os.environ | {
            OURS: json.dumps({"state": str(self.state)}),
            "STATE": str(self.state),
            "HOST": self.host,
            "PORT": str(self.port),
            "METRICS_PORT": str(self.metrics_port),
            "REQUEST_LOG": str(requests),
        }
        try:
            with self.log.open("ab") as log:
                before = log.tell()
                self._process = psutil.Popen(
                    [program, "-db", "-f", str(CONFIGURATION)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[requests],
                    start_new_session=True,
                )
            deadline = time.monotonic() + 10
            while not self.answers():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = self.log.read_bytes()[before:].decode(errors="replace")
                    wrong = [line for line in said.splitlines() if "[ALERT]" in line] or said.splitlines()[
                        -2:
                    ]
                    self.kill()
                    raise ProxyError(f"HAProxy does not start: {' | '.join(wrong)}")
                time.sleep(0.02)
            self._append_for_ever(requests)
        finally:
            os.close(requests)

    def _append_for_ever(self, requests: int) -> None:
        """Have HAProxy append to the request log.

        With its first line it makes the descriptor non-blocking, and takes ``O_APPEND`` away by that: it
        would write over the lines of the last start, and behind a hole after a rotation. The flags
        belong to the open file, which is ours too.
        """
        before = os.fstat(requests).st_size
        with (
            suppress(OSError, HTTPException),
            closing(HTTPConnection(self.host, self.port, timeout=5)) as client,
        ):
            client.request("GET", "/ready")
            client.getresponse()
        deadline = time.monotonic() + 5
        while os.fstat(requests).st_size == before and time.monotonic() < deadline:
            time.sleep(0.01)
        fcntl.fcntl(requests, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)

    def adopt(self) -> bool:
        """Take over one that runs already for this state folder; return whether there is one."""
        try:
            found = re.search(r"^Pid: (\d+)", self.tell("show info"), re.MULTILINE)
            self._process = psutil.Process(int(found[1])) if found else None
        except (ProxyError, psutil.NoSuchProcess):
            return False
        return self._process is not None

    def alive(self) -> bool:
        """Return whether its process runs."""
        with suppress(psutil.NoSuchProcess):
            process = self._process
            if isinstance(process, psutil.Popen):
                return process.poll() is None
            return bool(process and process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        return False

    def answers(self) -> bool:
        """Return whether its runtime socket answers."""
        try:
            return "Pid:" in self.tell("show info")
        except ProxyError:
            return False

    def tell(self, *commands: str) -> str:
        """Give commands to the runtime socket, in one go, and return what it says.

        Raises
        ------
        ProxyError
            If it does not answer.
        """
        said = bytearray()
        try:
            with socket.socket(socket.AF_UNIX) as runtime:
                runtime.settimeout(5)
                runtime.connect(str(self._socket))
                runtime.sendall((";".join(commands) + "\n").encode())
                while part := runtime.recv(65536):
                    said += part
        except OSError as error:
            raise ProxyError(f"HAProxy does not answer on {self._socket}: {error}") from None
        return said.decode(errors="replace")

    def entries(self) -> dict[int, Entry]:
        """Return the model servers that it knows, by version."""
        ports = {}
        for line in self.tell("show servers state models").splitlines():
            fields = line.split()
            if len(fields) > 18 and not line.startswith("#"):
                ports[fields[3]] = int(fields[18])
        found = {}
        for row in csv.DictReader(self.tell("show stat").lstrip("# ").splitlines()):
            if row["pxname"] == "models" and row["svname"] in ports:
                in_flight = int(row["scur"]) + int(row["qcur"])
                taking = row["status"].split()[0] not in {"MAINT", "DRAIN"}
                version = int(row["svname"])
                found[version] = Entry(version, ports[row["svname"]], taking, int(row["weight"]), in_flight)
        return found

    def send(self, version: int, port: int, weight: int = FULL) -> None:
        """Have a model server get new requests, in proportion to its weight."""
        known = self.entries()
        name = f"models/{version}"
        if version not in known:
            said = self.tell(f"add server {name} 127.0.0.1:{port} weight {weight} {SERVER}")
            if "New server registered" not in said:
                raise ProxyError(f"HAProxy does not take version {version}: {said.strip()}")
        elif known[version].port != port:
            self.tell(f"set server {name} addr 127.0.0.1 port {port}")
        self.tell(
            f"enable health {name}",
            f"set server {name} weight {weight}",
            f"set server {name} state ready",
            # it has just proved that it answers: else one failed check would take it out, not ten
            f"set server {name} health up",
        )
        if not self.entries()[version].taking:
            raise ProxyError(f"HAProxy does not send requests to version {version}")

    def drain(self, version: int) -> None:
        """Have a model server get no new requests."""
        self.tell(f"set server models/{version} state drain")

    def forget(self, version: int) -> bool:
        """Take a model server out; return whether that could be done: not while it has connections."""
        name = f"models/{version}"
        said = self.tell(f"set server {name} state maint", f"del server {name}")
        return "Server deleted" in said or "No such server" in said

    def version(self) -> int | None:
        """Return the version that it says serves."""
        found = re.search(r'value="(\d+)"', self.tell(f"get map {self._map} version"))
        return int(found[1]) if found else None

    def say(self, version: int | None, waiting: str | None) -> None:
        """Set what ``/ready`` and the header ``X-Model-Version`` say.

        Parameters
        ----------
        version : int or None
            The one that serves.
        waiting : str or None
            Why none does; None if one does.
        """
        if waiting is None:
            change = f"del map {self._map} waiting"
        else:
            words = re.sub(r"([\\; ])", r"\\\1", " ".join(waiting.split())[:500])
            verb = "set" if "value=" in self.tell(f"get map {self._map} waiting") else "add"
            change = f"{verb} map {self._map} waiting {words}"
        self.tell(f"set map {self._map} version {version or 'none'}", change)

    def follow_supervisor(self, port: int) -> None:
        """Answer ``/metrics/supervisor`` from a port of the loopback address."""
        name = "supervisor/supervisor"
        self.tell(f"set server {name} addr 127.0.0.1 port {port}", f"set server {name} state ready")

    def finish(self, patience: float) -> None:
        """Take no new connection, let those in flight end, then end."""
        if self._process is None or not self.alive():
            return
        with suppress(psutil.NoSuchProcess):
            self._process.send_signal(signal.SIGUSR1)
            with suppress(psutil.TimeoutExpired, subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        with suppress(psutil.NoSuchProcess):
            if self._process is not None and self.alive():
                self._process.kill()
                self._process.wait(10)
