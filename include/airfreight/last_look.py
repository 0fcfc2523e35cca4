"""The last look before a model is stopped, taken by the very process that stops it, so that nothing lies between.

{"because": "idle", "evidence": {"3f2a…/0": [9.0, 120.0, 1500.0]}}
    stopped if every replica still has these counters, and nothing runs or waits; otherwise it is busy again
{"because": "closing", "drain_s": 300}
    stopped when nothing runs or waits in any replica, at the latest after five minutes: its hours are over
{"because": "closing", "drain_s": 0}
    stopped at once, for it never became ready; if a replica has requests all the same, it is busy
{"because": "asked"}
    stopped at once: a person said so

A closing waits half a minute for a ready replica that cannot be read, and not for one that is not ready: that one gets
no requests.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airfreight.cluster import DEPLOYMENTS, INFERENCE_SERVICES, PODS, Cluster
from airfreight.errors import RequestError
from airfreight.idleness import Evidence, Idle, Look, at_work, of_json, resume_from
from airfreight.metrics import PAGE_LIMIT, MetricsError, proxy_path
from airfreight.observation import SERVICE_LABEL, is_stopped
from airfreight.pod_rules import SERVER_CONTAINER
from airfreight.watching import Page, readable, replica, serving_pods, wanted_replicas

PAGE_S = 10.0  # for one pod's metrics
POLL_S = 2.0
DRAIN_S = 300.0
# For a ready replica that cannot be read at a closing: three time-outs of a page, so more than a hiccup. Not longer, or
# a server without metrics would cost as much at each closing; for what it works on there is its preStop.
BLIND_S = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """Why a model is to be stopped; see the top of this file.

    Args:
        evidence: counters by replica of a model that was idle.
        drain_s: how long requests that run at a closing are waited for; 0: they keep it up.
    """

    because: str
    evidence: Evidence = field(default_factory=dict)
    drain_s: float = DRAIN_S

    @classmethod
    def parse(cls, text: str) -> Ask:
        """Read the JSON of `--last-look`.

        Raises:
            RequestError: it is none.
        """
        try:
            value: Any = json.loads(text)
            ask = cls(str(value["because"]), of_json(value.get("evidence") or {}), float(value.get("drain_s", DRAIN_S)))
            if ask.because not in ("idle", "closing", "asked") or (ask.because == "idle" and not ask.evidence):
                raise ValueError(f"because is {ask.because}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                f'--last-look cannot be read ({error}); write it like \'{{"because": "closing"}}\'.'
            ) from None
        return ask


@dataclass
class Eye:
    """Looks at one model.

    Args:
        clock, wall, wait: time, to be replaced by tests.
    """

    cluster: Cluster
    namespace: str
    name: str
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    wait: Callable[[float], object] = time.sleep

    def look(self) -> Look:
        """Look at every pod now."""
        pods = serving_pods(self.cluster.items(PODS, self.namespace, f"{SERVICE_LABEL}={self.name}"))
        deployment = self.cluster.get(DEPLOYMENTS, self.namespace, f"{self.name}-predictor")
        seen = tuple(replica(pod, self._page(pod) if readable(pod) else None) for pod in pods)
        return Look(self.clock(), self.wall(), seen, wanted_replicas(deployment))

    def _page(self, pod: Any) -> Page:
        try:
            path = proxy_path(pod, SERVER_CONTAINER)
        except MetricsError as error:
            return Page(0, str(error), 0.0)
        return self.cluster.page(path, PAGE_S, PAGE_LIMIT)

    def why_not(self, ask: Ask) -> str:
        """Return why the model must not be stopped now; "" when it may be. Waits where the ask says so."""
        if ask.because == "asked" or self._is_down():
            return ""
        if ask.because == "idle":
            look = self.look()
            verdict = resume_from(ask.evidence, look).step(look)[1]
            return "" if isinstance(verdict, Idle) else verdict.reason
        return self._drain(ask.drain_s)

    def _is_down(self) -> bool:
        service = self.cluster.get(INFERENCE_SERVICES, self.namespace, self.name)
        return service is not None and is_stopped(service)

    def _drain(self, longest_s: float) -> str:
        """Wait for what the replicas work on; return what keeps the model up, which only `longest_s` = 0 lets it."""
        look, said = self.look(), ""
        begun = look.at  # the first look may have taken long, and says nothing of what is read at the second
        held: dict[str, float] = {}  # until when each replica is waited for
        while True:
            work, now = at_work(look), look.at
            if work.working and longest_s <= 0:
                return "; ".join(work.working.values())
            blind_until = min(now + BLIND_S, begun + max(longest_s, BLIND_S))
            # One that was seen working and cannot be read since still works, as far as anybody knows.
            held = {one: held.get(one, blind_until) for one in work.unseen}
            held |= dict.fromkeys(work.working, begun + longest_s)
            left = {one: until - now for one, until in held.items() if until > now}
            words = {**work.working, **work.unseen}
            if not left:
                if words:
                    log.warning("%s; it is stopped all the same.", "; ".join(words.values()))
                return ""
            reason = "; ".join(words[one] for one in left)
            if reason != said:
                log.info("%s; waiting for that, %.0f s at most.", reason, max(left.values()))
                said = reason
            self.wait(POLL_S)
            look = self.look()
