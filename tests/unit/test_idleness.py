"""The idle rule: examples of each clause, and random lives of a model against what really happened in them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from airfreight.cluster import Cluster
from airfreight.idleness import (
    Busy,
    Clock,
    Idle,
    Look,
    Replica,
    Unknown,
    Work,
    at_work,
    judge,
    of_json,
    resume_from,
    to_json,
)
from airfreight.last_look import BLIND_S, Ask, Eye
from airfreight.metrics import Load

IDLE = Load(0, 0, (5.0, 50.0))


def seen(name: str = "a", load: Load | None = IDLE, **more: Any) -> Replica:
    return Replica(uid=f"uid-{name}", name=name, restarts=more.pop("restarts", 0), ready=more.pop("ready", True),
                   load=load, **more)  # fmt: skip


def look(at: float, *replicas: Replica, wall: float | None = None, **more: Any) -> Look:
    return Look(at, 1_000_000 + at if wall is None else wall, replicas, **more)


def test_idle_time_is_counted_from_the_first_clean_look() -> None:
    assert judge([look(at, seen()) for at in range(0, 61, 10)]) == Idle(60.0)
    assert judge([]) == Unknown("nobody has looked yet")


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (look(30, seen(load=Load(1, 0, (5.0, 50.0)))), Busy("a has 1 running, 0 waiting")),
        (look(30, seen(load=Load(0, 3, (5.0, 50.0)))), Busy("a has 0 running, 3 waiting")),
        (look(30, seen(load=Load(0, 0, (6.0, 50.0)))), Busy("a has answered since the last look")),
        (look(30, seen(load=Load(0, 0, (0.0, 0.0)))), Busy("a has answered since the last look")),
        (look(30, seen(restarts=1)), Busy("a pod went, or started its server anew, since the last look")),
        (look(30, seen(), seen("b")), Busy("b is new")),
        (look(30, seen(), wanted=2), Busy("1 of 2 pods are there")),
        (look(30, seen(ready=False)), Busy("a is starting or going")),
        (look(30, seen(load=None, problem="its metrics say x is NaN")), Unknown("a: its metrics say x is NaN")),
        (look(30, seen(age_s=25)), Unknown("a: its metrics are 25 s old")),
        (look(30), Unknown("there is no pod to look at")),
        (look(30, problem="the cluster answered 500"), Unknown("the cluster answered 500")),
        (look(30, seen(), wall=1_000_090), Unknown("the clock was set, or the machine slept")),
        (look(19, seen(), wall=1_000_030), Unknown("the clock was set, or the machine slept")),
        (look(130, seen()), Unknown("nobody looked for 110 s")),
    ],
)
def test_what_is_not_idle_says_so_and_starts_the_clock_anew(middle: Look, expected: Any) -> None:
    before = [look(at, seen()) for at in (0, 10, 20)]
    assert judge([*before, middle]) == expected
    healthy = [replace(middle, at=middle.at + step, wall=middle.wall + step, replicas=(seen(),), wanted=1, problem="")
               for step in (10, 20)]  # fmt: skip
    verdict = judge([*before, middle, *healthy])
    assert isinstance(verdict, Idle) and verdict.seconds <= 20


def test_evidence_survives_the_way_to_another_process() -> None:
    clock, _ = Clock().step(look(0, seen()))
    assert clock.evidence is not None
    evidence = of_json(to_json(clock.evidence))
    last = look(9_000, seen())
    assert resume_from(evidence, last).step(last)[1] == Idle(0.0)
    answered = look(9_000, seen(load=Load(0, 0, (6.0, 51.0))))
    assert resume_from(evidence, answered).step(answered)[1] == Busy("a has answered since the last look")
    with pytest.raises(ValueError, match="it is no evidence"):
        of_json([1])


def test_work_is_told_of_each_replica_whatever_the_others_are_at() -> None:
    busy = look(0, seen("a", ready=False, load=None), seen("b"), seen("c", load=Load(2, 1, (5.0,))),
                seen("d", load=None, problem="its metrics answer 500"), seen("e", age_s=25), wanted=9)  # fmt: skip
    assert at_work(busy) == Work(
        {"uid-c/0": "c has 2 running, 1 waiting"},
        {"uid-d/0": "cannot see d: its metrics answer 500", "uid-e/0": "cannot see e: its metrics are 25 s old"},
    )
    assert at_work(look(0)) == Work({}, {}), "where there is no pod nobody works"
    assert at_work(look(0, problem="the cluster answered 500")) == Work({}, {"": "cannot see the cluster answered 500"})


# ---- random lives ------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A pod and its process, as they really are."""

    uid: str
    restarts: int = 0
    up_at: float = 0.0
    counters: list[float] = field(default_factory=lambda: [0.0, 0.0])
    ends: list[float] = field(default_factory=list)  # of the requests in it


@dataclass
class World:
    """What really happens: requests come in bursts, servers restart, come and go; `last_work` is the truth."""

    rng: random.Random
    servers: list[Server]
    traffic: float
    now: float = 0.0
    last_work: float = 0.0
    born: int = 0
    skew: float = 0.0

    def run_to(self, moment: float) -> None:
        while self.now < moment:
            self.now = min(moment, self.now + self.rng.uniform(0.2, 2.0))
            for server in list(self.servers):
                self._live(server)
            self._change()

    def _live(self, server: Server) -> None:
        if server.ends:
            self.last_work = self.now
        for end in [end for end in server.ends if end <= self.now]:
            server.ends.remove(end)
            server.counters[0] += 1
            server.counters[1] += self.rng.randint(1, 90)
        if server.up_at <= self.now and self.rng.random() < self.traffic:
            self.last_work = self.now
            # Many end before anybody looks.
            server.ends.append(self.now + self.rng.choice([0.0, 0.3, 1.0, self.rng.expovariate(1 / 20)]))

    def _change(self) -> None:
        dice = self.rng.random()
        if dice < 0.004:  # a crash: requests are lost, counters begin at zero
            server = self.rng.choice(self.servers)
            server.restarts, server.counters, server.ends = server.restarts + 1, [0.0, 0.0], []
            server.up_at = self.now + self.rng.uniform(0, 5)
        elif dice < 0.007 and len(self.servers) > 1:
            self.servers.remove(self.rng.choice(self.servers))
        elif dice < 0.010 and len(self.servers) < 4:
            self.born += 1
            self.servers.append(Server(f"born-{self.born}", up_at=self.now + self.rng.uniform(0, 8)))
        elif dice < 0.013:
            self.traffic = self.rng.choice([0.0, 0.0, 0.002, 0.02, 0.4])
        elif dice < 0.015:
            self.skew += self.rng.choice([-1, 1]) * self.rng.choice([1.9, 30.0, 3600.0, 86_400.0])

    def look(self) -> Look:
        problem = "the cluster answered 500" if self.rng.random() < 0.01 else ""
        # A page may be of a moment ago, as when a server hangs; it says how old it is.
        return Look(self.now, 1e9 + self.now + self.skew, tuple(self._replica(one) for one in self.servers),
                    wanted=len(self.servers), problem=problem)  # fmt: skip

    def _replica(self, server: Server) -> Replica:
        ready = server.up_at <= self.now
        load: Load | None = Load(len(server.ends), 0, tuple(server.counters))
        problem, age = "", 0.0
        dice = self.rng.random()
        if dice < 0.01:
            load, problem = None, "its metrics say x is NaN"
        elif dice < 0.02:
            load, age = Load(0, 0, tuple(server.counters)), 60.0  # a page that lies, because it is old
        return Replica(server.uid, server.uid, server.restarts, ready, load, problem, age)


IDLE_AFTER_S = 45.0


def live_once(seed: int) -> tuple[bool, float]:
    """Look until the rule says idle for long enough, or for 20 minutes; whether it did, and the true idle time."""
    rng = random.Random(seed)
    world = World(
        rng, [Server(f"s{number}") for number in range(rng.randint(1, 3))], rng.choice([0.0, 0.002, 0.02, 0.3])
    )
    clock = Clock()
    while world.now < 1200:
        pause = rng.choice([1.0, 5.0, 5.0, 10.0, 10.0, 30.0]) if rng.random() > 0.005 else 300.0
        world.run_to(world.now + pause)
        clock, verdict = clock.step(world.look())
        if isinstance(verdict, Idle) and verdict.seconds >= IDLE_AFTER_S:
            return True, world.now - world.last_work
    return False, 0.0


def test_no_wrong_stop_in_10_000_random_lives() -> None:
    wrong, stops = [], 0
    for seed in range(10_000):
        stopped, truly_idle = live_once(seed)
        stops += stopped
        # Servers that never worked are idle from the beginning, which last_work = 0 says too.
        if stopped and truly_idle < IDLE_AFTER_S:
            wrong.append((seed, truly_idle))
    assert not wrong, wrong[:5]
    assert stops > 5_000, "a rule that never stops would be right, and useless"


# ---- random closings ---------------------------------------------------------------------------------------------


CLOSES = 60.0


class ClosingEye(Eye):
    """The real last look, at a world in which time passes as it waits; some servers cannot be read for a while."""

    world: World
    dark: dict[str, tuple[float, float]]
    looks: list[Look]

    def look(self) -> Look:
        """What of the world can be read now. A cluster that does not answer ends the process that stops, elsewhere."""
        now = self.world.look()
        pods = tuple(
            replace(one, load=None, problem="dark") if self._is_dark(one.uid, now.at) else one for one in now.replicas
        )
        self.looks.append(replace(now, replicas=pods, problem=""))
        return self.looks[-1]

    def _is_dark(self, uid: str, at: float) -> bool:
        begin, end = self.dark.get(uid, (0.0, 0.0))
        return begin <= at < end

    def _is_down(self) -> bool:
        return False


def close_once(seed: int) -> tuple[ClosingEye, float, str]:
    """Close a model that has lived for a minute: how it was looked at, its drain_s, what was said."""
    rng = random.Random(seed)
    servers = [Server(f"s{number}") for number in range(rng.randint(1, 3))]
    world = World(rng, servers, rng.choice([0.0, 0.002, 0.02, 0.3]))
    world.run_to(CLOSES)
    eye = ClosingEye(cast(Cluster, None), "models", "pong", clock=lambda: world.now,
                     wait=lambda seconds: world.run_to(world.now + seconds))  # fmt: skip
    eye.world, eye.looks = world, []
    eye.dark = {one.uid: (rng.uniform(50, 120), rng.uniform(60, 260)) for one in servers if rng.random() < 0.2}
    drain_s = rng.choice([0.0, 10.0, 60.0, 300.0])
    return eye, drain_s, eye.why_not(Ask("closing", drain_s=drain_s))


def is_read(replica: Replica) -> bool:
    return replica.load is not None and 0 <= replica.age_s <= 20


def wrong_of(replica: Replica, truth: Server, eye: ClosingEye, drain_s: float) -> str:
    """Why the model must not have been stopped for this replica's sake; "" when it may have been."""
    now = eye.looks[-1].at
    # Without a limit, work is never a matter of time.
    in_time = drain_s == 0 or now < CLOSES + drain_s
    if not replica.ready:
        return ""
    if is_read(replica):
        return "works" if truth.ends and in_time else ""
    unread_at = now
    for look in reversed(eye.looks):
        before = next((one for one in look.replicas if one.identity == replica.identity and one.ready), None)
        if before is None:
            break
        if is_read(before):
            if before.load is not None and before.load.running:
                return "worked when it was read last" if in_time else ""
            break
        unread_at = look.at
    hasty = now - unread_at < BLIND_S and now < CLOSES + max(drain_s, BLIND_S)
    return "not read, and hardly waited for" if hasty else ""


def test_no_wrong_stop_in_10_000_random_closings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")
    wrong, ends, refused = [], {"at once": 0, "later": 0, "at the limit": 0}, 0
    for seed in range(10_000):
        eye, drain_s, said = close_once(seed)
        last, truths = eye.looks[-1], {one.uid: one for one in eye.world.servers}
        if said:
            refused += 1
            assert drain_s == 0 and any(is_read(one) and truths[one.uid].ends for one in last.replicas), seed
            continue
        faults = [wrong_of(one, truths[one.uid], eye, drain_s) for one in last.replicas]
        wrong += [(seed, fault) for fault in faults if fault]
        limit = CLOSES + max(drain_s, BLIND_S)
        assert last.at < limit + 2.1, f"{seed} takes too long"
        ends["at once" if last.at == CLOSES else "later" if last.at < limit else "at the limit"] += 1
    assert not wrong, wrong[:5]
    assert refused > 500 and min(ends.values()) > 500, (refused, ends)
