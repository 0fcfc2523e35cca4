"""One InferenceService as a run changes it and waits for it: applied, stopped, put back, watched until it answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airfreight.chat import ChatServer
from airfreight.cluster import (
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    NETWORK_POLICIES,
    PODS,
    SERVING_RUNTIMES,
    Cluster,
)
from airfreight.errors import GateError, RequestError, TemporaryError
from airfreight.ledger_rules import Release, Target
from airfreight.observation import (
    SERVICE_LABEL,
    Failed,
    Limits,
    Observation,
    Ready,
    condition,
    metadata,
    name_of,
    release_of,
)
from airfreight.promotion import as_applied, exposure
from airfreight.readiness import assess
from airfreight.rendering import service_url
from airfreight.retry import Patience
from airfreight.timings import pod_of, ready_since
from airfreight.validation import DEFAULT_QUESTION, validate

log = logging.getLogger(__name__)

POLL_S = 1.0  # seconds between two looks at the cluster
# What is put back is waited for: nothing else is left to do. Who waits here sees no events of an autoscaler either.
_PATIENT = Limits(unschedulable_s=600.0)
STOPPED_S = 120.0  # for the pods of a stopped model to be gone; their grace is 60


@dataclass(frozen=True)
class Clock:
    """Time, for tests to replace."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], object] = threading.Event().wait


@dataclass(frozen=True)
class Return:
    """How a release came back.

    Attributes:
        down: since when nobody answered; None when somebody did all the time.
        answered: when it answered again.
        exposed_s: for how long another release's pods were still reached meanwhile.
    """

    down: datetime | None
    answered: datetime
    exposed_s: float


@dataclass(frozen=True)
class ServedModel:
    """One InferenceService.

    Args:
        server: opens the model server at a URL.
        say: told what is done and what is being waited for.
    """

    cluster: Cluster
    target: Target
    server: Callable[[str], AbstractContextManager[ChatServer]] = ChatServer
    clock: Clock = field(default_factory=Clock)
    say: Callable[[str], None] = log.info

    def service(self) -> dict[str, Any] | None:
        """Return the InferenceService, or None."""
        return self.cluster.get(INFERENCE_SERVICES, self.target.namespace, self.target.name)

    def deployment(self) -> dict[str, Any] | None:
        """Return the Deployment that KServe made of it, or None."""
        return self.cluster.get(DEPLOYMENTS, self.target.namespace, f"{self.target.name}-predictor")

    def pods(self) -> list[dict[str, Any]]:
        """Return its pods, of every release."""
        return self.cluster.items(PODS, self.target.namespace, f"{SERVICE_LABEL}={self.target.name}")

    def runtime(self, name: str) -> dict[str, Any] | None:
        """Return a ServingRuntime of its namespace as one would apply it, or None."""
        found = self.cluster.get(SERVING_RUNTIMES, self.target.namespace, name) if name else None
        return None if found is None else as_applied(found)

    def remove(self, service: Mapping[str, Any], release: Release) -> None:
        """Delete this very InferenceService, and its release's policy; another one of its name is left alone."""
        uid = str(metadata(service).get("uid", ""))
        self.cluster.delete(INFERENCE_SERVICES, self.target.namespace, self.target.name, uid)
        self.unwall(release)

    def unwall(self, release: Release | None) -> None:
        """Delete a release's policy, if it came with one."""
        if release is not None and release.network_policy is not None:
            self.cluster.delete(NETWORK_POLICIES, self.target.namespace, name_of(release.network_policy))

    def put(self, release: Release, *, take_over: bool = False, over: Release | None = None) -> bool:
        """Apply a release, its runtime and its policy first; say whether that changed anything.

        Args:
            over: what is there until now; its policy goes where this release has none.
        Raises:
            RequestError: its runtime is gone and there is no copy of it, or somebody edited the object by hand.
        """
        if release.runtime and self.runtime(release.runtime) is None:
            if release.serving_runtime is None:
                raise RequestError(
                    f"ServingRuntime {release.runtime} of release {release.release} is gone from namespace "
                    f"{self.target.namespace}, and the ledger has no copy of it; pin it again with airfreight "
                    "runtime pin --apply."
                )
            self.say(f"Putting back ServingRuntime {release.runtime}.")
            self.cluster.apply(release.serving_runtime)
        if release.network_policy is not None:
            self.cluster.apply(release.network_policy)
        else:
            self.unwall(over)  # else its pods would start behind the policy of a release that may ask another DNS
        changed = self.cluster.apply(release.inference_service, take_over=take_over).changed
        self.say(f"Release {release.release} is {'applied' if changed else 'there already'}.")
        return changed

    def resume(self) -> None:
        """Start it if it is stopped."""
        self.cluster.set_stopped(self.target.namespace, self.target.name, False)

    def stop(self) -> None:
        """Tell it to stop; `wait_until_gone` waits for that."""
        self.cluster.set_stopped(self.target.namespace, self.target.name, True)

    def wait_until_gone(self) -> None:
        """Wait until it is stopped and has no pod left: only then are its GPUs free.

        Raises:
            TemporaryError: it still has pods after two minutes.
        """
        deadline = self.clock.monotonic() + STOPPED_S
        while self.pods() or condition(self.service() or {}, "Stopped").get("status") != "True":
            if self.clock.monotonic() > deadline:
                raise TemporaryError(
                    f"{self.target} is told to stop and still has pods after {STOPPED_S:.0f} s; look at them, or try "
                    "again."
                )
            self.clock.pause(POLL_S)

    def wait_until_it_answers(self, release: Release, timeout_s: float, down: datetime | None = None) -> Return:
        """Wait until a release is ready and chats; watch meanwhile who is reached.

        Args:
            down: since when nobody answers, as far as that is known already.
        Raises:
            GateError: it cannot come back, or did not in time.
        """
        deadline = self.clock.monotonic() + timeout_s
        last, exposed = "", 0.0
        while True:
            now, seen = self.clock.now(), self._observe()
            up = [pod for pod in seen.pods if ready_since(pod) and not metadata(pod).get("deletionTimestamp")]
            down = down or (None if up else now)
            for pod in up:
                if (other := release_of(pod)) not in (None, release.release):
                    exposed = max(exposed, exposure([pod], str(other), now))
            assessment = assess(seen, release.release, now, _PATIENT)
            if isinstance(assessment, Failed):
                raise GateError(f"Release {release.release} does not come up again: {assessment.sentence}")
            if isinstance(assessment, Ready):
                self._chat(release)
                ready = ready_since(pod_of(seen.pods, release.release) or {})
                return Return(down, max(ready, down) if ready and down else now, exposed)
            if assessment.reason != last:
                last = assessment.reason
                self.say(f"Waiting for release {release.release}: {last}.")
            if self.clock.monotonic() > deadline:
                raise GateError(
                    f"Release {release.release} was not up again within {timeout_s / 60:.0f} min; last seen: {last}; "
                    "look at its pods."
                )
            self.clock.pause(POLL_S)

    def _observe(self) -> Observation:
        return Observation(self.service(), self.deployment(), self.pods())

    def _chat(self, release: Release) -> None:
        def retried(error: TemporaryError) -> None:
            self.say(error.message)

        url = service_url(self.target.name, self.target.namespace)
        patience = Patience(attempts=14, base=0.5, longest=8.0, on_retry=retried)
        with self.server(url) as server:
            names = [model.name for model in patience.call(server.models)] if release.adopted else []
            # Under which name a model was served before Airfreight knew it, only its server can say.
            name = release.served_name if release.served_name in names or not names else names[0]
            answer = validate(server, name, DEFAULT_QUESTION, patience).answer
        self.say(f'It answers: "{answer.text}".')
