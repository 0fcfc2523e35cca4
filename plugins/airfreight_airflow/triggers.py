"""The waiting itself, in the triggerer: many runs wait in one process, and no worker slot is held.

`ReleaseReadyTrigger` reads the cluster every two seconds and asks `airfreight.readiness.assess` what it means. It logs
a line when the answer changes, and one every half minute so that a person sees it is alive. A ready release ends the
task from here; a failed one goes back to the worker, because only the worker can tell "fail" from "retry".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airfreight.errors import AirfreightError, GateError, RequestError, TemporaryError
from airfreight.observation import Failed, Ready, failure_error
from airfreight.readiness import Assessment, assess
from airfreight.timings import ready_facts
from airfreight_airflow.looks import Release, read

POLL_S = 2.0
STILL_WAITING_S = 30.0
"""Seconds between two log lines while nothing changes."""


@dataclass(frozen=True)
class ReleaseEvent:
    """What the trigger tells the sensor: the wait is lost.

    Args:
        exit_code: of the error kind (see `airfreight.errors`); decides whether Airflow retries.
        message: one sentence for a person.
    """

    exit_code: int
    message: str

    @classmethod
    def of(cls, error: AirfreightError) -> ReleaseEvent:
        """The event for an error."""
        return cls(error.exit_code, error.message)

    def to_event(self) -> TriggerEvent:
        """As Airflow carries it to the worker: plain JSON."""
        return TriggerEvent(asdict(self))  # type: ignore[no-untyped-call]

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> ReleaseEvent:
        """Back from what Airflow carried."""
        return cls(exit_code=int(event["exit_code"]), message=str(event["message"]))


class ReleaseReadyTrigger(BaseTrigger):
    """Fires when one release is ready, cannot become ready, or its time is up.

    Args:
        name: of the InferenceService.
        namespace: it is served in.
        release: id that `airfreight deploy` returned.
        cluster_conn_id: connection of type kubernetes; resolved in the triggerer, so no credential lies in the
        trigger's row.
        started: Unix time the wait began, in seconds.
        deadline: Unix time it ends, in seconds; absolute, so that a restarted triggerer does not begin anew.
        poll_s: seconds between two looks.
    """

    def __init__(
        self,
        *,
        name: str,
        namespace: str,
        release: str,
        cluster_conn_id: str,
        started: float,
        deadline: float,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = Release(name, namespace, release)
        self.cluster_conn_id = cluster_conn_id
        self.started = started
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, to be made again in any triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "name": self.wanted.name,
                "namespace": self.wanted.namespace,
                "release": self.wanted.release,
                "cluster_conn_id": self.cluster_conn_id,
                "started": self.started,
                "deadline": self.deadline,
                "poll_s": self.poll_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poll_s` seconds; yield one event."""
        hook = AsyncKubernetesHook(conn_id=self.cluster_conn_id)
        last, said_at = "", 0.0
        while True:
            reason = ""
            try:
                assessment, facts = await look(hook, self.wanted)
            except (TemporaryError, RequestError) as error:
                if isinstance(error, RequestError):
                    yield ReleaseEvent.of(error).to_event()
                    return
                reason = error.message
            else:
                if isinstance(assessment, Ready):
                    seconds = round(time.time() - self.started, 1)
                    self.log.info("%s is ready after %.1f s.", self.wanted.name, seconds)
                    yield TaskSuccessEvent(xcoms={"return_value": ready_result(self.wanted, seconds, facts)})
                    return
                if isinstance(assessment, Failed):
                    yield ReleaseEvent.of(failure_error(assessment)).to_event()
                    return
                reason = assessment.reason
            now = time.time()
            if reason != last or now - said_at >= STILL_WAITING_S:
                self.log.info("%5.0f s  %s", now - self.started, reason)
                last, said_at = reason, now
            if now >= self.deadline:
                yield ReleaseEvent.of(too_late(self.wanted, self.deadline - self.started, last)).to_event()
                return
            await asyncio.sleep(self.poll_s)


async def look(hook: AsyncKubernetesHook, wanted: Release) -> tuple[Assessment, dict[str, Any]]:
    """Read the cluster once and say what it means for the release; with what its gates will want to know of its pod.

    Raises:
        RequestError: the connection may not read what it must (401, 403).
        TemporaryError: the cluster does not answer.
    """
    observation = await read(hook, wanted)
    facts = ready_facts(observation.pods, wanted.release)
    return assess(observation, wanted.release, datetime.now(tz=UTC)), facts


def ready_result(wanted: Release, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """The task's result: what became ready, how long it took in seconds, and on what (`airfreight.timings`)."""
    return {"name": wanted.name, "namespace": wanted.namespace, "release": wanted.release, "seconds": seconds, **facts}


def too_late(wanted: Release, waited_s: float, last: str) -> GateError:
    """The sentence for a wait that ran out, with what was seen last."""
    waited = f"{waited_s:.0f} s" if waited_s < 120 else f"{waited_s / 60:.0f} min"
    return GateError(
        f"{wanted.name} was not ready within {waited}; last seen: {last or 'nothing'}; "
        "look at its pods, or give it more time (ready_timeout of the task)."
    )
