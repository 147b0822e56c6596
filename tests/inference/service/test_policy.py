"""The policy alone, without a process: its situations, and thousands of generated lives."""

import os
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.service.policy import SLOTS, Action, Do, Phase, Server, State, decide

pytestmark = pytest.mark.medium

S, R, C, D, E, N, X = (
    Phase.SERVING,
    Phase.READY,
    Phase.CANARY,
    Phase.DRAINING,
    Phase.ENDING,
    Phase.STARTING,
    Phase.ENDED,
)


def servers(*pairs: tuple[int, Phase]) -> tuple[Server, ...]:
    return tuple(Server(version, phase) for version, phase in pairs)


LIVES = int(os.environ.get("LIVES") or 2_000)  # 10,000 in `make test-all`
BUSY = Server(1, D, in_flight=3)


@pytest.mark.parametrize(
    ("situation", "state", "expected"),
    [
        ("nothing is wanted, nothing is there", State(None), None),
        ("the first version", State(1), Action(Do.START, 1)),
        ("it is starting", State(1, servers((1, N))), None),
        ("it has come up", State(1, servers((1, R))), Action(Do.SWITCH, 1)),
        ("all is as it should be", State(1, servers((1, S))), None),
        ("a new version is loaded beside the old", State(2, servers((1, S))), Action(Do.START, 2)),
        ("the old one serves while the new one starts", State(2, servers((1, S), (2, N))), None),
        ("then the requests move", State(2, servers((1, S), (2, R))), Action(Do.SWITCH, 2)),
        ("the old one finishes what it is answering", State(2, (BUSY, Server(2, S))), None),
        ("and ends", State(2, servers((1, D), (2, S))), Action(Do.END, 1)),
        ("it takes its time", State(2, servers((1, E), (2, S))), None),
        ("its process is gone", State(2, servers((1, X), (2, S))), Action(Do.REMOVE, 1)),
        ("a lower number is a version like any other", State(1, servers((2, S))), Action(Do.START, 1)),
        ("back before the old one has ended", State(1, (BUSY, Server(2, S))), Action(Do.SWITCH, 1)),
        ("back when it is ending already: a new server", State(1, servers((1, E), (2, S))), None),
        ("the new one fails: the old one stays", State(2, servers((1, S)), blocked=frozenset({2})), None),
        ("overtaken while starting: it is ended", State(3, servers((1, S), (2, N))), Action(Do.END, 2)),
        ("overtaken when ready: it is ended", State(3, servers((1, S), (2, R))), Action(Do.END, 2)),
        ("overtaken, ending: wait for the slot", State(3, servers((1, S), (2, E))), None),
        ("withdrawn while starting", State(1, servers((1, S), (2, N))), Action(Do.END, 2)),
        ("Production is emptied: what serves goes on", State(None, servers((1, S))), None),
        ("Production is emptied while another starts", State(None, servers((1, S), (2, N))), Action(Do.END, 2)),
        ("the one that serves dies", State(1, servers((1, X))), Action(Do.REMOVE, 1)),
        ("and is started again", State(1, fallback=1), Action(Do.START, 1)),
        ("it dies as the new one starts", State(2, servers((2, N)), fallback=1), Action(Do.START, 1)),
        ("the new one is there first", State(2, servers((2, R), (1, N)), fallback=1), Action(Do.SWITCH, 2)),
        ("the old one is there first", State(2, servers((2, N), (1, R)), fallback=1), Action(Do.SWITCH, 1)),
        ("the new one dies while the old one drains", State(2, (BUSY,), fallback=2), Action(Do.SWITCH, 1)),
        ("nobody knows what is wanted", State(None, fallback=1), Action(Do.START, 1)),
        ("what is wanted fails, nothing serves", State(2, fallback=1, blocked=frozenset({2})), Action(Do.START, 1)),
        ("all fail: wait", State(2, fallback=1, blocked=frozenset({1, 2})), None),
        ("a canary is brought up", State(1, servers((1, S)), canary=2, percent=10), Action(Do.START, 2)),
        ("it gets its share", State(1, servers((1, S), (2, R)), canary=2, percent=10), Action(Do.SHARE, 2)),
        (
            "it has its share",
            State(1, (Server(1, S), Server(2, C, percent=10)), canary=2, percent=10),
            None,
        ),
        (
            "its share grows",
            State(1, (Server(1, S), Server(2, C, percent=10)), canary=2, percent=50),
            Action(Do.SHARE, 2),
        ),
        (
            "its share shrinks",
            State(1, (Server(1, S), Server(2, C, percent=50)), canary=2, percent=10),
            Action(Do.SHARE, 2),
        ),
        ("it is stopped", State(1, servers((1, S), (2, C))), Action(Do.DRAIN, 2)),
        ("it is asked for again while it drains", State(1, servers((1, S), (2, D)), canary=2), Action(Do.SHARE, 2)),
        ("it is promoted: no new server", State(2, servers((1, S), (2, C)), canary=2), Action(Do.SWITCH, 2)),
        ("another one is promoted: it makes room", State(3, servers((1, S), (2, C)), canary=2), Action(Do.DRAIN, 2)),
        ("no canary before all is as it should be", State(2, servers((1, S), (2, N)), canary=3), None),
        ("no canary of what serves", State(1, servers((1, S)), canary=1), None),
        ("no canary beside a version that should not serve", State(2, servers((1, S)), canary=3, blocked=frozenset({2})), None),
        ("a canary that fails is let be", State(1, servers((1, S)), canary=2, blocked=frozenset({2})), None),
    ],
)  # fmt: skip
def test_situations(situation: str, state: State, expected: Action | None) -> None:
    assert decide(state) == expected, situation


@dataclass
class World:
    """What the policy acts upon, with servers that start, fail and die as a life says."""

    state: State = field(default_factory=lambda: State(None))
    phases: dict[int, Server] = field(default_factory=dict)

    def know(self) -> State:
        return replace(self.state, servers=tuple(self.phases.values()))

    def set(self, version: int, **changes: Any) -> None:
        self.phases[version] = replace(self.phases[version], **changes)

    def serving(self) -> list[int]:
        return [version for version, server in self.phases.items() if server.phase is S]

    def act(self, action: Action) -> None:
        """Do what the policy says, and hold it to what it promises."""
        version, before = action.version, self.serving()
        server = self.phases.get(version)
        if action.do is Do.START:
            assert server is None
            assert version not in self.state.blocked
            self.phases[version] = Server(version, N)
        else:
            assert server is not None
            phase = server.phase
            match action.do:
                case Do.SWITCH:
                    assert phase in (R, C, D), "only a server that has proved that it answers"
                    for other in self.phases:
                        if self.phases[other].phase in (S, C):
                            self.set(other, phase=D, percent=0)
                    self.set(version, phase=S, percent=0)
                    self.state = replace(self.state, fallback=version)
                case Do.SHARE:
                    assert phase in (R, C, D)
                    assert before, "a share beside nothing"
                    self.set(version, phase=C, percent=self.state.percent)
                case Do.DRAIN:
                    assert phase is C
                    self.set(version, phase=D, percent=0)
                case Do.END:
                    assert phase in (N, R, D)
                    assert not server.in_flight, "a request in flight would be lost"
                    self.set(version, phase=E)
                case Do.REMOVE:
                    assert phase is X
                    del self.phases[version]
        assert len(self.phases) <= SLOTS
        assert len(self.serving()) <= 1
        if before:
            assert self.serving(), "a policy never leaves nothing serving"

    def settle(self) -> None:
        """Act until there is nothing left to do; that must come soon."""
        for _ in range(20):
            action = decide(self.know())
            if action is None:
                return
            self.act(action)
        raise AssertionError(f"it never comes to rest: {self.know()}")


EVENTS = st.one_of(
    st.tuples(st.just("want"), st.one_of(st.none(), st.integers(1, 5))),
    st.tuples(st.just("canary"), st.one_of(st.none(), st.integers(1, 5))),
    st.tuples(st.just("percent"), st.integers(1, 99)),
    st.tuples(st.just("block"), st.integers(1, 5)),
    st.tuples(st.just("unblock"), st.integers(1, 5)),
    st.tuples(st.sampled_from(["up", "fail", "die", "busy", "idle", "gone"]), st.integers(0, 1)),
)


def happen(world: World, what: str, which: int | None) -> None:
    """Let one thing happen that the policy has no say in."""
    state = world.state
    if what == "want":
        world.state = replace(state, wanted=which)
    elif what == "canary":
        world.state = replace(state, canary=which)
    elif what == "percent":
        world.state = replace(state, percent=which or 0)
    elif what == "block" and which is not None:
        world.state = replace(state, blocked=state.blocked | {which})
    elif what == "unblock" and which is not None:
        world.state = replace(state, blocked=state.blocked - {which})
    elif which is not None and which < len(world.phases):
        version = list(world.phases)[which]
        phase = world.phases[version].phase
        if what == "up" and phase is N:
            world.set(version, phase=R)
        elif what == "fail" and phase is N:
            world.set(version, phase=E)
            world.state = replace(state, blocked=state.blocked | {version})
        elif what == "die" and phase not in (N, E, X):
            world.set(version, phase=X, in_flight=0)
        elif what == "busy" and phase in (S, C, D):
            world.set(version, in_flight=2)
        elif what == "idle":
            world.set(version, in_flight=0)
        elif what == "gone" and phase is E:
            world.set(version, phase=X, in_flight=0)


@settings(max_examples=LIVES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=30))
def test_whatever_happens_something_serves_and_in_the_end_the_right_one(
    events: list[tuple[str, int | None]],
) -> None:
    world = World()
    for what, which in events:
        happen(world, what, which)
        world.settle()
    # from here on all goes well: what is wanted must come to serve, alone or with its canary
    world.state = replace(world.state, blocked=frozenset(), wanted=world.state.wanted or 1)
    for _ in range(30):
        world.settle()
        for which in range(len(world.phases)):
            for what in ("idle", "up", "gone"):
                happen(world, what, which)
    wanted, canary = world.state.wanted, world.state.canary
    assert world.serving() == [wanted]
    others = {
        version: (server.phase, server.percent)
        for version, server in world.phases.items()
        if version != wanted
    }
    assert others == ({canary: (C, world.state.percent)} if canary not in (None, wanted) else {})
