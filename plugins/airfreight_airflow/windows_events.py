"""What the waits of a window tell the tasks that wait: plain JSON on its way from the triggerer to the worker."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from airflow.triggers.base import TriggerEvent

from airfreight.errors import AirfreightError


class Kind(StrEnum):
    """What a trigger saw."""

    SERVING = "serving"
    IDLE = "idle"
    CLOSING = "closing"
    STOPPED = "stopped"  # by somebody else
    GONE = "gone"  # no InferenceService
    NEVER_READY = "never ready"
    DOWN = "down"  # stopped, and no pod left
    AGAIN = "again"  # it is time to ask for the terms of the window again
    LOST = "lost"  # the wait is over without success


@dataclass(frozen=True)
class WindowEvent:
    """What a trigger tells its sensor.

    Args:
        kind: what it saw.
        at: Unix time.
        sentence: for a person, where there is more to say.
        exit_code: of the error kind, for `LOST`.
        evidence: counters of an idle model (`airfreight.idleness.to_json`).
        ours: for `STOPPED`: Airfreight itself wrote the annotation, in another run.
    """

    kind: Kind
    at: float
    sentence: str = ""
    exit_code: int = 0
    evidence: dict[str, list[float]] = field(default_factory=dict)
    ours: bool = False

    @classmethod
    def lost(cls, error: AirfreightError) -> WindowEvent:
        """The event for an error."""
        return cls(Kind.LOST, time.time(), error.message, error.exit_code)

    def to_event(self) -> TriggerEvent:
        """As Airflow carries it to the worker: plain JSON."""
        return TriggerEvent(asdict(self))  # type: ignore[no-untyped-call]

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> WindowEvent:
        """Back from what Airflow carried."""
        return cls(**{**event, "kind": Kind(event["kind"])})
