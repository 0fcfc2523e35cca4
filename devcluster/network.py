"""The network namespace the whole cluster lives in.

One veth pair joins it to the host. There is no default route in it and the host forwards nothing for it, so nothing
inside can reach anything but the host's end of the pair. On the host, the cluster's subnet has a route to the node and,
behind it, an "unreachable" route that stays while the namespace comes and goes: a packet meant for the cluster must
never follow the host's default route out of the machine.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from devcluster.config import Cluster
from devcluster.shell import Words, run, succeeds

FALLBACK_METRIC = 4_000_000_000  # after every other route; also the sign by which the route is recognised as ours
Routes = Iterable[Mapping[str, Any]]


def namespace_path(cluster: Cluster) -> Path:
    """Where iproute2 keeps the namespace's handle."""
    return Path("/run/netns") / cluster.namespace


def inside(cluster: Cluster, command: Words) -> list[str]:
    """The command line that runs a command in the cluster's network namespace.

    nsenter, because `ip netns exec` remounts /sys and hides the cgroup mounts from kubelet.
    """
    return ["nsenter", f"--net={namespace_path(cluster)}", *(str(word) for word in command)]


def create(cluster: Cluster) -> str:
    """Make namespace, veth pair, addresses and routes; what is already there is left."""
    subnet, node, host = str(cluster.subnet), cluster.node_ip, cluster.host_ip
    length = cluster.link.prefixlen
    run(["ip", "route", "replace", "unreachable", subnet, "metric", str(FALLBACK_METRIC)])
    if not namespace_path(cluster).exists():
        run(["ip", "netns", "add", cluster.namespace])
    if not succeeds(["ip", "link", "show", cluster.host_link]):
        run(["ip", "link", "add", cluster.host_link, "type", "veth", "peer", "name", cluster.node_link,
             "netns", cluster.namespace])  # fmt: skip
    run(["ip", "address", "replace", f"{host}/{length}", "dev", cluster.host_link])
    run(inside(cluster, ["ip", "address", "replace", f"{node}/{length}", "dev", cluster.node_link]))
    run(["ip", "link", "set", cluster.host_link, "up"])
    run(inside(cluster, ["ip", "link", "set", "lo", "up"]))
    run(inside(cluster, ["ip", "link", "set", cluster.node_link, "up"]))
    run(["ip", "route", "replace", subnet, "via", node])
    # Service addresses exist only in kube-proxy's rules. Linux looks for a route before it applies them, so give it
    # one; an address without a rule ends here, unanswered.
    run(inside(cluster, ["ip", "route", "replace", str(cluster.services), "dev", cluster.node_link, "src", node]))
    run(inside(cluster, ["tee", "/proc/sys/net/ipv4/ip_forward"]), stdin="1")  # of this namespace alone
    return f"node {node}, host {host}"


def remove(cluster: Cluster) -> None:
    """Remove namespace and veth pair, and with it the pair's routes, then the unreachable route; in any state."""
    if namespace_path(cluster).exists():
        run(["ip", "netns", "delete", cluster.namespace])
    if succeeds(["ip", "link", "show", cluster.host_link]):
        run(["ip", "link", "delete", cluster.host_link])
    if subnet := subnet_in_use(routes()):
        run(["ip", "route", "delete", "unreachable", str(subnet), "metric", str(FALLBACK_METRIC)])


def routes() -> list[dict[str, Any]]:
    """The host's IPv4 routes as `ip -json route show` prints them: dst, dev, metric, type, …"""
    found: list[dict[str, Any]] = json.loads(run(["ip", "-json", "route", "show"]) or "[]")
    return found


def subnet_in_use(found: Routes) -> ipaddress.IPv4Network | None:
    """The subnet of the cluster that is on this machine, whatever the settings say now; None without one. Pure."""
    for route in found:
        if route.get("type") == "unreachable" and route.get("metric") == FALLBACK_METRIC:
            return ipaddress.IPv4Network(route["dst"])
    return None


def subnet_taken_by(cluster: Cluster, found: Routes) -> str | None:
    """A route of somebody else's that overlaps the cluster's subnet, as "10.0.0.0/8 dev eth0", or None. Pure."""
    for route in found:
        ours = route.get("dev") == cluster.host_link or route.get("metric") == FALLBACK_METRIC
        if ours or route.get("dst") in (None, "default"):
            continue
        if ipaddress.ip_network(route["dst"], strict=False).overlaps(cluster.subnet):
            return f"{route['dst']} dev {route.get('dev', '-')}"
    return None
