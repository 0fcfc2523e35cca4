"""What was seen in the cluster, and the words in which readiness speaks about it.

Objects are the API's own JSON as dicts (camelCase keys, times as RFC 3339 strings). With a typed client that is
`ApiClient().sanitize_for_serialization(object)`, not `.to_dict()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from airfreight.errors import AirfreightError, GateError, RequestError, TemporaryError

RELEASE_ANNOTATION = "airfreight.dev/release"
STOP_ANNOTATION = "serving.kserve.io/stop"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
FIELD_MANAGER = "airfreight"

KubernetesObject = Mapping[str, Any]


class FailureKind(StrEnum):
    """What a failure means for a retry; `failure_error` gives the class of `errors.py`."""

    REQUEST = "request"
    GATE = "gate"
    TEMPORARY = "temporary"


class Cause(StrEnum):
    """Why a release will not become ready."""

    GONE = "gone"
    STOPPED = "stopped"
    REPLACED = "replaced"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    UNSCHEDULABLE = "unschedulable"
    IMAGE = "image"
    CONFIGURATION = "configuration"
    STORAGE = "storage"
    INIT = "init"
    MEMORY = "memory"
    CRASH = "crash"
    CHAT = "chat"
    EVICTED = "evicted"


@dataclass(frozen=True)
class Limits:
    """How long each thing that may heal is waited for. Times in seconds, the others are counts."""

    invalid_s: float = 20.0  # a ServingRuntime may be created a moment after its InferenceService
    unschedulable_s: float = 45.0  # no node can ever hold it; an autoscaler says within seconds that it adds one
    room_s: float = 600.0  # a node could hold it and is full: another pod may end
    pull_s: float = 120.0  # a registry that is restarting
    configuration_s: float = 30.0  # a Secret that is just being made
    restarts: int = 2  # a modelcar may cost the server its first start; three crashes are no accident
    initializer_restarts: int = 1  # two failed downloads
    evictions: int = 2
    withdrawn_s: float = 5.0  # until every node has heard that a pod is going, and sends nobody to it any more
    refused_chats: int = 2  # one may be a server that is not quite up


@dataclass(frozen=True)
class Observation:
    """What was read from the cluster, at about one time.

    Args:
        inference_service: the InferenceService, or None when there is none.
        deployment: the Deployment `<name>-predictor`, or None when there is none.
        pods: pods with the label `serving.kserve.io/inferenceservice=<name>`, of any release.
        logs: by pod name, the last log lines of the model server's container before it ended; may be empty.
        events: by pod name, events about it, at least those of failed probes (reason Unhealthy), and of a pod without
            a node all; may be empty.
    """

    inference_service: KubernetesObject | None
    deployment: KubernetesObject | None = None
    pods: Sequence[KubernetesObject] = ()
    logs: Mapping[str, str] = field(default_factory=dict)
    events: Mapping[str, Sequence[KubernetesObject]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pending:
    """Not yet. `reason` is for a person who waits; it changes as the release comes up."""

    reason: str


@dataclass(frozen=True)
class Ready:
    """The release is fully rolled out and KServe says Ready. That it can chat is shown by `validation`, not here."""


@dataclass(frozen=True)
class Failed:
    """The release will not become ready by waiting. `sentence` says what is wrong and what to change."""

    sentence: str
    kind: FailureKind
    cause: Cause


def failure_error(failed: Failed) -> AirfreightError:
    """Return the error to raise for a failed release, so that the exit code follows its kind."""
    classes: dict[FailureKind, type[AirfreightError]] = {
        FailureKind.REQUEST: RequestError,
        FailureKind.GATE: GateError,
        FailureKind.TEMPORARY: TemporaryError,
    }
    return classes[failed.kind](failed.sentence)


def metadata(thing: KubernetesObject) -> KubernetesObject:
    """Return the object's metadata, or an empty mapping."""
    return thing.get("metadata") or {}


def name_of(thing: KubernetesObject) -> str:
    """Return the object's name."""
    return str(metadata(thing).get("name", ""))


def annotations_of(thing: KubernetesObject) -> KubernetesObject:
    """Return the object's annotations, or an empty mapping."""
    return metadata(thing).get("annotations") or {}


def release_of(thing: KubernetesObject) -> str | None:
    """Return the release id an object (or pod template) carries."""
    return annotations_of(thing).get(RELEASE_ANNOTATION)


def is_stopped(inference_service: KubernetesObject) -> bool:
    """Say whether the stop annotation holds the service down.

    Source: KServe v0.20 `pkg/utils/utils.go`, GetForceStopRuntime: "true" in any case.
    """
    return str(annotations_of(inference_service).get(STOP_ANNOTATION, "")).lower() == "true"


def condition(thing: KubernetesObject, kind: str) -> KubernetesObject:
    """Return the condition of that type, or an empty mapping."""
    conditions = (thing.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind), {})


def container_statuses(pod: KubernetesObject) -> Iterator[dict[str, Any]]:
    """Yield the status of each container, init containers first; a key `init` is added to each."""
    status = pod.get("status") or {}
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or []:
            yield {**container, "init": key.startswith("init")}


def applied_at(inference_service: KubernetesObject) -> str | None:
    """Return when our specification last changed: the time that server-side apply keeps for its manager."""
    entries = metadata(inference_service).get("managedFields") or []
    times = [entry.get("time") for entry in entries if entry.get("manager") == FIELD_MANAGER]
    return max((time for time in times if time), default=metadata(inference_service).get("creationTimestamp"))


def seconds_since(time: str | None, now: datetime) -> float:
    """Return the seconds from an RFC 3339 time to `now`; 0 when the time is not known, so that a grace starts late."""
    if not time:
        return 0.0
    then = datetime.fromisoformat(time)
    return (now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()


def one_line(text: str | None, most: int = 400) -> str:
    """Return text on one line, cut to `most` characters."""
    line = " ".join((text or "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def last_lines(text: str | None, count: int = 3, most: int = 600) -> str:
    """Return the last non-empty lines of a log on one line; of too much, the end is kept, where the reason stands."""
    lines = [" ".join(line.split()) for line in (text or "").splitlines() if line.strip()]
    line = " | ".join(lines[-count:])
    return line if len(line) <= most else f"…{line[1 - most :]}"
