"""Is a model idle? A pure rule over what was seen of its replicas, look after look.

Idle means: at every look since the idle clock started, every replica was up, said so freshly and credibly, had nothing
running and nothing waiting, and its counters stood still. Anything else is busy, and what cannot be seen is unknown,
which counts as busy and is shown with its reason: "cannot see, not stopping: …". The idle clock starts anew

- at a request that runs, waits, or ended since the last look (a counter moved, in either direction);
- when a replica comes, goes, or starts its container anew: what it did between two looks nobody saw;
- when a look failed, is old, or comes long after the one before it;
- when the two clocks of a look disagree about the time since the last one: somebody set the time, or the machine slept.

Idle time is what both clocks agree on. A clock is never told to stop for a wrong reason: `Idle` carries its evidence,
and whoever stops the model compares it with one last look (`resume_from`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airfreight.metrics import Load


@dataclass(frozen=True)
class Replica:
    """What was seen of one pod that may serve. Pods that ended for good are none.

    Args:
        uid: of the pod.
        name: of the pod, for reasons.
        restarts: of the model server's container.
        ready: Kubernetes routes requests to it.
        load: what its metrics said; None when they could not be read or believed.
        problem: why they could not.
        age_s: seconds between asking for the metrics and judging them.
    """

    uid: str
    name: str
    restarts: int
    ready: bool
    load: Load | None
    problem: str = ""
    age_s: float = 0.0

    @property
    def identity(self) -> str:
        """Changes when the process behind the counters does."""
        return f"{self.uid}/{self.restarts}"


@dataclass(frozen=True)
class Look:
    """All replicas of a model at about one time.

    Args:
        at: monotonic seconds.
        wall: Unix seconds.
        replicas: that may serve.
        wanted: how many the Deployment wants.
        problem: why nothing could be seen at all; "" when it could.
    """

    at: float
    wall: float
    replicas: tuple[Replica, ...] = ()
    wanted: int = 1
    problem: str = ""


@dataclass(frozen=True)
class Limits:
    """What a look must hold to, in seconds."""

    age_s: float = 20.0
    gap_s: float = 90.0  # between two looks
    drift_s: float = 2.0  # between two clocks in one gap


@dataclass(frozen=True)
class Busy:
    """It works, or may."""

    reason: str


@dataclass(frozen=True)
class Unknown:
    """Nobody can say; counts as busy."""

    reason: str


@dataclass(frozen=True)
class Idle:
    """Idle for `seconds` up to the last look."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """What the replicas that Kubernetes routes requests to are at, as a sentence by `Replica.identity`.

    Args:
        working: their own numbers say that requests run or wait.
        unseen: nobody can say; they may work.
    """

    working: Mapping[str, str]
    unseen: Mapping[str, str]


Verdict = Busy | Unknown | Idle
Evidence = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Clock:
    """The idle clock between two looks.

    Args:
        evidence: counters by replica at the last look; None while it does not run.
        idle_s: how long it has run.
        at, wall: of the last look.
    """

    evidence: Evidence | None = None
    idle_s: float = 0.0
    at: float = 0.0
    wall: float = 0.0
    limits: Limits = field(default_factory=Limits)

    def step(self, look: Look) -> tuple[Clock, Verdict]:
        """Return the clock after a look, and what the look means."""
        stopped = Clock(None, 0.0, look.at, look.wall, self.limits)
        seen = _see(look, self.limits)
        if isinstance(seen, Busy | Unknown):
            return stopped, seen
        started = Clock(seen, 0.0, look.at, look.wall, self.limits)
        if self.evidence is None:
            return started, Idle(0.0)
        changed = _change(self.evidence, seen, look) or self._time_problem(look)
        if changed is not None:
            return started, changed
        idle_s = self.idle_s + max(0.0, min(look.at - self.at, look.wall - self.wall))
        return Clock(seen, idle_s, look.at, look.wall, self.limits), Idle(idle_s)

    def _time_problem(self, look: Look) -> Unknown | None:
        steady, wall = look.at - self.at, look.wall - self.wall
        if steady < 0 or abs(steady - wall) > self.limits.drift_s:
            return Unknown("the clock was set, or the machine slept")
        if steady > self.limits.gap_s:
            return Unknown(f"nobody looked for {steady:.0f} s")
        return None


def resume_from(evidence: Evidence, look: Look, limits: Limits | None = None) -> Clock:
    """Return a clock that runs on from another process's evidence; `step` with the same look then judges that look.

    The time between the two processes is not known and not counted: only what happened in it.
    """
    return Clock(evidence, 0.0, look.at, look.wall, limits or Limits())


def at_work(look: Look, limits: Limits | None = None) -> Work:
    """Say which replicas work, and which may, whatever the others are at.

    A replica that is not ready gets no requests, and one that does not exist yet neither. So neither is at work, though
    for the idle rule both are a reason to wait.
    """
    within = limits or Limits()
    if look.problem:
        return Work({}, {"": f"cannot see {look.problem}"})
    working, unseen = {}, {}
    for replica in look.replicas:
        load = _load(replica, within)
        if isinstance(load, Load):
            if load.running or load.waiting:
                working[replica.identity] = _words(replica, load)
        elif replica.ready:
            unseen[replica.identity] = f"cannot see {load.reason}"
    return Work(working, unseen)


def judge(looks: Iterable[Look], limits: Limits | None = None) -> Verdict:
    """Say what a model is after these looks, the oldest first."""
    clock, verdict = Clock(limits=limits or Limits()), Unknown("nobody has looked yet")
    for look in looks:
        clock, verdict = clock.step(look)  # type: ignore[assignment]
    return verdict


def to_json(evidence: Evidence) -> dict[str, list[float]]:
    """Return evidence as JSON, for `of_json` in another process."""
    return {identity: list(counters) for identity, counters in evidence.items()}


def of_json(value: Any) -> Evidence:
    """Read what `to_json` gave.

    Raises:
        ValueError: it is none.
    """
    try:
        return {str(identity): tuple(float(one) for one in counters) for identity, counters in value.items()}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"it is no evidence ({error})") from None


def _see(look: Look, limits: Limits) -> Evidence | Busy | Unknown:
    """Return the counters of all replicas, if all are up, credible and without work."""
    if look.problem:
        return Unknown(look.problem)
    if not look.replicas:
        return Unknown("there is no pod to look at")
    if len(look.replicas) < look.wanted:
        return Busy(f"{len(look.replicas)} of {look.wanted} pods are there")
    evidence: dict[str, tuple[float, ...]] = {}
    for replica in look.replicas:
        found = _see_one(replica, limits)
        if isinstance(found, Busy | Unknown):
            return found
        evidence[replica.identity] = found
    return evidence


def _see_one(replica: Replica, limits: Limits) -> tuple[float, ...] | Busy | Unknown:
    if not replica.ready:
        return Busy(f"{replica.name} is starting or going")
    load = _load(replica, limits)
    if isinstance(load, Unknown):
        return load
    return Busy(_words(replica, load)) if load.running or load.waiting else load.counters


def _load(replica: Replica, limits: Limits) -> Load | Unknown:
    """Return what a replica says, if it can be read and is fresh."""
    if replica.load is None:
        return Unknown(f"{replica.name}: {replica.problem or 'its metrics cannot be read'}")
    if replica.age_s > limits.age_s or replica.age_s < 0:
        return Unknown(f"{replica.name}: its metrics are {replica.age_s:.0f} s old")
    return replica.load


def _words(replica: Replica, load: Load) -> str:
    return f"{replica.name} has {load.running:.0f} running, {load.waiting:.0f} waiting"


def _change(before: Evidence, now: Evidence, look: Look) -> Busy | None:
    names = {replica.identity: replica.name for replica in look.replicas}
    if before.keys() - now.keys():
        return Busy("a pod went, or started its server anew, since the last look")
    for identity, counters in now.items():
        if identity not in before:
            return Busy(f"{names[identity]} is new")
        if before[identity] != counters:
            return Busy(f"{names[identity]} has answered since the last look")
    return None
