"""The loop of a follower: look at the registry and the servers, decide, act, and say how things stand."""

import gc
import logging
import shutil
import signal
import time
from functools import partial
from math import inf
from pathlib import Path

from mlflow.tracking import MlflowClient

from inference.server import PATIENCE
from inference.service import metrics
from inference.service.judge import RequestLog, grossly_worse
from inference.service.loading import TIMEOUT, Loading
from inference.service.policy import Action, Do, Phase, Server, State, decide
from inference.service.proxy import FULL, LONGEST_DRAIN, REQUESTS, Proxy
from inference.service.slots import Failures, Slot
from inference.service.state import end_all, left_behind, read_kept, write_kept
from inference.service.watch import Seen, Watch, why_not_ready
from registry import canary
from registry.versions import PROMOTED_AT, REFUSED, Version, note, withdraw

LONGEST_WAY = 30.0  # seconds that a start leaves the processor to the version that serves
PROVED_AFTER = 60.0  # seconds of serving after which earlier failures count no more
PULSE_EVERY, LOST_PULSES = 10.0, 3
KEPT = 2  # versions that served last

log = logging.getLogger("follow")


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
        self._failures = Failures()
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
            self._failures.clear()  # what failed may have failed for that reason
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
            self._failures.forget(self._key(slot.version))

    def _died(self, slot: Slot) -> None:
        """Take note that a server is gone that had come up."""
        metrics.DEATHS.inc()
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
        count, wait = self._failures.add(self._key(version), died, partial(self._others_can, version))
        what = f"is tried again in {wait:.0f} s"
        if wait == inf:
            what = f"is not tried again; 'make promote VERSION={version}' has it tried again"
        if died and wait < inf:
            log.error("DIED: version %d, failure %d: %s; it %s", version, count, why, what)
            return
        metrics.FAILURES.inc()
        self._refused.add(version)
        metrics.REFUSALS.labels(version).set(1)
        log.error("REFUSED: version %d, failure %d: %s; it %s", version, count, why, what)
        self.watch.later(lambda client: note(client, version, REFUSED, why))
        if wait == inf and self._seen.canary and self._seen.canary.version == version:
            self._stop_canary(version, why)

    def _others_can(self, version: int) -> bool:
        """Return whether another version serves, or could."""
        others = [kept for kept in self.kept if kept.number != version]
        serving = self._in(Phase.SERVING)
        return (serving is not None and serving.version != version) or any(
            self._failures.until(self._key(other.number)) < inf for other in others
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
        metrics.STOPS.inc()
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
        blocked = {v.number for v in self._known() if self._failures.until(self._key(v.number)) > now}
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
        return [v for v in (self._seen.production, self._seen.candidate, *self.kept) if v is not None]

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
        steps = {
            Do.SWITCH: self._switch,
            Do.SHARE: self._share,
            Do.DRAIN: self._drain,
            Do.END: self._end,
            Do.REMOVE: self._remove,
        }
        slot = self.slots.get(action.version)
        self._start(action.version) if slot is None else steps[action.do](slot)

    def _start(self, number: int) -> None:
        version = self._version(number)
        if version is None:
            raise RuntimeError(f"version {number} is not known")
        log.info("bringing up version %d", number)
        metrics.STARTS.inc()
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
        metrics.SWITCHES.inc()
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
            metrics.REFUSALS.remove(version)
        # also what a follower before this one said
        self.watch.later(lambda client: withdraw(client, version, REFUSED))

    def _say(self) -> None:
        """Tell clients, the log and Prometheus how things stand, where that has changed."""
        serving, shared = self._in(Phase.SERVING), self._in(Phase.CANARY)
        waiting = (
            None if serving else why_not_ready(self.watch.seen, self._in(Phase.STARTING), bool(self.kept))
        )
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
        production = self._seen.production
        metrics.show(version, shared, self._seen.reachable, production.number if production else None)
        for number in self._refused - wanted:
            self._refused.discard(number)
            metrics.REFUSALS.remove(number)
