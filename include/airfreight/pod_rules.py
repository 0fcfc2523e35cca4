"""What a pod of a release that is coming up tells: nothing, something to wait for, or the end.

KServe reads the first pod only, and neither ImagePullBackOff, Unschedulable, OOMKilled nor a failing modelcar ever
reaches the InferenceService, so the pods themselves are judged here.

A pod without a node is judged by `scheduling`.

Sources: Kubernetes v1.34 `pkg/kubelet/images/types.go` and `pkg/kubelet/kuberuntime/kuberuntime_container.go` for the
waiting reasons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from airfreight.observation import (
    Cause,
    Failed,
    FailureKind,
    KubernetesObject,
    Limits,
    Pending,
    condition,
    container_statuses,
    last_lines,
    name_of,
    one_line,
    seconds_since,
)
from airfreight.scheduling import assess_unscheduled

SERVER_CONTAINER = "kserve-container"
INITIALIZER_CONTAINER = "storage-initializer"

_PULL_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"})
_PULL_NEVER = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_CONFIGURATION_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# What a registry says that no waiting changes; everything else it says (time-outs, 429, 5xx) may heal.
_PULL_PERMANENT = re.compile(
    r"not ?found|manifest unknown|unauthorized|authorization failed|denied|forbidden|no basic auth|invalid reference",
    re.I,
)
# Of these, what a login decides.
_PULL_DENIED = re.compile(r"unauthorized|authoriz|denied|forbidden|no basic auth", re.I)
# The kubelet and containerd each name the image before they come to the reason, which would be cut off else.
_PULL_PREFIX = re.compile(
    r'(?:[A-Za-z -]*(?:image|reference) "(?P<image>[^"]+)"(?:: |$)|ErrImagePull: |rpc error: code = \w+ desc = )'
)
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.I)
# What the startup probe of include/kubernetes/runtimes prints; a server that is busy or not quite up heals.
_CANNOT_CHAT = re.compile(r"Startup probe failed: cannot chat: (?P<said>(?!408|429|502|503|504)\d{3}\b.*)")
_STORE_REFUSES = re.compile(
    r"\b40[134]\b|Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|NoSuch|not found|No model found", re.I
)
_INITIALIZER_PREFIX = re.compile(
    r"^\S+ \S+ \d+ storage\.initializer [A-Z]+ \[[^\]]*\] (?:Storage initialization failed: )?"
)


def assess_pod(
    name: str,
    pod: KubernetesObject,
    log: str,
    now: datetime,
    limits: Limits,
    events: Iterable[KubernetesObject] = (),
) -> Pending | Failed | None:
    """Judge one pod of the release that is coming up.

    Args:
        name: the InferenceService's name, for the sentence.
        log: the last log lines of its model server, or "".
        events: about the pod; of one without a node they tell whether a node is being added.
    """
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return assess_unscheduled(name, pod, list(events), now, limits)
    scheduled_s = seconds_since(scheduled.get("lastTransitionTime"), now)
    waiting: Pending | None = None
    for container in container_statuses(pod):
        found = _assess_waiting(name, pod, container, scheduled_s, limits) or _assess_end(
            name, pod, container, log, limits
        )
        if isinstance(found, Failed):
            return found
        waiting = waiting or found
    return waiting


def assess_chat(name: str, pod: KubernetesObject, events: Iterable[KubernetesObject], limits: Limits) -> Failed | None:
    """Fail when the server lists its model and refuses to chat, which the runtime's startup probe finds out.

    A server may die of its first chat, so a refusal before a restart counts as well as a second one.
    """
    server = next((one for one in container_statuses(pod) if one["name"] == SERVER_CONTAINER), None)
    if server is None or server.get("ready") or server.get("started"):
        return None
    for event in events:
        refused = _CANNOT_CHAT.search(one_line(event.get("message")))
        times = int(event.get("count") or (event.get("series") or {}).get("count") or 1)
        if refused and (times >= limits.refused_chats or int(server.get("restartCount", 0)) > 0):
            return Failed(
                f"{name}: the server lists the model but cannot chat ({refused['said'].rstrip('. ')}); look at its "
                "log, and at whether this model fits this server (architecture, head size, chat template).",
                FailureKind.GATE,
                Cause.CHAT,
            )
    return None


def assess_evictions(name: str, pods: list[KubernetesObject], limits: Limits) -> Failed | None:
    """Fail when pods of the release are evicted repeatedly; one eviction is left to the Deployment."""
    evicted = [pod for pod in pods if (pod.get("status") or {}).get("reason") == "Evicted"]
    if len(evicted) < limits.evictions:
        return None
    said = one_line(evicted[-1]["status"].get("message"))
    return Failed(
        f"{name}: {len(evicted)} of its pods were evicted ({said}); free what the node lacks or choose other nodes.",
        FailureKind.GATE,
        Cause.EVICTED,
    )


def _assess_waiting(
    name: str, pod: KubernetesObject, container: KubernetesObject, scheduled_s: float, limits: Limits
) -> Pending | Failed | None:
    """Judge a container that has not started: its image, then its configuration."""
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    said = one_line(waiting.get("message")) or reason
    if (pull := _assess_pull(name, pod, container, scheduled_s, limits)) is not None:
        return pull
    if reason in _CONFIGURATION_REASONS:
        if scheduled_s >= limits.configuration_s:
            return Failed(
                f"{name}: the container {container['name']} cannot be started ({said}); correct what it names.",
                FailureKind.REQUEST,
                Cause.CONFIGURATION,
            )
        return Pending(f"{name}: the container {container['name']} could not be started yet ({said})")
    return None


def _assess_pull(
    name: str, pod: KubernetesObject, container: KubernetesObject, scheduled_s: float, limits: Limits
) -> Pending | Failed | None:
    """Judge an image that is not there yet: the container's own, or one that it mounts as a volume."""
    waiting = (container.get("state") or {}).get("waiting") or {}
    message = one_line(waiting.get("message"), 4096)
    named = [match["image"] for match in _PULL_PREFIX.finditer(message) if match["image"]]
    volumes = [(volume.get("image") or {}).get("reference") for volume in (pod.get("spec") or {}).get("volumes") or []]
    # The kubelet tells of a volume's image in the status of the container that mounts it.
    volume = next((image for image in volumes if image and image in named), None)
    image = volume or container.get("image", "")
    what = f"the image {image} of " + (f"{container['name']}'s volume" if volume else str(container["name"]))
    account = (pod.get("spec") or {}).get("serviceAccountName", "its service account")
    return assess_pull(f"{name}: {what}", waiting, account, scheduled_s, limits)


def may_heal(waiting: KubernetesObject) -> bool:
    """Whether an image that could not be pulled may come all the same: a registry is down, a connection broke."""
    return waiting.get("reason", "") not in _PULL_NEVER and not _PULL_PERMANENT.search(str(waiting.get("message")))


def assess_pull(
    what: str, waiting: KubernetesObject, account: str, scheduled_s: float, limits: Limits
) -> Pending | Failed | None:
    """Judge an image by why its container waits; None where that is not about an image.

    Args:
        what: subject of the sentence, such as "pong: the image registry/vllm@sha256:… of kserve-container".
        waiting: the container's state.
        account: the pod's service account.
        scheduled_s: seconds since the pod has a node.
    """
    reason = waiting.get("reason", "")
    if reason not in _PULL_REASONS | _PULL_NEVER:
        return None
    message = one_line(waiting.get("message"), 4096)
    said = last_lines(_PULL_PREFIX.sub("", message), most=400) or message or reason
    if reason not in _PULL_NEVER and not _PULL_PERMANENT.search(said) and scheduled_s < limits.pull_s:
        return Pending(f"{what} could not be pulled yet ({said})")
    if _PULL_DENIED.search(said):
        remedy = (
            f"correct the login for its registry in the Secret that {account} lists in imagePullSecrets, or the node's "
            "own, or the image"
        )
    elif _NO_SPACE.search(said):
        remedy = "free disk on that node, or choose other nodes"
    else:
        remedy = "correct the image, or the pull secrets of the service account"
    return Failed(f"{what} cannot be pulled ({said}); {remedy}.", FailureKind.REQUEST, Cause.IMAGE)


def _assess_end(
    name: str, pod: KubernetesObject, container: KubernetesObject, log: str, limits: Limits
) -> Pending | Failed | None:
    """Judge a container by how it last ended, if it did and has not recovered since."""
    state = container.get("state") or {}
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    # A server that ends is a failure, whatever it says of itself: vLLM 0.32 ends with 0 when its engine has died.
    if not ended or container.get("ready") or (container["init"] and not ended.get("exitCode")):
        return None
    who, restarts = container["name"], int(container.get("restartCount", 0))
    if ended.get("reason") == "OOMKilled":
        return _out_of_memory(name, pod, who)
    code = ended.get("exitCode", 0)
    said = _last_words(who, ended.get("message") or (log if who == SERVER_CONTAINER else ""))
    most = limits.initializer_restarts if container["init"] else limits.restarts
    if "running" in state or restarts < most:
        return Pending(f"{name}: {who} ended with exit code {code} and is started again{f' ({said})' if said else ''}")
    if container["init"]:
        return _init_failed(name, who, said or f"exit code {code}")
    tail = f"it last said: {said}" if said else f"read the log of {name_of(pod)}."
    return Failed(
        f"{name}: {who} crashed {restarts + 1} times, last with exit code {code}; correct the model or "
        f"the server's arguments; {tail}",
        FailureKind.GATE,
        Cause.CRASH,
    )


def _last_words(who: str, text: str) -> str:
    """Return the end of what a container said; of KServe's initializer the last line, without time and place.

    It has terminationMessagePolicy FallbackToLogsOnError, so its message is the end of its log: "2026-11-22 16:54:46.7
    1 storage.initializer ERROR [initializer-entrypoint:<module>():28] Storage initialization failed: S3 error [403]".
    """
    if who != INITIALIZER_CONTAINER:
        return last_lines(text)
    return _INITIALIZER_PREFIX.sub("", last_lines(text, count=1)).rstrip(".")


def _out_of_memory(name: str, pod: KubernetesObject, who: str) -> Failed:
    spec = pod.get("spec") or {}
    limits = {
        container.get("name"): ((container.get("resources") or {}).get("limits") or {}).get("memory")
        for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    }
    if who == INITIALIZER_CONTAINER:
        remedy = "raise storageInitializer.memoryLimit in KServe's ConfigMap inferenceservice-config"
    else:
        remedy = "raise memory, or give the server less to hold"
    return Failed(
        f"{name}: {who} was killed for using more memory than its limit ({limits.get(who) or 'none set'}); {remedy}.",
        FailureKind.GATE,
        Cause.MEMORY,
    )


def _init_failed(name: str, who: str, said: str) -> Failed:
    if who != INITIALIZER_CONTAINER:
        return Failed(
            f"{name}: the init container {who} fails ({said}); correct what it names.", FailureKind.GATE, Cause.INIT
        )
    kind = FailureKind.REQUEST if _STORE_REFUSES.search(said) else FailureKind.TEMPORARY
    return Failed(
        f"{name}: the storage-initializer cannot fetch the model ({said}); correct the bucket, or the endpoint and the "
        "keys in the Secret airfreight-store of its namespace.",
        kind,
        Cause.STORAGE,
    )
