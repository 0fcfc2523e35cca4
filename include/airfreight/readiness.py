"""Is this release serving? A pure rule over objects that somebody else has read.

`Ready=True` of an InferenceService may describe the previous model, `Ready=False` is normal while a server starts, and
an image that cannot be pulled never reaches the InferenceService at all. So the rule looks at three levels:

1. the InferenceService: it exists, it is not stopped, it carries this release, KServe understood it;
2. its Deployment: the pod template carries this release and is fully rolled out;
3. the pods of this release: what cannot heal ends the wait at once, what can is waited for and shown.

ProgressDeadlineExceeded is no failure: KServe fixes that deadline at 600 s, and large models load for longer.

Source: KServe v0.20 `pkg/apis/serving/v1beta1/inference_service_status.go` and the reconcilers of Standard mode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from airfreight.observation import (
    Cause,
    Failed,
    FailureKind,
    KubernetesObject,
    Limits,
    Observation,
    Pending,
    Ready,
    applied_at,
    condition,
    is_stopped,
    metadata,
    name_of,
    one_line,
    release_of,
    seconds_since,
)
from airfreight.pod_rules import assess_chat, assess_evictions, assess_pod

__all__ = ["Assessment", "Cause", "Failed", "FailureKind", "Limits", "Observation", "Pending", "Ready", "assess"]

# KServe's pod webhook, where the service account lists a Secret that is not there (service_account_credentials.go).
_NO_SECRET = re.compile(r'denied the request: secrets? "(?P<name>[^"]+)" not found')

Assessment = Pending | Ready | Failed


def assess(observation: Observation, release: str, now: datetime, limits: Limits | None = None) -> Assessment:
    """Say whether `release` is ready, still coming, or lost.

    Args:
        observation: objects as the API server gives them.
        release: the release id that `airfreight deploy` returned.
        now: an aware time; graces are measured against it.
        limits: how long to wait for what may heal.
    """
    limits = limits or Limits()
    service = observation.inference_service
    if service is None:
        return Failed(
            "The InferenceService is gone: somebody deleted it after the deploy; deliver the model again.",
            FailureKind.REQUEST,
            Cause.GONE,
        )
    verdict = _assess_service(service, release, now, limits)
    if verdict is not None:
        return verdict
    name, deployment = name_of(service), observation.deployment
    if deployment is None:
        return Pending(f"{name}: KServe has not made the Deployment yet")
    if release_of((deployment.get("spec") or {}).get("template") or {}) != release:
        return Pending(f"{name}: the Deployment still has the release before this one")
    failed = _assess_deployment(name, deployment)
    if failed is not None:
        return failed
    pods = [
        pod for pod in observation.pods if release_of(pod) == release and not metadata(pod).get("deletionTimestamp")
    ]
    notes: list[Pending] = []
    for pod in pods:
        found: Pending | Failed | None = assess_chat(name, pod, observation.events.get(name_of(pod), ()), limits)
        found = found or assess_pod(
            name, pod, observation.logs.get(name_of(pod), ""), now, limits, observation.events.get(name_of(pod), ())
        )
        if isinstance(found, Failed):
            return found
        notes += [found] if found else []
    others = [pod for pod in observation.pods if release_of(pod) != release]
    return (
        assess_evictions(name, pods, limits)
        or _assess_rollout(name, deployment, service, notes)
        or _assess_others(name, others, now, limits)
        or Ready()
    )


def _assess_service(service: KubernetesObject, release: str, now: datetime, limits: Limits) -> Assessment | None:
    name = name_of(service)
    if is_stopped(service):
        return Failed(
            f"{name} is stopped, so it cannot become ready; resume it first: "
            f"airfreight resume --name {name} --namespace {metadata(service).get('namespace')}.",
            FailureKind.REQUEST,
            Cause.STOPPED,
        )
    carried = release_of(service)
    if carried != release:
        return Failed(
            f"{name} carries release {carried or '(none)'}, not {release}: another deploy replaced this one; "
            "follow that one, or deliver this model again.",
            FailureKind.REQUEST,
            Cause.REPLACED,
        )
    said = _refusal(service)
    if said is None:
        return None
    if seconds_since(applied_at(service), now) < limits.invalid_s:
        return Pending(f"{name}: KServe does not accept the specification yet ({said})")
    return Failed(
        f"{name}: KServe does not accept the specification ({said}); correct the runtime or the serving settings "
        "that it names.",
        FailureKind.REQUEST,
        Cause.INVALID,
    )


def _refusal(service: KubernetesObject) -> str | None:
    """Return what KServe's controller has against the specification, if anything."""
    model = (service.get("status") or {}).get("modelStatus") or {}
    if model.get("transitionStatus") == "InvalidSpec":
        # lastFailureInfo is never cleared, so it is read only while the state itself says InvalidSpec.
        info = model.get("lastFailureInfo") or {}
        return one_line(info.get("message")) or info.get("reason") or "InvalidSpec"
    predictor = condition(service, "PredictorReady")
    if predictor.get("status") == "False" and predictor.get("reason") == "ReconcileFailed":
        return one_line(predictor.get("message")) or "ReconcileFailed"
    return None


def _assess_deployment(name: str, deployment: KubernetesObject) -> Failed | None:
    failure = condition(deployment, "ReplicaFailure")
    said = one_line(failure.get("message"))
    no_secret = _NO_SECRET.search(said)
    if failure.get("status") != "True" or not ("forbidden" in said or no_secret):
        # A refused connection to KServe's pod webhook ends here too, and heals.
        return None
    if no_secret:
        remedy = f"create Secret {no_secret['name']} in its namespace, which its service account lists"
    elif "exceeded quota" in said:
        remedy = "lower cpu, memory or gpus, or raise the namespace's ResourceQuota"
    elif "violates PodSecurity" in said:
        remedy = "label the namespace pod-security.kubernetes.io/enforce=baseline, which KServe's own containers need"
    else:
        remedy = "correct what the refusal names"
    return Failed(f"{name}: Kubernetes refuses its pod ({said}); {remedy}.", FailureKind.REQUEST, Cause.FORBIDDEN)


def _assess_rollout(
    name: str, deployment: KubernetesObject, service: KubernetesObject, notes: Sequence[Pending]
) -> Pending | None:
    status = deployment.get("status") or {}
    wanted = int((deployment.get("spec") or {}).get("replicas", 1))
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    if int(status.get("observedGeneration", 0)) < int(metadata(deployment).get("generation", 0)):
        return Pending(f"{name}: Kubernetes has not acted on the Deployment yet")
    if wanted < 1:
        return Pending(f"{name}: the Deployment is scaled to zero")
    if updated < wanted or available < wanted:
        return notes[0] if notes else Pending(f"{name}: {available} of {wanted} pods of this release are up")
    if int(status.get("replicas", 0)) != updated:
        return Pending(f"{name}: the pods of the release before this one are still going")
    ready = condition(service, "Ready")
    if ready.get("status") != "True":
        said = one_line(ready.get("message")) or ready.get("reason")
        return Pending(f"{name}: the pods are up, KServe does not say Ready yet{f' ({said})' if said else ''}")
    return None


def _assess_others(name: str, pods: Sequence[KubernetesObject], now: datetime, limits: Limits) -> Pending | None:
    """Wait until nobody is sent to the pods of another release: else their answers would be taken for this one's.

    A pod that is told to go is out of the Service at once, which every node learns a moment later; meanwhile it answers
    on, because it finishes what it has begun. `deletionTimestamp` is when its grace ends.
    """
    for pod in pods:
        ends = metadata(pod).get("deletionTimestamp")
        told_s = seconds_since(ends, now) + float(metadata(pod).get("deletionGracePeriodSeconds") or 0) if ends else 0.0
        if condition(pod, "Ready").get("status") == "True" and told_s < limits.withdrawn_s:
            return Pending(f"{name}: the pods of another release still answer")
    return None
