"""A cluster with KServe in memory, as far as a handover sees one: objects, who edited them, and pods that come up or
not.

What is served follows from the InferenceService at every look: the pod of its release is Ready at once when that
release is good, and never when it is bad; meanwhile the pod of the last good one stays, as with a rolling update.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from airfreight.cluster import Applied, Resource
from airfreight.errors import RequestError
from airfreight.observation import STOP_ANNOTATION, is_stopped, metadata, name_of, release_of

NAMESPACE, NAME = "models", "pong"


@dataclass
class FakeCluster:
    """See above.

    Attributes:
        bad: releases whose pods never become ready.
        edited: by whom the InferenceService was edited by hand; then an apply is refused.
        log: what was done, in order.
    """

    bad: set[str] = field(default_factory=set)
    edited: str = ""
    refused: str = ""
    log: list[str] = field(default_factory=list)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    time: datetime = datetime(2026, 11, 22, 19, 0, tzinfo=UTC)
    serving: str | None = None
    strategy: str = "RollingUpdate"
    _since: datetime | None = None
    _uids: int = 0

    # ---- what Cluster does ---------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        if resource.plural == "deployments":
            return self._deployment()
        found = self.objects.get((resource.kind, name))
        if found is not None and resource.kind == "InferenceService":
            found = {**found, "status": self._status(found)}
        return copy.deepcopy(found)

    def items(self, resource: Resource, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        return list(self._pods()) if resource.plural == "pods" else []

    def apply(self, wanted: Mapping[str, Any], *, dry_run: bool = False, take_over: bool = False) -> Applied:
        kind, name = wanted["kind"], name_of(wanted)
        if self.refused:
            raise RequestError(self.refused)
        if self.edited and not take_over and kind == "InferenceService":
            raise RequestError(f"It was edited by hand (apply {kind} {name}: {self.edited} set .spec).")
        before = self.objects.get((kind, name))
        after = copy.deepcopy(dict(wanted))
        stop = (metadata(before or {}).get("annotations") or {}).get(STOP_ANNOTATION)
        if stop is not None:
            after["metadata"].setdefault("annotations", {})[STOP_ANNOTATION] = stop
        self._uids += 1
        after["metadata"] |= {
            "uid": (before or {"metadata": {"uid": str(self._uids)}})["metadata"]["uid"],
            "managedFields": [{"manager": "airfreight", "time": self.time.isoformat()}],
        }
        changed = before is None or before["spec"] != after["spec"]
        if not dry_run:
            self.log.append(f"apply {kind} {release_of(after) or name}")
            self.objects[(kind, name)] = after
            self._settle()
        return Applied(changed, after)

    def set_stopped(self, namespace: str, name: str, stopped: bool) -> Applied:
        live = self.objects[("InferenceService", name)]
        if is_stopped(live) == stopped:
            return Applied(False, live)
        self.log.append("stop" if stopped else "resume")
        live["metadata"].setdefault("annotations", {})[STOP_ANNOTATION] = str(stopped).lower()
        self._settle()
        return Applied(True, live)

    def delete(self, resource: Resource, namespace: str, name: str, uid: str = "") -> bool:
        found = self.objects.get((resource.kind, name))
        if found is None or (uid and found["metadata"]["uid"] != uid):
            return False
        self.log.append(f"delete {resource.kind} {name}")
        del self.objects[(resource.kind, name)]
        self._settle()
        return True

    # ---- time and the model server -------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def pause(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    @contextmanager
    def server(self, url: str) -> Iterator[Any]:
        from airfreight.chat import Answer, Model

        serving = self.serving

        class Server:
            def __init__(self) -> None:
                self.url = url

            def models(self) -> list[Model]:
                return [Model("acme/pong", 256)]

            def chat(self, model: str, question: str) -> Answer:
                return Answer(model, f"pong from {serving}", 3, 0.1, 0.2, None)

        yield Server()

    # ---- KServe --------------------------------------------------------------------------------------------------

    @property
    def service(self) -> dict[str, Any] | None:
        return self.objects.get(("InferenceService", NAME))

    def _settle(self) -> None:
        """Which release's pod takes requests after a change."""
        service = self.service
        before = self.serving
        if service is None or is_stopped(service):
            self.serving = None
        elif release_of(service) not in self.bad:
            self.serving = release_of(service)
        elif self.strategy == "Recreate":
            self.serving = None
        if self.serving != before:
            self._since = self.time

    def _status(self, service: dict[str, Any]) -> dict[str, Any]:
        stopped = is_stopped(service)
        ready = not stopped and self.serving == release_of(service)
        return {
            "conditions": [
                {"type": "Ready", "status": "True" if ready else "False"},
                {"type": "Stopped", "status": "True" if stopped else "False"},
            ]
        }

    def _deployment(self) -> dict[str, Any] | None:
        service = self.service
        if service is None or is_stopped(service):
            return None
        up = self.serving == release_of(service)
        since = (self._since or self.time).isoformat()
        return {
            "metadata": {"name": f"{NAME}-predictor", "generation": 1},
            "spec": {
                "replicas": 1,
                "strategy": {"type": self.strategy},
                "template": {"metadata": {"annotations": {"airfreight.dev/release": release_of(service)}}},
            },
            "status": {
                "observedGeneration": 1,
                "replicas": 1 if up else 2,
                "updatedReplicas": 1,
                "availableReplicas": 1 if up else 0,
                "conditions": [
                    {"type": "Available", "status": str(self.serving is not None), "lastTransitionTime": since}
                ],
            },
        }

    def _pods(self) -> Iterator[dict[str, Any]]:
        service = self.service
        if service is None or is_stopped(service):
            return
        names = {release_of(service), self.serving} - {None}
        for release in sorted(str(name) for name in names):
            conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": self.time.isoformat()}]
            if release == self.serving:
                since = (self._since or self.time).isoformat()
                conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": since})
            running = {"state": {"running": {"startedAt": self.time.isoformat()}}}
            yield {
                "metadata": {
                    "name": f"pong-{release}",
                    "creationTimestamp": self.time.isoformat(),
                    "annotations": {"airfreight.dev/release": release},
                },
                "spec": {"nodeName": "n1", "containers": [{"name": "kserve-container"}]},
                "status": {"conditions": conditions, "containerStatuses": [{"name": "kserve-container", **running}]},
            }
