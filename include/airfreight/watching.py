"""From the cluster's objects to what `airfreight.idleness` looks at, and who holds a model's power switch; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airfreight.idleness import Replica
from airfreight.metrics import PAGE_LIMIT, MetricsError, adapter_of, served_name_of
from airfreight.observation import STOP_ANNOTATION, KubernetesObject, is_stopped, metadata, name_of
from airfreight.pod_rules import SERVER_CONTAINER

POWER_MANAGER = "airfreight-power"
_OVER = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Page:
    """What a pod's metrics page answered.

    Args:
        status: of HTTP; 0 where there was no answer.
        text: the page, or why there was no answer.
        seconds: it took.
    """

    status: int
    text: str
    seconds: float


@dataclass(frozen=True)
class Switch:
    """A model's stop annotation: its effect, and who wrote it last.

    Args:
        stopped: the model is stopped.
        manager: field manager of the last write, "" when nobody wrote it or the cluster does not say.
        at: RFC 3339 time of that write, "" likewise.
    """

    stopped: bool
    manager: str
    at: str

    @property
    def is_ours(self) -> bool:
        """Whether Airfreight wrote it last."""
        return self.manager == POWER_MANAGER


def serving_pods(pods: Iterable[KubernetesObject]) -> list[KubernetesObject]:
    """Return the pods that may serve: all but those that ended for good and are kept for their logs."""
    return [pod for pod in pods if (pod.get("status") or {}).get("phase") not in _OVER]


def readable(pod: KubernetesObject) -> bool:
    """Whether a pod's server is up, so that asking for its metrics makes sense."""
    ready = _condition(pod, "Ready")
    return ready and not metadata(pod).get("deletionTimestamp")


def replica(pod: KubernetesObject, page: Page | None) -> Replica:
    """Return what is known of a pod; `page` is None when it was not asked."""
    load, problem = None, ""
    if page is not None:
        try:
            load = adapter_of(pod).read(_text(page), served_name_of(pod, SERVER_CONTAINER))
        except MetricsError as error:
            problem = str(error)
    return Replica(
        uid=str(metadata(pod).get("uid", name_of(pod))),
        name=name_of(pod),
        restarts=_restarts(pod),
        ready=readable(pod),
        load=load,
        problem=problem,
        age_s=page.seconds if page else 0.0,
    )


def wanted_replicas(deployment: KubernetesObject | None) -> int:
    """Return how many pods the Deployment wants; 1 where there is none yet."""
    return max(1, int(((deployment or {}).get("spec") or {}).get("replicas", 1)))


def switch_of(service: KubernetesObject) -> Switch:
    """Return the power switch of an InferenceService.

    Several managers may own the annotation when they wrote the same value; the last one is named, and of a tie the one
    that is not Airfreight.
    """
    entries = [entry for entry in metadata(service).get("managedFields") or [] if _owns(entry, STOP_ANNOTATION)]
    last: Mapping[str, Any] = max(
        entries, key=lambda entry: (entry.get("time") or "", entry.get("manager") != POWER_MANAGER), default={}
    )
    return Switch(is_stopped(service), str(last.get("manager", "")), str(last.get("time", "")))


def served_name_in(service: KubernetesObject) -> str:
    """Return the name under which the model server answers: its --served-model-name, or the InferenceService's name."""
    model = ((service.get("spec") or {}).get("predictor") or {}).get("model") or {}
    spec = {"containers": [{"name": SERVER_CONTAINER, "args": model.get("args") or []}]}
    return served_name_of({"metadata": metadata(service), "spec": spec}, SERVER_CONTAINER) or name_of(service)


def fight_sentence(name: str, namespace: str, switch: Switch, wanted: str) -> str:
    """Say that somebody else turns the switch; `wanted` is what Airfreight wrote, "started" or "stopped"."""
    who = f"field manager {switch.manager}" if switch.manager else "somebody"
    return (
        f"Airfreight {wanted} {name} in namespace {namespace}, and {who} wrote {STOP_ANNOTATION} again: let that one "
        "leave this annotation alone (docs/windows.md, GitOps), or leave hours and idle_after out of the catalog."
    )


def pod_names(pods: Sequence[KubernetesObject]) -> str:
    """Return the names of pods for a sentence."""
    return ", ".join(sorted(name_of(pod) for pod in pods))


def _text(page: Page) -> str:
    if page.status == 0:
        raise MetricsError(f"its metrics cannot be read ({page.text})")
    if page.status == 403:
        raise MetricsError("its metrics may not be read; give this service account get on pods/proxy")
    if page.status != 200:
        raise MetricsError(f"its metrics answer {page.status}")
    if len(page.text) >= PAGE_LIMIT:
        raise MetricsError("its metrics have no end")
    return page.text


def _owns(entry: Mapping[str, Any], annotation: str) -> bool:
    fields = (entry.get("fieldsV1") or {}).get("f:metadata") or {}
    return f"f:{annotation}" in (fields.get("f:annotations") or {})


def _condition(pod: KubernetesObject, kind: str) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one.get("type") == kind and one.get("status") == "True" for one in conditions)


def _restarts(pod: KubernetesObject) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((int(one.get("restartCount", 0)) for one in statuses if one.get("name") == SERVER_CONTAINER), 0)
