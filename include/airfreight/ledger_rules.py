"""The rules of the release ledger: what its objects hold, and what may follow what. Pure; see `airfreight.ledger`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from airfreight.errors import RequestError
from airfreight.manifest import RESERVED_DIRECTORY
from airfreight.release import canonical_json

FORMAT = 1
DIRECTORY = f"{RESERVED_DIRECTORY}/releases/"
MARGIN = 10.0  # seconds between the end of a lease and the moment somebody else takes it
HISTORY = 50  # events kept of one release


class State(StrEnum):
    """Where a release stands on its target."""

    CANDIDATE = "candidate"
    LIVE = "live"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


# What may follow what; None: not registered yet. A release found live at first sight is adopted as such.
FOLLOWING: Mapping[State | None, frozenset[State]] = {
    None: frozenset({State.CANDIDATE, State.LIVE}),
    State.CANDIDATE: frozenset({State.CANDIDATE, State.LIVE, State.REJECTED}),
    State.LIVE: frozenset({State.LIVE, State.SUPERSEDED}),
    State.SUPERSEDED: frozenset({State.CANDIDATE, State.LIVE, State.SUPERSEDED}),
    State.REJECTED: frozenset({State.CANDIDATE, State.REJECTED}),
}


@dataclass(frozen=True)
class Target:
    """An InferenceService: namespace and name."""

    namespace: str
    name: str

    @property
    def folder(self) -> str:
        """Where its releases lie below the ledger's root; ends in `/`."""
        return f"{DIRECTORY}{self.namespace}/{self.name}/"

    def __str__(self) -> str:
        return f"{self.name} in namespace {self.namespace}"


@dataclass(frozen=True)
class Release:
    """What can be put back: everything a release is made of. See the top of this file.

    Attributes:
        release: its id (`airfreight.release`).
        artifact, source, served_name, runtime, delivery: as delivered.
        manifest_sha256: of the artifact's manifest; None where the artifact's name is its identity.
        inference_service: the object as it was applied, its release id included.
        serving_runtime: the ServingRuntime as it was, so that it can be put back too; None when it was not ours to see.
        network_policy: what its pods are under; None when there is none of ours.
        adopted: it was live before the ledger knew this target; its object is what the cluster had.
    """

    release: str
    artifact: str
    source: str
    served_name: str
    runtime: str
    inference_service: Mapping[str, Any]
    manifest_sha256: str | None = None
    serving_runtime: Mapping[str, Any] | None = None
    network_policy: Mapping[str, Any] | None = None
    delivery: str = ""
    adopted: bool = False

    def to_json(self) -> bytes:
        return canonical_json({**asdict(self), "format": FORMAT})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; raises ValueError where it is something else."""
        return cls(**_fields(data, "release"))

    def is_same(self, other: Release) -> bool:
        """Whether both would make the same pods; the runtime's name stands for its content."""
        beside: dict[str, Any] = {"serving_runtime": None, "network_policy": None, "adopted": False}
        return replace(self, **beside) == replace(other, **beside)


@dataclass(frozen=True)
class Found:
    """What a run found at its target before it changed anything.

    Attributes:
        existed: there was an InferenceService.
        stopped: it was stopped.
        live: the release that is to be put back if the candidate fails; None when there is none.
        left: what dead runs before it tried, and may have left there.
    """

    existed: bool = False
    stopped: bool = False
    live: str | None = None
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """One line of a release's history.

    Attributes:
        state: after it.
        run: who did it.
        at: UTC time by the writer's clock, for people; nothing is decided by it.
        cause: why it was rejected, or put back; one sentence.
        evidence: gate results, timings, measured times, what triggered the run.
    """

    state: State
    run: str
    at: str = ""
    cause: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """The state of one release: the last event, and those before it."""

    release: str
    source: str
    state: State
    run: str
    history: tuple[Event, ...] = ()

    def to_json(self) -> bytes:
        return canonical_json({**asdict(self), "format": FORMAT})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; raises ValueError where it is something else."""
        values = _fields(data, "state of a release")
        history = tuple(Event(**{**event, "state": State(event["state"])}) for event in values.pop("history"))
        return cls(**{**values, "state": State(values["state"])}, history=history)


@dataclass(frozen=True)
class Live:
    """The pointer: which release is live, which was before it."""

    release: str
    previous: str | None = None
    run: str = ""
    at: str = ""

    def to_json(self) -> bytes:
        return canonical_json({**asdict(self), "format": FORMAT})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; raises ValueError where it is something else."""
        return cls(**_fields(data, "pointer to what is live"))


@dataclass(frozen=True)
class Lock:
    """Who may change a target.

    Attributes:
        run: empty when it was let go.
        lease: in seconds, from the object's writing.
        candidate: what the run tries, once it may change the target; None: it has changed nothing.
        undoing: the run is being undone.
        expires: for people.
    """

    run: str = ""
    lease: float = 0.0
    candidate: str | None = None
    found: Found | None = None
    undoing: bool = False
    expires: str = ""

    def to_json(self) -> bytes:
        return canonical_json({**asdict(self), "format": FORMAT})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; raises ValueError where it is something else."""
        values = _fields(data, "lock")
        found = values.pop("found")
        left = tuple((found or {}).get("left", ()))
        return cls(**values, found=None if found is None else Found(**{**found, "left": left}))


def _fields(data: bytes, what: str) -> dict[str, Any]:
    try:
        values: Any = json.loads(data.decode())
    except ValueError as error:
        raise ValueError(f"it is no JSON, so no {what} ({error})") from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"it is no {what} of format {FORMAT}")
    return values


def state_of(entry: Entry, live: Live | None) -> State:
    """Return where a release really stands: the pointer decides, whatever a run that died left in the entry."""
    if live is not None and live.release == entry.release:
        return State.LIVE
    return State.SUPERSEDED if entry.state is State.LIVE else entry.state


def follow(entry: Entry | None, release: Release, live: Live | None, event: Event) -> Entry:
    """Return the entry after an event.

    Raises:
        RequestError: a release in that state cannot get there.
    """
    before = None if entry is None else state_of(entry, live)
    if event.state not in FOLLOWING[before]:
        raise RequestError(
            f"Release {release.release} is {before or 'not registered'} and cannot become {event.state}; "
            "deliver the model again, which makes it a candidate first."
        )
    history = (*(entry.history if entry else ()), event)[-HISTORY:]
    return Entry(release.release, release.source, event.state, event.run, history)


def seconds_left(lock: Lock, age: float) -> float:
    """Return for how long a lock that was written `age` seconds ago still holds; 0 when it may be taken."""
    return max(0.0, lock.lease + MARGIN - age) if lock.run else 0.0


def inherit(lock: Lock | None, seen: Found, *, window: bool) -> Found:
    """Return what a run is to count as found, given the lock it takes.

    A lock that was not let go is of a run that died, or of this run's earlier try: either may have woken the model or
    put its own release there, so what it found first is what was there. But hours may have passed: a model that is
    stopped now is, and one for which a window is open is not stopped at the end. What is live is what the pointer says
    now; when that run moved it, an InferenceService was made.

    Args:
        window: whether a window of the model is open now.
    """
    if lock is None or not lock.run or lock.found is None:
        return seen
    existed = lock.found.existed or (seen.existed and seen.live != lock.found.live)
    stopped = seen.stopped or (lock.found.stopped and not window)
    tried = (lock.candidate,) if lock.candidate else ()
    left = tuple(dict.fromkeys((*lock.found.left, *tried)))
    return Found(existed=existed, stopped=stopped, live=seen.live, left=left)


def earlier(entries: Sequence[Entry]) -> str | None:
    """Return the release that was live last before the one that is live now, by its own history; None without one."""
    times = {entry.release: _last_live(entry) for entry in entries if entry.state is State.SUPERSEDED}
    return max(times, key=lambda release: times[release], default=None)


def _last_live(entry: Entry) -> str:
    return max((event.at for event in entry.history if event.state is State.LIVE), default="")
