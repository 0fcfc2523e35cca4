"""Does a node have the disk that a model needs? A pure rule, asked before anything is pulled.

    s3                 the model lies in the pod's own emptyDir, once for each pod: the pod is promised it
    oci, oci+native    the image lies once on each node that runs a pod of it, twice while it is unpacked

A node's room is what Kubernetes may give away of its disk (allocatable ephemeral storage) less what it has promised to
pods (requests). What images take already is no promise and comes on top; where it alone exceeds the allocatable space
they lie on a disk of their own, which the API does not show. So a model is refused only where it certainly fits
nowhere, and what is doubtful is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airfreight.delivery import Mode
from airfreight.errors import RequestError
from airfreight.rendering import pod_bytes
from airfreight.serving import Serving, parse_node_selector, parse_toleration

EPHEMERAL = "ephemeral-storage"
# containerd keeps a layer's blob until the image is unpacked, and after that too unless discard_unpacked_layers is set.
UNPACKING = 2
_KEEPS_AWAY = ("NoSchedule", "NoExecute")


@dataclass(frozen=True)
class Need:
    """What one release needs.

    Args:
        mode: the delivery mode.
        size_bytes: of the model.
        image: reference by digest, without scheme; "" for S3.
        serving: where its pods may run.
        pods: how many run at once.
        spec: of the pod or its ServingRuntime, for what `serving` does not say of where they may run.
    """

    mode: Mode
    size_bytes: int
    image: str
    serving: Serving
    pods: int = 1
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node_bytes(self) -> int:
        """Bytes of a node's disk that one pod, or the first pod on a node, takes."""
        own = pod_bytes(self.mode, self.size_bytes)
        return own if self.mode is Mode.S3 else own + self.size_bytes

    @property
    def peak_bytes(self) -> int:
        """The same while an image is unpacked, with a container runtime that keeps the layers until then."""
        return self.node_bytes if self.mode is Mode.S3 else self.node_bytes + (UNPACKING - 1) * self.size_bytes


@dataclass(frozen=True)
class Node:
    """One node, as the API shows it; sizes in bytes.

    Args:
        requested: promised to pods; None where pods may not be listed.
        images: every name of every image on it.
        images_bytes: what these take.
        taints: (key, value, effect).
    """

    name: str
    allocatable: int
    requested: int | None = 0
    images: frozenset[str] = frozenset()
    images_bytes: int = 0
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    schedulable: bool = True
    under_pressure: bool = False

    @property
    def room(self) -> int:
        """Bytes that are neither promised to pods nor reserved."""
        return self.allocatable - (self.requested or 0)

    @property
    def images_elsewhere(self) -> bool:
        """Whether images lie on a disk of their own: they take more than this one has."""
        return self.images_bytes > self.allocatable

    def has(self, image: str) -> bool:
        """Say whether the node lists an image already: by its digest, or by its tag where it is named by one.

        The kubelet lists 50 images (nodeStatusMaxImages), so one that is not listed may be there all the same.
        """
        wanted = whole_name(image)
        return any(whole_name(name) == wanted for name in self.images)


def whole_name(image: str) -> str:
    """Return the name of an image as nodes list it: with its registry, and with its digest or its tag, not with both.

    Source: distribution/reference, normalize.go: what has no dot, no port and is not localhost is no registry.
    """
    name, _, digest = image.partition("@")
    registry, slash, _ = name.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        name = f"docker.io/{name}" if slash else f"docker.io/library/{name}"
    folder, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{folder}{slash}{last}@{digest}" if digest else f"{folder}{slash}{last}:{tag or 'latest'}"


def able_nodes(need: Need, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that may run a pod of it and have its image, or the room for it."""
    fitting = [node for node in nodes if may_run(need.serving, node, need.spec)]
    return [node for node in fitting if (need.image and node.has(need.image)) or _places(need, node)]


def check_disk(need: Need, nodes: Sequence[Node] | None) -> str:
    """Return what was found, as one sentence for the log.

    Args:
        nodes: None where they may not be read.
    Raises:
        RequestError: no node, or not enough of them, can hold it; the sentence says how much is lacking where.
    """
    if not need.size_bytes:
        return "Node disk: not checked, because the size of the model is not known."
    if nodes is None:
        return "Node disk: not checked, because the nodes may not be read; apply include/kubernetes/cluster."
    fitting = [node for node in nodes if may_run(need.serving, node, need.spec)]
    if not fitting:
        return "Node disk: not checked, because no node takes this pod now; the scheduler will say why."
    if need.image and (there := [node for node in fitting if node.has(need.image)]):
        return f"Node disk: the image is on {_names(there)} already, so nothing is pulled there."
    places = sum(_places(need, node) for node in fitting)
    best = max(fitting, key=lambda node: node.room)
    if places < need.pods:
        raise RequestError(_too_little(need, best, len(fitting), places))
    return _enough(need, best, [node for node in fitting if _places(need, node)])


def may_run(serving: Serving, node: Node, spec: Mapping[str, Any] | None = None) -> bool:
    """Say whether the scheduler would consider a node: ready, labels, taints, GPUs.

    Args:
        spec: of the pod or its ServingRuntime; its nodeSelector and tolerations count beside those of `serving`.
    """
    spec = spec or {}
    wanted = {**(spec.get("nodeSelector") or {}), **dict(map(parse_node_selector, serving.node_selector))}
    tolerated = [parse_toleration(line) for line in serving.tolerations]

    def tolerates(taint: tuple[str, str, str]) -> bool:
        key, value, effect = taint
        own = any(one.key == key and one.effect == effect and one.value in (None, value) for one in tolerated)
        return own or any(_tolerates(one, taint) for one in spec.get("tolerations") or [])

    hard = [taint for taint in node.taints if taint[2] in _KEEPS_AWAY]
    labelled = all(node.labels.get(key) == value for key, value in wanted.items())
    return node.schedulable and labelled and node.gpus >= serving.gpus and all(map(tolerates, hard))


def _tolerates(toleration: Mapping[str, Any], taint: tuple[str, str, str]) -> bool:
    """As Kubernetes decides it; no key and no effect stand for all (k8s.io/api/core/v1, ToleratesTaint)."""
    key, value, effect = taint
    if toleration.get("key") not in (None, "", key) or toleration.get("effect") not in (None, "", effect):
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == value


def _places(need: Need, node: Node) -> int:
    """Return how many pods a node's disk has room for; an image is pulled once, whatever runs there."""
    needed = pod_bytes(need.mode, need.size_bytes) if need.image and node.images_elsewhere else need.node_bytes
    if node.under_pressure or node.room < needed:
        return 0
    return node.room // need.node_bytes if need.mode is Mode.S3 else need.pods


def _too_little(need: Need, best: Node, count: int, places: int) -> str:
    what = f"{_size(need.node_bytes)} in each pod" if need.mode is Mode.S3 else f"{_size(need.node_bytes)} on its node"
    if best.under_pressure:
        found = f"{best.name} is short of disk already (DiskPressure)"
    else:
        promised = "" if not best.requested else f", {_size(best.requested)} of them promised to other pods"
        found = f"the roomiest, {best.name}, has {_size(best.room)} left of {_size(best.allocatable)}{promised}"
    room = f"there is room for {places} of {need.pods} pods" if places else f"none of {count} fitting nodes has that"
    other = "choose delivery oci or oci+native, which keeps one copy a node, " if need.mode is Mode.S3 else ""
    return (
        f"The model needs {what}, and {room}: {found}; {other}free disk there, or add a node with more "
        "ephemeral storage."
    )


def _enough(need: Need, best: Node, able: Sequence[Node]) -> str:
    said = f"Node disk: {_size(need.node_bytes)} needed, {_size(best.room)} free on {best.name}"
    said += f", the roomiest of {len(able)} nodes that have it" if len(able) > 1 else ""
    if best.requested is None:
        return f"{said}; what other pods were promised could not be seen."
    if best.images_elsewhere:
        return f"{said}; its images lie on a disk of their own, which cannot be seen."
    if best.room < need.peak_bytes:
        return f"{said}; while the image is unpacked it may take {_size(need.peak_bytes)}: it may be tight."
    if best.room - best.images_bytes < need.node_bytes:
        return f"{said}, of which its images take up to {_size(best.images_bytes)}: it may be tight."
    return f"{said}."


def _names(nodes: Sequence[Node]) -> str:
    names = [node.name for node in nodes]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more nodes" if len(names) > 3 else "")


def _size(count: int) -> str:
    """Return bytes for a person, in powers of 1024, as kubectl shows them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit in ("B", "KiB") else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
