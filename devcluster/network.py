"""The network namespace the whole cluster lives in.

One veth pair joins it to the host. There is no default route in it and the host forwards nothing for it, so nothing inside
can reach anything but the host's end of the pair. On the host, the cluster's subnet has a route to the node and, behind it, an
"unreachable" route that stays while the namespace comes and goes: a packet meant for the cluster must never follow the
host's default route out of the machine.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from devcluster.config import Cluster
from devcluster.shell import run, succeeds

FALLBACK_METRIC = "4000000000"  # after every other route


def namespace_path(cluster: Cluster) -> Path:
    """Where iproute2 keeps the namespace's handle."""
    return Path("/run/netns") / cluster.namespace


def inside(cluster: Cluster, command: Sequence[str | Path]) -> list[str]:
    """The command line that runs a command in the cluster's network namespace.

    nsenter, because `ip netns exec` remounts /sys and hides the cgroup mounts from kubelet.
    """
    return ["nsenter", f"--net={namespace_path(cluster)}", *(str(word) for word in command)]


def create(cluster: Cluster) -> str:
    """Make namespace, veth pair, addresses and routes; what is already there is left."""
    subnet, node, host = str(cluster.subnet), cluster.node_ip, cluster.host_ip
    run(["ip", "route", "replace", "unreachable", subnet, "metric", FALLBACK_METRIC])
    if not namespace_path(cluster).exists():
        run(["ip", "netns", "add", cluster.namespace])
    if not succeeds(["ip", "link", "show", cluster.host_link]):
        run(["ip", "link", "add", cluster.host_link, "type", "veth", "peer", "name", cluster.node_link,
             "netns", cluster.namespace])  # fmt: skip
        run(["ip", "address", "add", f"{host}/{cluster.link.prefixlen}", "dev", cluster.host_link])
        run(inside(cluster, ["ip", "address", "add", f"{node}/{cluster.link.prefixlen}", "dev", cluster.node_link]))
    run(["ip", "link", "set", cluster.host_link, "up"])
    run(inside(cluster, ["ip", "link", "set", "lo", "up"]))
    run(inside(cluster, ["ip", "link", "set", cluster.node_link, "up"]))
    run(["ip", "route", "replace", subnet, "via", node])
    # Service addresses exist only in kube-proxy's rules. Linux looks for a route before it applies them, so give it one;
    # an address without a rule ends here, unanswered.
    run(inside(cluster, ["ip", "route", "replace", str(cluster.services), "dev", cluster.node_link, "src", node]))
    run(inside(cluster, ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]))
    return f"node {node}, host {host}"


def remove(cluster: Cluster) -> None:
    """Remove namespace and veth pair, then the routes; what is not there is not missed."""
    if namespace_path(cluster).exists():
        run(["ip", "netns", "delete", cluster.namespace])
    if succeeds(["ip", "link", "show", cluster.host_link]):
        run(["ip", "link", "delete", cluster.host_link])
    subnet = str(cluster.subnet)
    for route in _routes():
        if route.get("dst") == subnet:
            kind = ["unreachable"] if route.get("type") == "unreachable" else []
            run(["ip", "route", "delete", *kind, subnet, *(["metric", FALLBACK_METRIC] if kind else [])])


def _routes() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run(["ip", "-json", "route", "show"]) or "[]")
    return found


def subnet_taken_by(cluster: Cluster) -> str | None:
    """A route of somebody else's that overlaps the cluster's subnet, or None."""
    for route in _routes():
        if route.get("dst") in (None, "default", str(cluster.subnet)) or route.get("dev") == cluster.host_link:
            continue
        if ipaddress.ip_network(route["dst"], strict=False).overlaps(cluster.subnet):
            return f"{route['dst']} dev {route.get('dev', '-')}"
    return None
