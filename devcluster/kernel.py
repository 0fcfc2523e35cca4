"""Settings of the machine's kernel that kubelet changes, remembered before it starts and put back by `down`."""

from __future__ import annotations

import json
from pathlib import Path

from devcluster.config import Cluster

# Source: setupKernelTunables in Kubernetes' pkg/kubelet/cm/container_manager_linux.go.
SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
ROOT = Path("/proc/sys")


def _record(cluster: Cluster) -> Path:
    return cluster.state / "kernel-settings.json"


def remember(cluster: Cluster, root: Path = ROOT) -> None:
    """Note the settings as they are, once in a cluster's life: the second time kubelet has been at them."""
    if not _record(cluster).exists():
        found = {name: (root / name).read_text().strip() for name in SETTINGS if (root / name).exists()}
        _record(cluster).write_text(json.dumps(found))


def put_back(cluster: Cluster, root: Path = ROOT) -> None:
    """Set what differs from the note; without one nothing is known and nothing changed."""
    if not _record(cluster).exists():
        return
    for name, value in json.loads(_record(cluster).read_text()).items():
        if (root / name).exists() and (root / name).read_text().strip() != value:
            (root / name).write_text(value)
