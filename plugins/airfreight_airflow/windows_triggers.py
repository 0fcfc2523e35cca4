"""The waiting of a window, in the triggerer: until a model serves, until its window is over, until no pod is left.

Nothing here changes anything, or decides that a model is stopped: a trigger says what it saw, and the worker decides.
What cannot be seen is logged with its reason, "cannot see, not stopping: …", and waited for.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.idleness import Busy, Clock, Idle, Look, Unknown, Verdict, to_json
from airfreight.observation import Failed, Observation, Ready, condition, failure_error, release_of
from airfreight.readiness import assess
from airfreight.watching import (
    fight_sentence,
    pod_names,
    switch_of,
)
from airfreight_airflow.looks import Release, read
from airfreight_airflow.triggers import POLL_S, STILL_WAITING_S
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_looks import look_at

WATCH_POLL_S = 10.0
WATCH_SAYS_S, WATCH_LEAST_S = 300.0, 30.0
"""Seconds between two log lines of a window in which nothing changes, and between two at all: it may last for days, and
a model that is asked now and then changes at every look.
"""


class ModelTrigger(BaseTrigger):
    """Looks at one model again and again, until a look means something.

    Args:
        name: of the InferenceService.
        namespace: it is served in.
        cluster_conn_id: connection of type kubernetes; resolved in the triggerer.
        deadline: Unix time at which the wait is lost; None: never.
        poll_s: seconds between two looks.
    """

    says_s, least_s = STILL_WAITING_S, 0.0

    def __init__(
        self, *, name: str, namespace: str, cluster_conn_id: str, deadline: float | None = None, poll_s: float = POLL_S
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = Release(name, namespace, "")
        self.cluster_conn_id = cluster_conn_id
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, to be made again in any triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "name": self.wanted.name,
                "namespace": self.wanted.namespace,
                "cluster_conn_id": self.cluster_conn_id,
                "deadline": self.deadline,
                "poll_s": self.poll_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poll_s` seconds; yield one event."""
        hook = AsyncKubernetesHook(conn_id=self.cluster_conn_id)
        last, said_at = "", 0.0
        while True:
            outcome = await self.look(hook)
            if isinstance(outcome, WindowEvent):
                yield outcome.to_event()
                return
            now = time.time()
            if now - said_at >= (self.least_s if outcome != last else self.says_s):
                self.log.info("%s: %s", self.wanted.name, outcome)
                last, said_at = outcome, now
            if self.deadline is not None and now >= self.deadline:
                yield self.too_late(outcome).to_event()
                return
            await asyncio.sleep(self.pause(now))

    def pause(self, now: float) -> float:  # noqa: ARG002  (others need it)
        """Seconds until the next look."""
        return self.poll_s

    @abstractmethod
    async def look(self, hook: AsyncKubernetesHook) -> WindowEvent | str:
        """Look once: an event, or what is said meanwhile."""

    @abstractmethod
    def too_late(self, last: str) -> WindowEvent:
        """The event when the time is up; `last` is what was said last."""


class ServingTrigger(ModelTrigger):
    """Fires when the release that the model carries, whichever that is by now, is ready, or cannot become ready."""

    async def look(self, hook: AsyncKubernetesHook) -> WindowEvent | str:
        """See `ModelTrigger.look`."""
        try:
            seen = await read(hook, self.wanted)
        except TemporaryError as error:
            return error.message
        except AirfreightError as error:
            return WindowEvent.lost(error)
        service = seen.inference_service
        if service is not None and (switch := switch_of(service)).stopped:
            sentence = fight_sentence(self.wanted.name, self.wanted.namespace, switch, "started")
            if switch.is_ours:
                sentence = f"{self.wanted.name} was stopped while it was starting, by `airfreight stop` or another run."
            return WindowEvent.lost(RequestError(sentence))
        # A model that was not delivered by Airfreight carries no release, and neither do its pods.
        assessment = assess(seen, cast(str, release_of(service) if service else ""), datetime.now(tz=UTC))
        if isinstance(assessment, Ready):
            return WindowEvent(Kind.SERVING, time.time())
        if isinstance(assessment, Failed):
            return WindowEvent.lost(failure_error(assessment))
        return assessment.reason

    def too_late(self, last: str) -> WindowEvent:
        """See `ModelTrigger.too_late`."""
        return WindowEvent(
            Kind.LOST, time.time(), f"{self.wanted.name} did not become ready in time; last seen: {last}", 4
        )


class WatchTrigger(ModelTrigger):
    """Fires when a window is over: idle for long enough, its closing, stopped by somebody else, or gone.

    Args:
        closes: Unix time of the closing; None: idleness alone ends it.
        idle_after_s: seconds; None: only the closing ends it.
        idle_not_before: Unix time before which no idleness ends it; None: none.
        again_at: Unix time at which the window's terms are to be asked for again; None: never.
        give_up_s: seconds after which a model is given up that was seen, and was not ready at any look; None: never.
            They count from the first look of this process: what another saw it cannot know.
    """

    says_s, least_s = WATCH_SAYS_S, WATCH_LEAST_S

    def __init__(
        self,
        *,
        closes: float | None,
        idle_after_s: float | None,
        idle_not_before: float | None = None,
        again_at: float | None = None,
        give_up_s: float | None = None,
        poll_s: float = WATCH_POLL_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(poll_s=poll_s, **kwargs)
        self.closes = closes
        self.idle_after_s = idle_after_s
        self.idle_not_before = idle_not_before
        self.again_at = again_at
        self.give_up_s = give_up_s
        self._unready_since: float | None = None
        # A new triggerer begins here with a clock at zero: it saw nothing of what was before.
        self.clock = Clock()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See `ModelTrigger.serialize`."""
        path, arguments = super().serialize()
        own = {
            "closes": self.closes,
            "idle_after_s": self.idle_after_s,
            "idle_not_before": self.idle_not_before,
            "again_at": self.again_at,
            "give_up_s": self.give_up_s,
        }
        return path, {**arguments, **own}

    def pause(self, now: float) -> float:
        """Until the next look, or the closing."""
        due = [moment - now for moment in (self.closes, self.again_at) if moment is not None]
        return max(0.05, min([self.poll_s, *due]))

    async def look(self, hook: AsyncKubernetesHook) -> WindowEvent | str:
        """See `ModelTrigger.look`."""
        verdict: Verdict
        try:
            seen, look = await look_at(hook, self.wanted)
        except AirfreightError as error:
            self.clock, verdict = self.clock.step(Look(time.monotonic(), time.time(), problem=error.message))
        else:
            over = self._ended_by_others(seen)
            if over is not None:
                return over
            self.clock, verdict = self.clock.step(look)
            if any(one.ready for one in look.replicas):
                self.give_up_s = None
            elif self.give_up_s is not None and self._is_given_up(look.at, self.give_up_s):
                return self._over(verdict) or self._never_ready()
        return self._over(verdict) or self._said(verdict)

    def too_late(self, last: str) -> WindowEvent:
        """A window has no deadline but its closing."""
        return WindowEvent(Kind.LOST, time.time(), last, 75)

    def _ended_by_others(self, seen: Observation) -> WindowEvent | None:
        if seen.inference_service is None:
            return WindowEvent(Kind.GONE, time.time(), f"The InferenceService {self.wanted.name} was deleted.")
        switch = switch_of(seen.inference_service)
        if switch.stopped:
            by = "Airfreight" if switch.is_ours else f"field manager {switch.manager or '(unknown)'}"
            sentence = f"{self.wanted.name} was stopped by {by}."
            return WindowEvent(Kind.STOPPED, time.time(), sentence, ours=switch.is_ours)
        return None

    def _over(self, verdict: Verdict) -> WindowEvent | None:
        now = time.time()
        if self.closes is not None and now >= self.closes:
            return WindowEvent(Kind.CLOSING, now)
        if self.again_at is not None and now >= self.again_at:
            return WindowEvent(Kind.AGAIN, now)
        if isinstance(verdict, Idle) and self._long_enough(verdict.seconds, now):
            evidence = to_json(self.clock.evidence or {})
            return WindowEvent(Kind.IDLE, now, f"Idle for {verdict.seconds:.0f} s.", evidence=evidence)
        return None

    def _is_given_up(self, at: float, after_s: float) -> bool:
        """Whether a model that is not ready at this look was not for so long."""
        self._unready_since = at if self._unready_since is None else self._unready_since
        return at - self._unready_since >= after_s

    def _never_ready(self) -> WindowEvent:
        return WindowEvent(Kind.NEVER_READY, time.time(), f"{self.wanted.name} never became ready.")

    def _long_enough(self, seconds: float, now: float) -> bool:
        return self.idle_after_s is not None and seconds >= self.idle_after_s and now >= (self.idle_not_before or 0.0)

    def _said(self, verdict: Verdict) -> str:
        match verdict:
            case Unknown(reason):
                return f"cannot see, not stopping: {reason}"
            case Busy(reason):
                return f"busy: {reason}"
            case Idle():
                return "idle" if self.idle_after_s is not None else "idle; its hours keep it open"


class StoppedTrigger(ModelTrigger):
    """Fires when a stopped model has no pod left, so that its GPUs are free."""

    async def look(self, hook: AsyncKubernetesHook) -> WindowEvent | str:
        """See `ModelTrigger.look`."""
        try:
            seen = await read(hook, self.wanted)
        except TemporaryError as error:
            return error.message
        except AirfreightError as error:
            return WindowEvent.lost(error)
        # All of them: with the Deployment its pods are deleted, those too that ended for good.
        pods, service = seen.pods, seen.inference_service
        if service is not None and not (switch := switch_of(service)).stopped:
            if switch.is_ours:
                return WindowEvent(Kind.DOWN, time.time(), f"{self.wanted.name} was started again meanwhile.")
            sentence = fight_sentence(self.wanted.name, self.wanted.namespace, switch, "stopped")
            return WindowEvent.lost(RequestError(sentence))
        if pods:
            return f"{len(pods)} pods are still there: {pod_names(pods)}"
        if service is not None and condition(service, "Stopped").get("status") != "True":
            return "its pods are gone, KServe does not say Stopped yet"
        return WindowEvent(Kind.DOWN, time.time())

    def too_late(self, last: str) -> WindowEvent:
        """See `ModelTrigger.too_late`."""
        return WindowEvent(
            Kind.LOST,
            time.time(),
            f"{self.wanted.name} is stopped and not down ({last}): its GPUs are still held; look at these pods and "
            "their node.",
            75,
        )
