"""How long a release took to come up, and on what, read off its pod; pure.

    schedule_s   from the pod's making to its node
    fetch_s      the storage initializer's run: the model is copied to the node (0 for an image)
    pull_s       from the node to the server's start, less the above: images pulled, volumes made, other init containers
    load_s       from the server's start to Ready: weights loaded, compiled, the first chat answered

Kubernetes keeps whole seconds, so each is right to about one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from airfreight.observation import KubernetesObject, condition, container_statuses, metadata, release_of
from airfreight.pod_rules import INITIALIZER_CONTAINER, SERVER_CONTAINER

GPU = "nvidia.com/gpu"


def pod_of(pods: Iterable[KubernetesObject], release: str) -> KubernetesObject | None:
    """Return the pod of a release that became ready first, else any that is not going; None without one."""
    ours = [pod for pod in pods if release_of(pod) == release and not metadata(pod).get("deletionTimestamp")]
    return min(ours, key=lambda pod: _since(pod, "Ready") or "9", default=None)


def timings_of(pod: KubernetesObject) -> dict[str, float]:
    """Return the seconds of each phase that is over; see the top of this file."""
    made, scheduled, ready = metadata(pod).get("creationTimestamp"), _since(pod, "PodScheduled"), _since(pod, "Ready")
    started = _running_since(pod, SERVER_CONTAINER)
    fetch = _run(pod, INITIALIZER_CONTAINER)
    found = {
        "schedule_s": _between(made, scheduled),
        "fetch_s": fetch,
        "pull_s": _less(_between(scheduled, started), fetch),
        "load_s": _between(started, ready),
    }
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def ready_since(pod: KubernetesObject) -> datetime | None:
    """Return since when users reach the pod; None while they do not."""
    time = _since(pod, "Ready")
    return datetime.fromisoformat(time) if time else None


def gpus_of(pod: KubernetesObject) -> int:
    """Return the GPUs that the pod's server holds: what kubelet allocated where it says so, else its limit once it
    runs, for kubelet admits no pod without its devices.
    """
    for status in container_statuses(pod):
        if status.get("name") == SERVER_CONTAINER and "running" in (status.get("state") or {}):
            allocated = (status.get("allocatedResources") or {}).get(GPU)
            return int(allocated if allocated is not None else _limit(pod))
    return 0


def ready_facts(pods: Iterable[KubernetesObject], release: str) -> dict[str, Any]:
    """Return what the wait for a release leaves behind for its gates: {"gpus": 1, "node": "n1", "timings": {...}}."""
    pod = pod_of(pods, release)
    if pod is None:
        return {"gpus": 0, "node": None, "timings": {}}
    return {"gpus": gpus_of(pod), "node": (pod.get("spec") or {}).get("nodeName"), "timings": timings_of(pod)}


def _limit(pod: KubernetesObject) -> int:
    for container in (pod.get("spec") or {}).get("containers") or []:
        if container.get("name") == SERVER_CONTAINER:
            return int(((container.get("resources") or {}).get("limits") or {}).get(GPU, 0))
    return 0


def _since(pod: KubernetesObject, kind: str) -> str | None:
    found = condition(pod, kind)
    return found.get("lastTransitionTime") if found.get("status") == "True" else None


def _status(pod: KubernetesObject, name: str) -> Mapping[str, Any]:
    return next((status for status in container_statuses(pod) if status.get("name") == name), {})


def _running_since(pod: KubernetesObject, name: str) -> str | None:
    time: str | None = ((_status(pod, name).get("state") or {}).get("running") or {}).get("startedAt")
    return time


def _run(pod: KubernetesObject, name: str) -> float | None:
    status = _status(pod, name)
    if not status:
        return 0.0
    ended = (status.get("state") or {}).get("terminated") or {}
    return _between(ended.get("startedAt"), ended.get("finishedAt"))


def _between(begin: str | None, end: str | None) -> float | None:
    if not begin or not end:
        return None
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None else max(0.0, whole - (part or 0.0))
