"""Images are on the nodes before the live pod is touched: which ones, where, and by what pod; pure. See `pulling`.

What the predictor's pod will need is read off the pod that admission rehearsed: the server's image, the modelcar's,
that of an image volume, KServe's initializer. Where a node that may run the model does not list one of them, a pod
with that image alone goes there, with the predictor's service account, pull secrets and tolerations, and ends at once:

    pulled kind.example/vllm@sha256:71d0… on n1 in 42 s

An image that cannot be pulled ends the run here, in the words in which `wait_until_ready` would have said it, and users
notice nothing. What only could not be tried (no right, no room for a pod) is said, and the delivery goes on: then the
wait for the release sees the pull.

A container whose command is not in its image (a modelcar holds a model) proves the pull as well: it was made from the
image before it failed to start. Source: Kubernetes v1.34 `pkg/kubelet/kuberuntime/kuberuntime_container.go`,
startContainer: pull, create, start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from airfreight.disk import Node, whole_name
from airfreight.observation import (
    Cause,
    Failed,
    FailureKind,
    KubernetesObject,
    Limits,
    Pending,
    condition,
    container_statuses,
    metadata,
    one_line,
    seconds_since,
)
from airfreight.pod_rules import assess_pull, may_heal
from airfreight.short_pod import short_pod

LABEL = "airfreight.dev/pull"
CONTAINER = "pull"
NODES = 8  # that are made ready, at most: the model has one pod
WAIT_S = 3600.0  # for all pulls together: 140 GB at 40 MB/s
BEGIN_S = 60.0  # for a pod to have a node and its network; one that has not is given up
# The kubelet has pulled before it comes to these.
_AFTER_THE_PULL = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError",
     "PreStartHookError", "PostStartHookError", "CrashLoopBackOff"}
)  # fmt: skip
_NOTHING_KNOWN = "ContainerStatusUnknown"


@dataclass(frozen=True)
class Image:
    """An image that a pod needs, and what in the pod needs it: "modelcar", "kserve-container's volume"."""

    name: str
    user: str


@dataclass(frozen=True)
class Pull:
    """One image on one node, and the name of the pod that pulls it."""

    image: Image
    node: str
    pod: str


@dataclass(frozen=True)
class Pulled:
    """An image that is there; `seconds` from the pod's making until it was seen."""

    image: str
    node: str
    seconds: float

    def result(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 1)}


@dataclass(frozen=True)
class Untried:
    """A pull that could not be tried; `why` for a person."""

    why: str


# ---- what is to be pulled, and by what; pure ----------------------------------------------------------------------


def images_of(pod: KubernetesObject) -> list[Image]:
    """Return every image that a pod needs, each once."""
    spec = pod.get("spec") or {}
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    found = [Image(str(one["image"]), str(one["name"])) for one in containers if one.get("image")]
    for volume in spec.get("volumes") or []:
        if reference := (volume.get("image") or {}).get("reference"):
            found.append(Image(str(reference), f"{_mounting(containers, volume['name'])}'s volume"))
    each: dict[str, Image] = {}
    for image in found:
        each.setdefault(whole_name(image.name), image)
    return list(each.values())


def missing(images: Sequence[Image], nodes: Sequence[Node], most: int = NODES) -> list[tuple[Image, Node]]:
    """Return which image is missing where, on the nodes that are made ready.

    Of many nodes those are taken that lack least, and of these the roomiest.
    """
    lacking = {node.name: [image for image in images if not node.has(image.name)] for node in nodes}
    chosen = sorted(nodes, key=lambda node: (len(lacking[node.name]), -node.room, node.name))[:most]
    return [(image, node) for node in chosen for image in lacking[node.name]]


def pull_pod(pull: Pull, predictor: KubernetesObject, model: str) -> dict[str, Any]:
    """Return the pod that pulls: of Pod Security "restricted", and it asks for next to nothing.

    Args:
        predictor: the pod for which it pulls, after admission.
        model: the InferenceService's name.
    """
    spec = predictor.get("spec") or {}
    like = {key: spec[key] for key in ("serviceAccountName", "imagePullSecrets", "tolerations") if spec.get(key)}
    only_there = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [pull.node]}]}
    container = {
        "name": CONTAINER,
        "image": pull.image.name,
        "imagePullPolicy": "IfNotPresent",
        "command": ["true"],
        # An image made for GPUs asks the node's runtime for all of them, and none is ours.
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
    }
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [only_there]}}}
    return short_pod(
        pull.pod,
        metadata(predictor)["namespace"],
        {LABEL: model},
        container,
        deadline_s=int(WAIT_S),
        spec={**like, "affinity": affinity},
    )


def judge(
    pod: KubernetesObject | None, pull: Pull, model: str, now: datetime, limits: Limits | None = None
) -> bool | Pending | Failed | Untried:
    """Say how a pull stands: True when the image is there.

    Args:
        pod: that pulls, as it is now; None when it is gone.
        model: the InferenceService's name, for the sentence.
        now: an aware time.
        limits: how long what may heal is waited for.
    """
    if pod is None:
        return Untried("its pod is gone")
    status = pod.get("status") or {}
    # By its name: a mesh may have put a container of its own before it, whose image is there.
    container = next((one for one in container_statuses(pod) if one.get("name") == CONTAINER), {})
    if _was_pulled(container):
        return True
    scheduled = condition(pod, "PodScheduled")
    scheduled_s = seconds_since(scheduled.get("lastTransitionTime"), now)
    what = f"{model} on {pull.node}: the image {pull.image.name} of {pull.image.user}"
    account = str((pod.get("spec") or {}).get("serviceAccountName", "its service account"))
    waiting = (container.get("state") or {}).get("waiting") or {}
    found = assess_pull(what, waiting, account, scheduled_s, limits or Limits())
    if isinstance(found, Failed) and may_heal(waiting):
        # Perhaps after many minutes of pulling: the step is tried again, and what the node has of the image is kept.
        return replace(found, kind=FailureKind.TEMPORARY)
    if found is not None:
        return found
    if status.get("phase") == "Failed":
        said = one_line(f"{status.get('reason') or 'Failed'}: {status.get('message') or 'no message'}".rstrip(". "))
        if status.get("reason") == "Evicted":
            return Failed(
                f"{what} cannot be pulled ({said}); free disk on that node, or choose other nodes.",
                FailureKind.REQUEST,
                Cause.IMAGE,
            )
        return Untried(said)
    if seconds_since(metadata(pod).get("creationTimestamp"), now) >= BEGIN_S and not _has_begun(pod):
        return Untried(one_line(scheduled.get("message")).rstrip(". ") or "its pod does not start")
    return Pending(f"{pull.image.name} on {pull.node}")


def _was_pulled(container: KubernetesObject) -> bool:
    state = container.get("state") or {}
    ended = state.get("terminated") or {}
    return bool(
        container.get("imageID")
        or "running" in state
        or (ended and ended.get("reason") != _NOTHING_KNOWN)
        or (state.get("waiting") or {}).get("reason") in _AFTER_THE_PULL
    )


def _has_begun(pod: KubernetesObject) -> bool:
    """Whether the pod has a node and, where the kubelet tells, its network: what is left to wait for is the pull."""
    scheduled = condition(pod, "PodScheduled").get("status") == "True"
    return scheduled and condition(pod, "PodReadyToStartContainers").get("status") != "False"


def _mounting(containers: Sequence[Mapping[str, Any]], volume: str) -> str:
    for one in containers:
        if any(mount.get("name") == volume for mount in one.get("volumeMounts") or []):
            return str(one["name"])
    return "the pod"
