"""The cluster's own directories on the machine, and their removal; a directory of somebody else's is never removed."""

from __future__ import annotations

from devcluster import daemons
from devcluster.config import Cluster
from devcluster.mounts import remove_tree
from devcluster.shell import DevClusterError

# What lies in the cache. `clean` removes these and no others: AIRFREIGHT_CACHE may name a directory with other things.
CACHED = (
    "bin",
    "binaries",
    "buildah",
    "containerd",
    "current-airflow",
    "engine",
    "images",
    "logs",
    "registry",
    "scratch",
    "tools",
    "ui",
    "wheels",
)


def claim(cluster: Cluster) -> None:
    """Make the state directory, or find it ours by its `boot_id`.

    Raises:
        DevClusterError: it holds something else; `down` would remove that.
    """
    _refuse_foreign(cluster)
    daemons.begin(cluster)


def remove(cluster: Cluster) -> None:
    """Remove the state directory.

    Raises:
        DevClusterError: it is not ours.
    """
    _refuse_foreign(cluster)
    remove_tree(cluster.state)


def _refuse_foreign(cluster: Cluster) -> None:
    if cluster.state.exists() and any(cluster.state.iterdir()) and not (cluster.state / "boot_id").exists():
        raise DevClusterError(
            f"{cluster.state} holds files that are not the embedded cluster's: "
            "point AIRFREIGHT_CLUSTER_STATE at a new directory."
        )


def forget_cache(cluster: Cluster) -> None:
    """Remove the caches, and their directory when nothing else is in it."""
    for name in CACHED:
        remove_tree(cluster.cache / name)
    if cluster.cache.exists() and not any(cluster.cache.iterdir()):
        cluster.cache.rmdir()
