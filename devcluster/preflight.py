"""May the embedded cluster run here? Says what it will install, use and change, and why it cannot where it cannot."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from devcluster import network, toolchain
from devcluster.config import Cluster

GIB = 1024**3
DISK_COLD_GIB = 30  # measured: 12 GiB of caches at the end, 6 of Go's own, and building needs room beside them
DISK_WARM_GIB = 5
MEMORY_GIB = 8  # measured: 3 GiB at rest, 3 GiB for one vLLM on CPU, 1.5 GiB for Airflow
CGROUP_CONTROLLERS = ("cpu", "memory", "pids")


@dataclass(frozen=True)
class Machine:
    """What the checks look at, so that they can be tested on any machine."""

    system: str
    architecture: str
    uid: int
    controllers: frozenset[str]
    disk_free_bytes: int
    memory_bytes: int
    missing_packages: tuple[str, ...]
    subnet_taken_by: str | None
    cached: bool


def look(cluster: Cluster) -> Machine:
    """Look at this machine; changes nothing."""
    missing = tuple(toolchain.missing_packages())
    existing = next(path for path in (cluster.cache, *cluster.cache.parents) if path.exists())
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        uid=os.getuid(),
        controllers=_controllers(),
        disk_free_bytes=shutil.disk_usage(existing).free,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        missing_packages=missing,
        subnet_taken_by=None if "iproute2" in missing else network.subnet_taken_by(cluster, network.routes()),
        cached=(cluster.bin / "kube").exists() and (cluster.cache / "images" / "runtime-cpu.json").exists(),
    )


def _controllers() -> frozenset[str]:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")  # cgroup v2
    if unified.exists():
        return frozenset(unified.read_text().split())
    mounts = Path("/proc/mounts").read_text().splitlines() if Path("/proc/mounts").exists() else []
    return frozenset(option for line in mounts if line.split()[2] == "cgroup" for option in line.split()[3].split(","))


def refusals(machine: Machine, cluster: Cluster) -> list[str]:
    """Why the cluster cannot run on a machine; one sentence each, with what to do. Pure."""
    found: list[str] = []
    if machine.system != "Linux":
        return [
            f"This is {machine.system}: the embedded cluster needs Linux; "
            "on this machine use CLUSTER=current with a cluster you have."
        ]
    if machine.architecture != "x86_64":
        found.append(
            f"This is {machine.architecture}: the CPU model server is built for x86_64 alone; "
            "use CLUSTER=current with a cluster you have."
        )
    if machine.uid != 0:
        found.append("You are not root: kubelet and containerd need root; run it with sudo, or use CLUSTER=current.")
    lacking = [name for name in CGROUP_CONTROLLERS if name not in machine.controllers]
    if lacking:
        found.append(
            f"The cgroup controllers {', '.join(lacking)} are not available: "
            "mount them, or use a machine where containers run."
        )
    needed = DISK_WARM_GIB if machine.cached else DISK_COLD_GIB
    if machine.disk_free_bytes < needed * GIB:
        free = machine.disk_free_bytes / GIB
        found.append(
            f"{free:.1f} GiB are free under {cluster.cache} and {needed} GiB are needed: "
            "free some, or point AIRFREIGHT_CACHE at a larger disk."
        )
    if machine.memory_bytes < MEMORY_GIB * GIB:
        found.append(
            f"{machine.memory_bytes / GIB:.1f} GiB of memory are there and {MEMORY_GIB} GiB are needed: "
            "use a larger machine."
        )
    if machine.subnet_taken_by:
        found.append(
            f"The subnet {cluster.subnet} overlaps the route {machine.subnet_taken_by}: "
            "set AIRFREIGHT_CLUSTER_SUBNET to a free block of /16."
        )
    return found


def announcement(machine: Machine, cluster: Cluster) -> str:
    """What `up` will do to a machine, how long it takes, and how to undo it. Pure."""
    packages = " ".join(machine.missing_packages) or "nothing, all is there"
    time_words = (
        "under a minute, from the cache" if machine.cached else "about 12 minutes on 2 cores, most of it compiling"
    )
    return f"""\
The embedded cluster: Kubernetes, KServe, MinIO, a registry and vLLM, built from source, in a network of its own.
  installs (Debian packages)  {packages}
  keeps                       {cluster.cache}: about 12 GiB of binaries and images
  uses while it runs          {cluster.state}, /run/airfreight-devcluster, about 3 GiB of memory
  changes                     a network namespace "{cluster.namespace}", a link "{cluster.host_link}",
                              routes for {cluster.subnet}, the kernel settings that kubelet wants
  takes                       {time_words}
  undo                        make down (stops and removes it, puts the settings back), make clean (the caches too)"""
