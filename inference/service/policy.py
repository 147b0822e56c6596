"""The policy of the follower: what to do next, from what is known. It touches nothing.

As in TensorFlow Serving's availability-preserving policy, a new version is loaded beside the one that
serves, and that one is let go only when the new one is ready. There are two slots.
"""

from dataclasses import dataclass
from enum import StrEnum

SLOTS = 2


class Phase(StrEnum):
    """Where a model server is in its life."""

    STARTING = "starting"  # fetched and started, has not given its example answers yet
    READY = "ready"  # has given them, gets no requests
    SERVING = "serving"  # gets all requests, or what the canary leaves
    CANARY = "canary"  # gets its share of them
    DRAINING = "draining"  # gets no new ones, finishes those in flight
    ENDING = "ending"  # was told to end
    ENDED = "ended"  # its process is gone


# those that have proved that they answer, and could take all requests at once
_PROVED = (Phase.READY, Phase.CANARY, Phase.DRAINING)


@dataclass(frozen=True)
class Server:
    """One model server: the version that it serves, its phase, how many requests it is answering, its share."""

    version: int
    phase: Phase
    in_flight: int = 0
    percent: int = 0


@dataclass(frozen=True)
class State:
    """All that the policy knows.

    Attributes
    ----------
    wanted : int or None
        The version in Production; None if there is none.
    servers : tuple of Server
        At most one a version.
    canary : int or None
        The version that is to get a share of the requests.
    percent : int
        That share.
    fallback : int or None
        The version that served last and is kept on this machine.
    blocked : frozenset of int
        Versions that may not be started now: they failed, and wait for their next try or for good.
    """

    wanted: int | None
    servers: tuple[Server, ...] = ()
    canary: int | None = None
    percent: int = 0
    fallback: int | None = None
    blocked: frozenset[int] = frozenset()


class Do(StrEnum):
    """What can be done to a version."""

    START = "start"  # fetch it, verify it, start a server
    SWITCH = "switch"  # send it all new requests; whatever served before drains
    SHARE = "share"  # send it its share
    DRAIN = "drain"  # send it nothing new
    END = "end"  # tell its process to end
    REMOVE = "remove"  # forget it: its process is gone


@dataclass(frozen=True)
class Action:
    """One step."""

    do: Do
    version: int


def decide(state: State) -> Action | None:
    """Return the next step, or None if there is nothing to do but wait.

    Whatever happens, a server that serves is neither drained nor ended, but by a switch to another one
    that has proved that it answers.

    Examples
    --------
    >>> serving = Server(1, Phase.SERVING)
    >>> decide(State(wanted=2, servers=(serving,)))
    Action(do=<Do.START: 'start'>, version=2)
    >>> decide(State(wanted=2, servers=(serving, Server(2, Phase.STARTING))))
    >>> decide(State(wanted=2, servers=(serving, Server(2, Phase.READY))))
    Action(do=<Do.SWITCH: 'switch'>, version=2)
    """
    servers = {server.version: server for server in state.servers}
    serving = next((server.version for server in state.servers if server.phase is Phase.SERVING), None)
    for server in state.servers:
        if server.phase is Phase.ENDED:
            return Action(Do.REMOVE, server.version)

    goal = _goal(state, serving)
    canary = state.canary if serving is not None and state.canary != serving == goal == state.wanted else None
    if goal is not None and goal != serving and goal in servers and servers[goal].phase in _PROVED:
        return Action(Do.SWITCH, goal)
    if serving is None:  # better another version than none
        for server in state.servers:
            if server.phase in (Phase.READY, Phase.DRAINING):
                return Action(Do.SWITCH, server.version)

    needed = {goal, serving, canary} | ({state.fallback} if serving is None else set())
    for server in state.servers:
        if server.version in needed:
            continue
        if server.phase is Phase.CANARY:
            return Action(Do.DRAIN, server.version)
        idle = server.phase is Phase.DRAINING and not server.in_flight
        if idle or server.phase in (Phase.STARTING, Phase.READY):
            return Action(Do.END, server.version)

    if canary in servers:
        phase, percent = servers[canary].phase, servers[canary].percent
        if phase in (Phase.READY, Phase.DRAINING) or (phase is Phase.CANARY and percent != state.percent):
            return Action(Do.SHARE, canary)
    if len(servers) < SLOTS:
        fallback = state.fallback if serving is None else None
        for version in (goal, canary, fallback):
            if version is not None and version not in servers and version not in state.blocked:
                return Action(Do.START, version)
    return None


def _goal(state: State, serving: int | None) -> int | None:
    """Return the version that should serve, of those that can."""
    here = {server.version for server in state.servers}
    if state.wanted is not None and (state.wanted in here or state.wanted not in state.blocked):
        return state.wanted
    return serving if serving is not None else state.fallback
