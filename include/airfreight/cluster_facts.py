"""What a cluster is asked before a delivery mode is taken and before a node pulls: facts for delivery.py and disk.py.

Everything here reads or rehearses; what one may not see is left unknown, and the rules say so.

Sources: KServe v0.20 `pkg/types/config.go` (ResolveOciModelMode); the release notes of containerd 2.1 and CRI-O 1.33
for image volumes with a sub-path.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from airfreight.cluster import CONFIG_MAPS, INFERENCE_SERVICES, NAMESPACES, NODES, PODS, SERVING_RUNTIMES, Cluster
from airfreight.delivery import Facts, Mode
from airfreight.disk import EPHEMERAL, Node, may_run
from airfreight.errors import RequestError
from airfreight.observation import SERVICE_LABEL, metadata, name_of
from airfreight.serving import Serving, quantity

log = logging.getLogger(__name__)
KSERVE_NAMESPACE = "kserve"
KSERVE_CONFIG = "inferenceservice-config"
ENFORCE = "pod-security.kubernetes.io/enforce"
Seen = TypeVar("Seen")
# The first releases that mount image volumes with a sub-path.
_NATIVE_RUNTIMES = {"containerd": (2, 1), "cri-o": (1, 33)}
_RUNTIME = re.compile(r"(?P<name>[a-z-]+)://v?(?P<major>\d+)\.(?P<minor>\d+)")
# Never pulled: the pod is rehearsed. `.invalid` is nobody's (RFC 2606).
_NO_IMAGE = "airfreight.invalid/image-volume:none"


def delivery_facts(
    cluster: Cluster, namespace: str, serving: Serving | None = None, runtime: Mapping[str, Any] | None = None
) -> Facts:
    """Ask what delivery.py decides by, apart from the image.

    Args:
        serving: which nodes count: those that may run it. Where none may now, for they are still to be added or ready,
            and where it is None, all that take pods stand for them (`Facts.stand_ins`).
        runtime: specification of its ServingRuntime, which may keep it on some nodes too.
    Raises:
        RequestError: KServe's ConfigMap holds no JSON.
        TemporaryError: the API server does not answer.
    """
    config = _seen(lambda: cluster.get(CONFIG_MAPS, KSERVE_NAMESPACE, KSERVE_CONFIG))
    nodes = _seen(lambda: cluster.items(NODES)) or []
    spec = dict(runtime or {})
    if serving is not None and serving.tolerations:
        spec.pop("tolerations", None)  # KServe takes those of the predictor instead
    fitting = [node for node in nodes if serving is not None and may_run(serving, _node(node, None), spec)]
    counted = fitting or [node for node in nodes if not (node.get("spec") or {}).get("unschedulable")]
    runtimes = {name_of(node): _runtime(node) for node in counted}
    able = {name: mounts_images(runtime) for name, runtime in runtimes.items()}
    facts = Facts(
        oci_mode=None if config is None else _oci_mode(config),
        version=version_of(cluster.version()),
        old_nodes=tuple(f"{name} with {runtimes[name]}" for name, can in sorted(able.items()) if can is False),
        new_nodes=sum(can is not False for can in able.values()),
        stand_ins=not fitting,
        pod_security=_pod_security(_seen(lambda: cluster.get(NAMESPACES, None, namespace))),
    )
    return replace(facts, image_volumes=_takes_image_volumes(cluster, namespace))


def runtime_spec(cluster: Cluster, namespace: str, name: str) -> Mapping[str, Any]:
    """Return the specification of a ServingRuntime; an empty one where it is not there, or may not be read.

    Raises:
        TemporaryError: the API server does not answer.
    """
    return (_seen(lambda: cluster.get(SERVING_RUNTIMES, namespace, name)) or {}).get("spec") or {}


def live_mode(cluster: Cluster, namespace: str, name: str) -> Mode | None:
    """Return the delivery mode that an InferenceService has; None where there is none, or it may not be read.

    Raises:
        TemporaryError: the API server does not answer.
    """
    live = _seen(lambda: cluster.get(INFERENCE_SERVICES, namespace, name)) or {}
    model = ((live.get("spec") or {}).get("predictor") or {}).get("model") or {}
    scheme = str(model.get("storageUri", "")).partition("://")[0]
    return next((mode for mode in Mode if mode == scheme), None)


def node_facts(cluster: Cluster, leaving: tuple[str, str] | None = None) -> list[Node] | None:
    """Return the nodes as disk.py sees them; None where they may not be read.

    Where pods may not be listed in the whole cluster, `Node.requested` is None.

    Args:
        leaving: namespace and name of an InferenceService whose pods end first: what they were promised is free then.
    """
    nodes = _seen(lambda: cluster.items(NODES))
    if nodes is None:
        return None
    living = "status.phase!=Succeeded,status.phase!=Failed"
    pods = _seen(lambda: cluster.items(PODS, fields=living))
    if pods is not None and leaving is not None:
        pods = [pod for pod in pods if _served(pod) != leaving]
    requested = None if pods is None else _requested(pods)
    return [_node(node, None if requested is None else requested[name_of(node)]) for node in nodes]


def version_of(version: Mapping[str, Any]) -> tuple[int, int]:
    """Return major and minor of what `/version` says; minor versions may read "34+"."""
    numbers = [re.match(r"\d+", str(version.get(key))) for key in ("major", "minor")]
    major, minor = (int(match[0]) if match else 0 for match in numbers)
    return major, minor


def read_oci_mode(config: Mapping[str, Any]) -> str:
    """Return what KServe makes of a bare oci:// address, from its ConfigMap; "" for nothing.

    Raises:
        ValueError: the JSON in it does not parse.
    """
    values = json.loads((config.get("data") or {}).get("storageInitializer") or "{}")
    if not isinstance(values, dict):
        raise ValueError("storageInitializer is no JSON object")
    if values.get("ociModelMode"):
        return str(values["ociModelMode"])
    return "modelcar" if values.get("enableModelcar") or values.get("enableOciModelSupport") else ""


def mounts_images(runtime: str) -> bool | None:
    """Say whether a container runtime mounts image volumes as KServe asks for them; None for one we do not know.

    Args:
        runtime: a node's `containerRuntimeVersion`, such as "containerd://2.1.4".
    """
    match = _RUNTIME.match(runtime)
    first = _NATIVE_RUNTIMES.get(match["name"]) if match else None
    return None if match is None or first is None else (int(match["major"]), int(match["minor"])) >= first


def image_volume_pod(namespace: str) -> dict[str, Any]:
    """Return a pod that every Pod Security level takes and that mounts a folder of an image, as KServe's would."""
    small = {"cpu": "1m", "memory": "1Mi"}
    return {
        "apiVersion": PODS.group_version,
        "kind": PODS.kind,
        "metadata": {"name": "airfreight-image-volume", "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "reader",
                    "image": _NO_IMAGE,
                    "resources": {"requests": small, "limits": small},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [
                        {"name": "model", "mountPath": "/mnt/models", "subPath": "models", "readOnly": True}
                    ],
                }
            ],
            "volumes": [{"name": "model", "image": {"reference": _NO_IMAGE, "pullPolicy": "IfNotPresent"}}],
        },
    }


def _takes_image_volumes(cluster: Cluster, namespace: str) -> bool | None:
    """Rehearse such a pod. With the feature gate off the API server drops the volume's source and misses it then."""
    try:
        made = cluster.rehearse(PODS, image_volume_pod(namespace))
    except RequestError as error:
        log.debug("image volumes: %s", error)
        # Any other refusal (rights, quota, a policy) says nothing of the feature.
        return False if re.search(r"spec\.volumes\[|image volume|volumeMounts\[", error.message) else None
    volumes = (made.get("spec") or {}).get("volumes") or []
    return any(volume.get("image") for volume in volumes)


def _oci_mode(config: Mapping[str, Any]) -> str:
    try:
        return read_oci_mode(config)
    except (ValueError, AttributeError) as error:
        raise RequestError(
            f"KServe's ConfigMap {KSERVE_CONFIG} in namespace {KSERVE_NAMESPACE} cannot be read ({error}): correct its "
            "key storageInitializer."
        ) from None


def _pod_security(namespace: Mapping[str, Any] | None) -> str | None:
    return None if namespace is None else str((metadata(namespace).get("labels") or {}).get(ENFORCE, ""))


def _runtime(node: Mapping[str, Any]) -> str:
    return str(((node.get("status") or {}).get("nodeInfo") or {}).get("containerRuntimeVersion", ""))


def _node(node: Mapping[str, Any], requested: int | None) -> Node:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions") or []}
    allocatable = status.get("allocatable") or {}
    images = status.get("images") or []
    return Node(
        name=name_of(node),
        allocatable=_bytes(allocatable.get(EPHEMERAL)),
        requested=requested,
        images=frozenset(name for image in images for name in image.get("names") or []),
        images_bytes=sum(int(image.get("sizeBytes") or 0) for image in images),
        gpus=int(allocatable.get("nvidia.com/gpu") or 0),
        labels=dict(metadata(node).get("labels") or {}),
        taints=tuple(
            (taint.get("key", ""), taint.get("value") or "", taint.get("effect", ""))
            for taint in spec.get("taints") or []
        ),
        schedulable=not spec.get("unschedulable") and conditions.get("Ready") == "True",
        under_pressure=conditions.get("DiskPressure") == "True",
    )


def _served(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return namespace and name of the InferenceService whose pod it is; None where it is of none."""
    meta = metadata(pod)
    name = (meta.get("labels") or {}).get(SERVICE_LABEL)
    return (str(meta.get("namespace", "")), str(name)) if name else None


def _requested(pods: list[dict[str, Any]]) -> Counter[str]:
    """Return what pods have been promised of each node's disk, in bytes."""
    found: Counter[str] = Counter()
    for pod in pods:
        spec = pod.get("spec") or {}
        containers = sum(_request(one) for one in spec.get("containers") or [])
        # Init containers run one after the other and before the others (Kubernetes: resource helpers, PodRequests).
        first = max((_request(one) for one in spec.get("initContainers") or []), default=0)
        found[str(spec.get("nodeName", ""))] += max(containers, first)
    return found


def _request(container: Mapping[str, Any]) -> int:
    return _bytes(((container.get("resources") or {}).get("requests") or {}).get(EPHEMERAL))


def _bytes(text: str | None) -> int:
    try:
        return int(quantity(str(text))) if text else 0
    except ValueError:
        return 0


def _seen(look: Callable[[], Seen]) -> Seen | None:
    """Return what was read, or None where one may not look."""
    try:
        return look()
    except RequestError as error:
        log.debug("not seen: %s", error)
        return None
