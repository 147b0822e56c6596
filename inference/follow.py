"""``make serve FOLLOW=1``: keep what is served equal to the version in Production, without a dropped request."""

import gc
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import click
import psutil
from filelock import FileLock, Timeout
from mlflow.tracking import MlflowClient

from inference.decide import Action, Do, Phase, Server, State, decide
from inference.judge import RequestLog, grossly_worse
from inference.loading import TIMEOUT, Loading
from inference.proxy import FULL, REQUESTS, Proxy, find_haproxy
from inference.server import PATIENCE, ModelServer, marked, refuse_workers
from inference.watch import Seen, Watch
from registry import canary
from registry.digests import CONTENT, MANIFEST
from registry.extras import how_to_install
from registry.signatures import VERIFYING, key
from registry.store import MODEL_NAME, store_name
from registry.versions import PRODUCTION, PROMOTED_AT, REFUSED, Version, note, withdraw

try:
    from prometheus_client import Counter, Gauge, start_http_server
except ImportError as error:
    sys.exit(f"Error: {how_to_install(error) or error}")

TICK = 0.2
RETRIES = 5
LONGEST_WAIT = 32.0
LONGEST_DRAIN = 30.0  # seconds that requests in flight have
LONGEST_WAY = 30.0  # seconds that a start leaves the processor to the version that serves
PROVED_AFTER = 60.0  # seconds of serving after which earlier failures count no more
PULSE_EVERY, LOST_PULSES = 10.0, 3
LONGEST_LOG = 64 * 2**20
LOGS_KEPT = 10
ROTATE_EVERY = 30.0
KEPT = 2  # versions that served last

log = logging.getLogger("follow")

WANTED = Gauge("sentiment_version_wanted", "Version in Production, 0 for none")
SERVED = Gauge("sentiment_version_served", "Version that gets the requests, 0 for none")
CANARY = Gauge("sentiment_canary_version", "Version that gets a share of the requests, 0 for none")
PERCENT = Gauge("sentiment_canary_percent", "That share")
READY = Gauge("sentiment_ready", "Whether a version serves")
REGISTRY = Gauge("sentiment_registry_up", "Whether the registry answered last time")
REFUSALS = Gauge("sentiment_refused", "1 for a version that is wanted and failed to come up", ["version"])
SWITCHES = Counter("sentiment_switches", "Times that all requests were sent to another server")
STARTS = Counter("sentiment_server_starts", "Versions that were brought up, or failed to be")
FAILURES = Counter("sentiment_start_failures", "Versions that failed to come up")
DEATHS = Counter("sentiment_server_deaths", "Model servers that died after they had come up")
STOPS = Counter("sentiment_canary_stops", "Canaries that were stopped because they were grossly worse")


class FollowError(click.ClickException):
    """The follower cannot start."""


@dataclass
class Slot:
    """A version that is being brought up, serves, or is on its way out."""

    version: int
    phase: Phase
    server: ModelServer | None = None
    loading: Loading | None = None
    percent: int = 0
    missed: int = 0  # pings in a row that it did not answer
    since: float = field(default_factory=time.monotonic)

    def enter(self, phase: Phase) -> None:
        """Go into another phase."""
        self.phase, self.since = phase, time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been in its phase."""
        return time.monotonic() - self.since

    @property
    def up(self) -> ModelServer:
        """Its server, which has come up."""
        if self.server is None:
            raise RuntimeError(f"version {self.version} is {self.phase} without a server")
        return self.server


@dataclass
class Tries:
    """How often a version failed in a row, and when it may be tried again."""

    count: int = 0
    again: float = 0.0


class Follower:
    """The loop: look, decide, act, say.

    Parameters
    ----------
    state : Path
        The follower's own folder.
    proxy : Proxy
    watch : Watch
    metrics_port : int
        Where this process shows its metrics, on the loopback address.
    """

    def __init__(self, state: Path, proxy: Proxy, watch: Watch, metrics_port: int) -> None:
        self.state, self.proxy, self.watch, self._metrics_port = state, proxy, watch, metrics_port
        self.slots: dict[int, Slot] = {}
        self.kept = read_kept(state)  # the versions that served last, the last one first
        self._seen = Seen(False)
        self._tries: dict[tuple[int, str], Tries] = {}
        self._refused: set[int] = set()
        self._stale: set[int] = set()  # entries of the proxy whose servers are gone
        self._said: tuple[int | None, str | None] | None = None
        self._requests: RequestLog | None = None
        self._stopped_canary = ""
        self._next_pulses = 0.0

    def begin(self) -> None:
        """Take over what an earlier follower left running, or start the proxy; end what is of no use."""
        for unfinished in self.state.glob("versions/new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        left = {server.port: server for server in left_behind(self.state)}
        if self.proxy.adopt():
            serving = self.proxy.version()
            for number, entry in self.proxy.entries().items():
                server = left.pop(entry.port, None)
                if server is None or not server.alive():
                    if number != serving:  # requests to what served wait for its next server
                        self._stale.add(number)
                    continue
                slot = self.slots[number] = Slot(number, Phase.DRAINING, server)
                if entry.taking and number == serving:
                    slot.phase = Phase.SERVING
                elif entry.taking:
                    slot.phase, slot.percent = Phase.CANARY, entry.weight
                log.info("adopted version %d, %s", number, slot.phase)
        for server in left.values():
            server.end(signal.SIGKILL)
        if not self.proxy.alive():
            end_all(self.state)
            self.proxy.start()
        self.proxy.follow_supervisor(self._metrics_port)

    def step(self) -> None:
        """Look once, and do all that can be done now."""
        if not self.proxy.alive():
            self._restart_proxy()
        self._hear()
        for slot in list(self.slots.values()):
            self._look_at(slot)
        self._take_pulses()
        self._judge_canary()
        if self.watch.seen is not None:
            while (action := decide(self._state())) is not None:
                self._act_on(action)
        self._stale -= {number for number in self._stale if number in self.slots or self.proxy.forget(number)}
        self._say()

    def finish(self, patience: float = LONGEST_DRAIN) -> None:
        """Answer what is in flight, then end everything."""
        for slot in self.slots.values():
            if slot.loading is not None:
                slot.loading.cancel()
        self.proxy.finish(patience)
        end_all(self.state)

    def _restart_proxy(self) -> None:
        log.error("HAPROXY IS GONE; starting it again")
        self.proxy.start()
        self.proxy.follow_supervisor(self._metrics_port)
        self._said = None
        self._stale.clear()
        shared = self._in(Phase.CANARY)
        for slot in filter(None, (self._in(Phase.SERVING), shared)):
            self.proxy.send(
                slot.version, slot.up.port, slot.percent or FULL - (shared.percent if shared else 0)
            )

    def _hear(self) -> None:
        """Take in what the registry said."""
        seen, before = self.watch.seen, self._seen
        if seen is None or seen is before:
            return
        if not seen.reachable and seen.why != before.why:
            log.warning("THE REGISTRY DOES NOT ANSWER (%s); what serves goes on serving", seen.why)
        elif seen.reachable and before.why:
            log.info("the registry answers again")
            self._tries.clear()  # what failed may have failed for that reason
        number = seen.production.number if seen.production else None
        if number != (before.production.number if before.production else None):
            log.info("in Production: version %s", number or "none")
        self._seen = seen

    def _look_at(self, slot: Slot) -> None:
        """Bring a slot up to date with its process."""
        loading = slot.loading
        if slot.phase is Phase.STARTING and loading is not None:
            slot.server = loading.server
            if loading.failure is not None or loading.overdue():
                self._fail(slot.version, loading.failure or f"it did not come up within {TIMEOUT:.0f} s")
                self._end(slot)
            elif not loading.is_alive():
                slot.loading = None
                slot.enter(Phase.READY)
                log.info("version %d has given its example answers", slot.version)
        gone = slot.server is None or not slot.server.alive()
        if gone and slot.phase in (Phase.READY, Phase.SERVING, Phase.CANARY, Phase.DRAINING):
            self._died(slot)
        elif gone and slot.phase is Phase.ENDING:
            slot.enter(Phase.ENDED)
        elif slot.phase is Phase.ENDING and slot.seconds > PATIENCE:
            slot.up.end(signal.SIGKILL)
        if slot.server is not None:  # a start is not to slow answers down, nor to wait for ever for its turn
            starts = slot.phase is Phase.STARTING and slot.seconds < LONGEST_WAY
            slot.server.give_way(starts and self._in(Phase.SERVING) is not None)
        if slot.phase is Phase.SERVING and slot.seconds > PROVED_AFTER:
            self._tries.pop(self._key(slot.version), None)

    def _died(self, slot: Slot) -> None:
        """Take note that a server is gone that had come up."""
        DEATHS.inc()
        slot.up.end(signal.SIGKILL)  # what is left of its session
        if slot.phase is Phase.CANARY:
            self._stop_canary(slot.version, "its server died")
        elif slot.phase is not Phase.DRAINING:
            self._fail(slot.version, f"its server died while it was {slot.phase}", died=True)
        slot.enter(Phase.ENDED)

    def _take_pulses(self) -> None:
        """Kill a server that runs and hangs, so that another one takes its place."""
        if time.monotonic() < self._next_pulses:
            return
        self._next_pulses = time.monotonic() + PULSE_EVERY
        for slot in filter(None, (self._in(Phase.SERVING), self._in(Phase.CANARY))):
            slot.missed = 0 if slot.up.pings() else slot.missed + 1
            if slot.missed >= LOST_PULSES:
                log.error("HANGS: version %d has not answered %d pings; killed", slot.version, slot.missed)
                slot.up.end(signal.SIGKILL)

    def _fail(self, version: int, why: str, died: bool = False) -> None:
        """Count a failure, say it loudly, and set when the version may be tried again."""
        why = " ".join(why.split())  # one line, whatever an exception says
        tries = self._tries.setdefault(self._key(version), Tries())
        tries.count += 1
        wait = 0.0 if died and tries.count <= 2 else min(2.0**tries.count, LONGEST_WAIT)
        if tries.count > RETRIES and self._others_can(version):
            wait = math.inf
        tries.again = time.monotonic() + wait
        what = f"is tried again in {wait:.0f} s"
        if wait == math.inf:
            what = f"is not tried again; 'make promote VERSION={version}' has it tried anew"
        if died and wait < math.inf:
            log.error("DIED: version %d, failure %d: %s; it %s", version, tries.count, why, what)
            return
        FAILURES.inc()
        self._refused.add(version)
        REFUSALS.labels(version).set(1)
        log.error("REFUSED: version %d, failure %d: %s; it %s", version, tries.count, why, what)
        self.watch.later(lambda client: note(client, version, REFUSED, why))
        if wait == math.inf and self._seen.canary and self._seen.canary.version == version:
            self._stop_canary(version, why)

    def _others_can(self, version: int) -> bool:
        """Return whether another version serves, or could."""
        others = [kept for kept in self.kept if kept.number != version]
        serving = self._in(Phase.SERVING)
        return (serving is not None and serving.version != version) or any(
            self._tries.get(self._key(other.number), Tries()).again < math.inf for other in others
        )

    def _judge_canary(self) -> None:
        serving, shared = self._in(Phase.SERVING), self._in(Phase.CANARY)
        if serving is None or shared is None:
            self._requests = None
        elif self._requests is None:
            self._requests = RequestLog(self.state / REQUESTS)
        elif self._requests.read():
            worse = grossly_worse(
                self._requests.sample(shared.version), self._requests.sample(serving.version)
            )
            if worse:
                self._stop_canary(shared.version, worse)

    def _asked_canary(self) -> canary.Canary | None:
        asked = self._seen.canary
        return asked if asked and asked.at != self._stopped_canary else None

    def _stop_canary(self, version: int, why: str) -> None:
        asked = self._asked_canary()
        if asked is None or asked.version != version:
            return
        log.error("CANARY STOPPED: version %d: %s", version, why)
        STOPS.inc()
        self._stopped_canary = asked.at

        def tell(client: MlflowClient) -> None:
            note(client, version, canary.STOPPED, why)
            still = canary.asked(client)
            if still is not None and still.at == asked.at:
                canary.stop(client)

        self.watch.later(tell)

    def _state(self) -> State:
        """Return what the policy is to know."""
        seen, now = self._seen, time.monotonic()
        draining = self._in(Phase.DRAINING) is not None
        entries = self.proxy.entries() if draining else {}
        servers = []
        for slot in self.slots.values():
            entry = entries.get(slot.version)
            busy = entry is not None and entry.in_flight > 0 and slot.seconds < LONGEST_DRAIN
            servers.append(Server(slot.version, slot.phase, int(busy), slot.percent))
        blocked = {
            v.number for v in self._known() if self._tries.get(self._key(v.number), Tries()).again > now
        }
        asked = self._asked_canary()
        # with a registry that says that nothing is in Production, nothing is brought up
        usable = self.kept if seen.production is not None or not seen.reachable else []
        wanted = seen.production.number if seen.production else None
        # one that is coming up already goes on, whatever is tried beside it
        usable = sorted(usable, key=lambda v: v.number == wanted or v.number not in self.slots)
        return State(
            wanted=wanted,
            servers=tuple(servers),
            canary=asked.version if asked else None,
            percent=asked.percent if asked else 0,
            fallback=next((v.number for v in usable if v.number not in blocked), None),
            blocked=frozenset(blocked),
        )

    def _known(self) -> list[Version]:
        """Return the versions that could be brought up, as the registry has them if it does."""
        seen = self._seen
        return [version for version in (seen.production, seen.candidate, *self.kept) if version is not None]

    def _version(self, number: int) -> Version | None:
        return next((version for version in self._known() if version.number == number), None)

    def _key(self, number: int) -> tuple[int, str]:
        """Return under what failures are counted: a version that is promoted or asked for anew starts anew."""
        version, asked = self._version(number), self._seen.canary
        if asked and asked.version == number:
            return number, asked.at
        return number, version.tags.get(PROMOTED_AT, "") if version else ""

    def _in(self, phase: Phase) -> Slot | None:
        return next((slot for slot in self.slots.values() if slot.phase is phase), None)

    def _act_on(self, action: Action) -> None:
        """Take one step."""
        slot = self.slots.get(action.version)
        if slot is None:
            self._start(action.version)
        elif action.do is Do.SWITCH:
            self._switch(slot)
        elif action.do is Do.SHARE:
            self._share(slot)
        elif action.do is Do.DRAIN:
            self._drain(slot)
        elif action.do is Do.END:
            self._end(slot)
        elif action.do is Do.REMOVE:
            self._remove(slot)

    def _start(self, number: int) -> None:
        version = self._version(number)
        if version is None:
            raise RuntimeError(f"version {number} is not known")
        log.info("bringing up version %d", number)
        STARTS.inc()
        loading = Loading(version, self.state)
        self.slots[number] = Slot(number, Phase.STARTING, loading=loading)
        loading.start()

    def _switch(self, slot: Slot) -> None:
        before = self.proxy.version()
        self.proxy.send(slot.version, slot.up.port)
        for number in self.proxy.entries():
            if number != slot.version:
                self.proxy.drain(number)
                if number not in self.slots:
                    self._stale.add(number)
        for other in self.slots.values():
            if other is not slot and other.phase in (Phase.SERVING, Phase.CANARY):
                other.enter(Phase.DRAINING)
        slot.enter(Phase.SERVING)
        slot.percent = 0
        self._say()
        SWITCHES.inc()
        log.info("SERVING: version %d, before: %s", slot.version, before or "none")
        version = self._version(slot.version)
        if version is not None:
            self.kept = [version, *(kept for kept in self.kept if kept.number != version.number)][:KEPT]
            write_kept(self.state, self.kept)
        self._accept(slot.version)

    def _share(self, slot: Slot) -> None:
        serving, asked = self._in(Phase.SERVING), self._asked_canary()
        if serving is None or asked is None:
            return
        self.proxy.send(slot.version, slot.up.port, asked.percent)
        self.proxy.send(serving.version, serving.up.port, FULL - asked.percent)
        slot.enter(Phase.CANARY)
        slot.percent = asked.percent
        log.info("CANARY: version %d gets %d %% of the requests", slot.version, asked.percent)
        self._accept(slot.version)

    def _drain(self, slot: Slot) -> None:
        self.proxy.drain(slot.version)
        slot.enter(Phase.DRAINING)
        serving = self._in(Phase.SERVING)
        if serving is not None:
            self.proxy.send(serving.version, serving.up.port)
        log.info("version %d gets no new requests", slot.version)

    def _end(self, slot: Slot) -> None:
        if slot.loading is not None:
            slot.loading.cancel()
            slot.server = slot.loading.server
        if slot.server is not None:
            slot.server.end()
        slot.enter(Phase.ENDING)

    def _remove(self, slot: Slot) -> None:
        del self.slots[slot.version]
        # requests to a server that died wait in the proxy for the next one: its entry stays until then
        if self._in(Phase.SERVING) is not None or self.proxy.version() != slot.version:
            self._stale.add(slot.version)
        needed = {str(number) for number in self.slots} | {str(kept.number) for kept in self.kept}
        for copy in self.state.glob("versions/[0-9]*"):
            if copy.name not in needed:
                shutil.rmtree(copy, ignore_errors=True)
        if slot.server is not None:
            log.info("version %d has ended", slot.version)
        gc.collect()  # what the thread that loaded it had open, files of the store too, is held in cycles

    def _accept(self, version: int) -> None:
        """Take back that a version was refused."""
        if version in self._refused:
            self._refused.discard(version)
            REFUSALS.remove(version)
        # also what a follower before this one said
        self.watch.later(lambda client: withdraw(client, version, REFUSED))

    def _say(self) -> None:
        """Tell clients, the log and Prometheus how things stand, where that has changed."""
        serving, shared = self._in(Phase.SERVING), self._in(Phase.CANARY)
        waiting = None if serving else self._why_not_ready()
        version = serving.version if serving else None
        if (version, waiting) != self._said:
            # the header names the version that served last while that is being started again
            self.proxy.say(version or self.proxy.version(), waiting)
            if waiting:
                nothing = self.watch.seen is not None and self._seen.reachable and not self._seen.production
                hint = (
                    "; train with 'make run' or promote one with 'make promote VERSION=n'" if nothing else ""
                )
                log.warning("NOT READY: %s%s", waiting, hint)
            self._said = version, waiting
        wanted = {v.number for v in (self._seen.production, self._seen.candidate) if v is not None}
        READY.set(serving is not None)
        SERVED.set(version or 0)
        CANARY.set(shared.version if shared else 0)
        PERCENT.set(shared.percent if shared else 0)
        REGISTRY.set(self._seen.reachable)
        WANTED.set(self._seen.production.number if self._seen.production else 0)
        for number in self._refused - wanted:
            self._refused.discard(number)
            REFUSALS.remove(number)

    def _why_not_ready(self) -> str:
        seen = self._seen
        if self.watch.seen is None:
            return "the registry is being asked"
        starting = self._in(Phase.STARTING)
        if starting is not None:
            return f"version {starting.version} is being brought up"
        if not seen.reachable and not self.kept:
            return "the registry does not answer"
        if seen.production is None:
            return f"no version of {MODEL_NAME} is in {PRODUCTION}"
        return f"version {seen.production.number} does not come up; the log and its tag {REFUSED} say why"


def read_kept(state: Path) -> list[Version]:
    """Return the versions that served last, of which copies are in the state folder, the last one first."""
    try:
        rows = json.loads((state / "kept.json").read_text())
        return [
            Version(
                int(row["number"]), "", "READY", "", "", {tag: str(row[tag]) for tag in (MANIFEST, CONTENT)}
            )
            for row in rows
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def write_kept(state: Path, kept: list[Version]) -> None:
    """Remember the versions that served last, with their digests, for a start without the registry."""
    rows = [
        {"number": version.number} | {tag: version.tags.get(tag) for tag in (MANIFEST, CONTENT)}
        for version in kept
    ]
    part = state / "kept.part"
    try:
        part.write_text(json.dumps(rows))
        part.replace(state / "kept.json")
    except OSError as error:
        log.warning("what served last cannot be written down: %s", error)


def left_behind(state: Path) -> list[ModelServer]:
    """Return the model servers that an earlier follower started for a state folder."""
    found = []
    for process, mark in marked(state):
        with suppress(psutil.Error, OSError):
            if "version" in mark and os.getpgid(process.pid) == process.pid:
                # whether it gave way nobody knows any more: the first look says what is right now
                found.append(ModelServer(int(mark["version"]), int(mark["port"]), process, gives_way=True))
    return found


def end_all(state: Path) -> None:
    """End every process that was started for a state folder."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes = [process for process, _ in marked(state)]
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(processes, timeout=PATIENCE)


def rotate(state: Path) -> None:
    """Cut logs off that have grown long; of each, one older part is kept.

    Whoever writes them has them open for appending, and goes on at the new end. A line that is written
    between the copy and the cut is lost.
    """
    for path in [state / REQUESTS, *state.glob("*.log")]:
        with suppress(OSError):
            if path.stat().st_size > LONGEST_LOG:
                shutil.copyfile(path, path.with_suffix(f".1{path.suffix}"))
                os.truncate(path, 0)
    ended = sorted(state.glob("server-*.log"), key=lambda path: path.stat().st_mtime)[:-LOGS_KEPT]
    for path in ended:
        path.unlink(missing_ok=True)


def state_path(given: Path | None, port: int) -> Path:
    """Return where the folder of the follower on a port is."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return (given or home / "sentiment-model" / str(port)).resolve()  # by one name, whichever way it is given


def state_folder(given: Path | None, port: int) -> Path:
    """Return the folder of the follower on a port, made if it is not there, for its user alone.

    Raises
    ------
    FollowError
        If it cannot be made or belongs to somebody else.
    """
    folder = state_path(given, port)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError as error:
        raise FollowError(
            f"the state folder {folder} cannot be made ({error.strerror}); give another: --state"
        ) from None
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise FollowError(f"the state folder {folder} is not the user's own: others may write there")
    return folder


def lock_of(state: Path) -> Path:
    """Return the file that a follower holds locked while it runs."""
    return state / "lock"


state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of copies, logs and sockets.  [default: ~/.local/state/sentiment-model/PORT]",
)


@click.command(help="Keep serving the version in Production, whichever that is.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65535), default=8404, show_default=True)
@state_option
def main(host: str, port: int, metrics_port: int, state: Path | None) -> None:
    """Follow until a signal."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a registry that is away is said once, by us
    if port == metrics_port:
        raise FollowError(f"PORT and METRICS_PORT are both {port}; give one of them another number")
    refuse_workers()
    key(VERIFYING)  # one that cannot be used is said now, not at the next promotion
    find_haproxy()
    folder = state_folder(state, port)
    lock = FileLock(lock_of(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        stop = f"make stop PORT={port}" + (f" STATE='{state}'" if state else "")
        raise FollowError(
            f"a follower runs already with the state folder {folder}; '{stop}' ends it, or give another STATE"
        ) from None
    (folder / "pid").write_text(str(os.getpid()))
    shown, _ = start_http_server(0, addr="127.0.0.1")
    follower = Follower(folder, Proxy(folder, host, port, metrics_port), Watch(), shown.server_port)
    follow(follower)


def follow(follower: Follower) -> None:
    """Run the loop until SIGTERM, SIGINT or SIGHUP; a second one ends everything at once."""
    signals: list[int] = []
    wake = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        wake.set()
        if len(signals) > 1:
            end_all(follower.state)
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    proxy = follower.proxy
    follower.begin()
    follower.watch.start()
    log.info(
        "following %s in %s on http://%s:%d/invocations", MODEL_NAME, store_name(), proxy.host, proxy.port
    )
    log.info(
        "metrics on http://%s:%d/metrics; copies and logs in %s",
        proxy.host,
        proxy.metrics_port,
        follower.state,
    )
    fault, rotated = "", 0.0
    while not signals:
        try:
            follower.step()
            fault = ""
        except Exception as error:  # what serves goes on serving, and the next turn tries again
            expected = isinstance(error, click.ClickException)
            what = error.format_message() if isinstance(error, click.ClickException) else repr(error)
            if what != fault:
                log.log(logging.ERROR, "%s", what, exc_info=not expected)
            fault = what
        if time.monotonic() - rotated > ROTATE_EVERY:
            rotate(follower.state)
            rotated = time.monotonic()
        wake.wait(TICK if not fault else 1.0)
    log.info("stopping: requests in flight have %.0f s", LONGEST_DRAIN)
    follower.finish()
    log.info("stopped")


if __name__ == "__main__":
    main()
