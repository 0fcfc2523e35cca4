"""What kubelet and containerd leave behind when they end, and its removal.

Left are shims, the pods' processes, mounts, cgroups, the pods' network namespaces, and files outside the cluster's own
directories. All of it is recognised as ours, for another Kubernetes may run on the machine, and all of it may be there
after the daemons were killed. Safe at any time once they have ended.
"""

from __future__ import annotations

import ipaddress
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from devcluster import mounts
from devcluster.config import Cluster
from devcluster.network import namespace_path
from devcluster.node import POD_NETWORK, RUN, SOCKET, pod_logs
from devcluster.shell import run, succeeds, wait_until

NAMESPACES = Path("/run/netns")
BUNDLES = RUN / "containerd" / "io.containerd.runtime.v2.task" / "k8s.io"  # one directory per container
RUNC = Path("/run/containerd/runc/k8s.io")  # where the shim lets runc keep its state, whatever containerd's own place


def remove(cluster: Cluster) -> None:
    """Clear everything of ours; what is not there is not missed."""
    handles = [handle for handle in NAMESPACES.glob("cni-*") if _is_ours(cluster, handle)]
    _end_processes([namespace_path(cluster), *handles])
    _remove_runtime_state()
    mounts.remove_tree(RUN)
    mounts.unmount_below(cluster.state)
    mounts.unmount_below(cluster.cache / "buildah")  # its storage stays mounted onto itself after it has built
    for handle in handles:
        run(["ip", "netns", "delete", handle.name])
    _remove_cgroups()
    _remove_files(cluster)


def _end_processes(namespaces: list[Path]) -> None:
    """End our containerd's shims with their descendants, and whatever else is in our network namespaces.

    A container whose shim was killed is nobody's descendant, but still in its pod's namespace.
    """
    ours = {_identity(path) for path in namespaces} - {None, _identity(Path("/proc/self/ns/net"))}
    shims = [pid for pid in _processes() if _is_shim(pid)]
    victims = {*shims, *(child for shim in shims for child in _descendants(shim))}
    victims |= {pid for pid in _processes() if _identity(Path(f"/proc/{pid}/ns/net")) in ours}
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until("the end of the pods' processes", lambda: not any(map(_is_alive, victims)), timeout_s=20, poll_s=0.05)


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _is_shim(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"containerd-shim" in command and str(SOCKET).encode() in command


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield from _descendants(child)
            yield child


def _identity(namespace: Path) -> tuple[int, int] | None:
    """What two paths to one namespace have in common; None where there is none any more."""
    try:
        found = namespace.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_alive(pid: int) -> bool:
    """A zombie has ended: it waits for a parent that is not ours to wait for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _remove_runtime_state() -> None:
    """What shims and runc keep in directories that another containerd may share: our containers' parts of them."""
    for bundle in BUNDLES.glob("*"):
        mounts.remove_tree(RUNC / bundle.name)
        try:
            address = json.loads((bundle / "bootstrap.json").read_text())["address"]
        except (OSError, ValueError, KeyError):  # killed while it was being made
            continue
        Path(address.removeprefix("unix://")).unlink(missing_ok=True)


def _is_ours(cluster: Cluster, handle: Path) -> bool:
    """Whether a pod's network namespace belongs to our pods: it has addresses, and they lie in our subnet."""
    if not succeeds(["nsenter", f"--net={handle}", "true"]):
        return False
    links = json.loads(run(["nsenter", f"--net={handle}", "ip", "-json", "-4", "address"]))
    addresses = [info["local"] for link in links if link.get("ifname") != "lo" for info in link.get("addr_info", [])]
    return bool(addresses) and all(ipaddress.ip_address(address) in cluster.subnet for address in addresses)


def _remove_cgroups() -> None:
    """Remove kubelet's empty cgroups, deepest first; on cgroup v1 in every hierarchy."""
    root = Path("/sys/fs/cgroup")
    for top in (*root.glob("kubepods"), *root.glob("*/kubepods")):
        below = [path for path in top.rglob("*") if path.is_dir()]
        for directory in sorted((top, *below), key=lambda path: len(path.parts), reverse=True):
            try:
                directory.rmdir()
            except OSError:  # somebody is in it: another kubelet's, or a process that is just ending
                continue


def _remove_files(cluster: Cluster) -> None:
    """The CNI library's notes on our networks, and kubelet's links to logs that are gone with the state directory."""
    for note in Path("/var/lib/cni/results").glob(f"{POD_NETWORK}-*"):
        pod = note.name.removeprefix(f"{POD_NETWORK}-").rpartition("-")[0]
        note.unlink()
        (note.parent / f"cni-loopback-{pod}-lo").unlink(missing_ok=True)
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(pod_logs(cluster)):
            link.unlink()
