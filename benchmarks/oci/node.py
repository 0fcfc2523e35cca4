"""The embedded cluster's node, as a benchmark needs it: what it wrote, when a container began, and how it forgets an
image. All of it is read on the machine itself, since the node's processes are this machine's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx2

from devcluster import daemons
from devcluster.config import Cluster
from devcluster.node import RUN, SOCKET

TASKS = RUN / "containerd" / "io.containerd.runtime.v2.task" / "k8s.io"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"
REMOVE_IMAGE = "/runtime.v1.ImageService/RemoveImage"
REMOVE_TIMEOUT_S = 60


def written_by(pid: int) -> int:
    """Return the bytes that a process, and the children it has buried, gave to file systems on disk."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise RuntimeError(f"/proc/{pid}/io has no write_bytes: the kernel lacks CONFIG_TASK_IO_ACCOUNTING.")


def written_by_containerd(cluster: Cluster) -> int:
    """Return the bytes containerd has written since it started: what it pulled, and what it unpacked of that.

    Raises:
        DevClusterError: containerd has ended.
    """
    daemons.check_alive(cluster, "containerd")
    return written_by(daemons.pid_of(cluster, "containerd") or 0)


def written_by_pod(container: str) -> int:
    """Return the bytes that those containers of a pod wrote that have ended, its init containers foremost.

    The shim of the pod is the parent of all its containers, and buries them.

    Args:
        container: id of one that runs.
    """
    pid = int((TASKS / container / "init.pid").read_text())
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return written_by(next(int(line.split()[1]) for line in status if line.startswith("PPid:")))


def began_at(container: str) -> float:
    """Return when a container's process was made, in seconds of the Unix epoch. Pods tell only whole seconds."""
    return (TASKS / container / "init.pid").stat().st_mtime


def forget_image(image: str) -> None:
    """Remove an image from containerd, by the kubelet's own interface (CRI); layers nobody else has go with it. One
    that is not there is no error.

    Args:
        image: `registry/repository@sha256:...`, as a pod names it.
    """
    spec = _field(image.encode())  # ImageSpec.image and RemoveImageRequest.image are both field 1
    with grpc.insecure_channel(f"unix://{SOCKET}") as channel:
        remove = channel.unary_unary(REMOVE_IMAGE, request_serializer=bytes, response_deserializer=bytes)
        remove(_field(spec), timeout=REMOVE_TIMEOUT_S)


def forget_repository(cluster: Cluster, image: str, prefix: str) -> None:
    """Remove an image from the cluster's registry, with all repositories beside it and those layers that are one file
    of a prefix.

    docker-registry gives no space back while it runs, so its files are removed. Only what this run alone can have is:
    layers of random bytes.

    Args:
        image: `registry/repository@sha256:...`; the repository's first part is this run's own.
        prefix: of the names of files with random bytes.
    """
    repository, _, digest = image.partition("/")[2].partition("@")
    url = f"http://{cluster.registry}/v2/{repository}/manifests/{digest}"
    with httpx2.Client(trust_env=False, timeout=30) as client:
        manifest = client.get(url, headers={"Accept": MANIFEST}).raise_for_status().json()
        client.delete(url).raise_for_status()
    storage = cluster.cache / "registry" / "docker" / "registry" / "v2"
    for layer in random_layers(manifest, prefix):
        shutil.rmtree(storage / "blobs" / "sha256" / layer[:2] / layer)
    shutil.rmtree(storage / "repositories" / repository.partition("/")[0])


def random_layers(manifest: dict[str, Any], prefix: str) -> list[str]:
    """Return the sha256 of an image's layers that hold one file whose name begins so."""
    return [
        str(layer["digest"]).removeprefix("sha256:")
        for layer in manifest["layers"]
        if layer.get("annotations", {}).get(TITLE, "").startswith(prefix)
    ]


def _field(value: bytes) -> bytes:
    """Return field 1 of a protobuf message, of a type with a length: that as a varint, seven bits a byte, then it."""
    length, left = b"", len(value)
    while left > 0x7F:
        length, left = length + bytes([left & 0x7F | 0x80]), left >> 7
    return b"\x0a" + length + bytes([left]) + value
