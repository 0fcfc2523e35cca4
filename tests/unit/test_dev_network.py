"""Whose routes are whose."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from devcluster.config import Cluster
from devcluster.network import FALLBACK_METRIC, inside, subnet_in_use, subnet_taken_by

CLUSTER = Cluster(Path("/cache"), Path("/state"), ipaddress.IPv4Network("198.18.0.0/16"))
# As `ip -json route show` prints them on a machine where the cluster is up.
DEFAULT = {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "flags": []}
HOME = {"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link", "flags": []}
OURS: list[dict[str, Any]] = [
    {"dst": "198.18.0.0/30", "dev": "airfreight-host", "protocol": "kernel", "scope": "link", "flags": []},
    {"dst": "198.18.0.0/16", "gateway": "198.18.0.2", "dev": "airfreight-host", "flags": []},
    {"type": "unreachable", "dst": "198.18.0.0/16", "metric": FALLBACK_METRIC, "flags": []},
]


def test_the_default_route_other_networks_and_our_own_routes_take_nothing() -> None:
    assert subnet_taken_by(CLUSTER, [DEFAULT, HOME]) is None
    assert subnet_taken_by(CLUSTER, [DEFAULT, HOME, *OURS]) is None


@pytest.mark.parametrize(
    "taken", ["198.18.0.0/15", "198.18.0.0/16", "198.18.44.0/24", "198.18.3.4"], ids=["around", "same", "within", "one"]
)
def test_an_overlapping_route_is_named(taken: str) -> None:
    route = {"dst": taken, "dev": "wg0", "flags": []}
    assert subnet_taken_by(CLUSTER, [DEFAULT, route, *OURS]) == f"{taken} dev wg0"


def test_an_overlapping_route_without_a_device_is_named_too() -> None:
    assert subnet_taken_by(CLUSTER, [{"type": "blackhole", "dst": "198.18.0.0/16"}]) == "198.18.0.0/16 dev -"


def test_a_cluster_of_ours_is_recognised_whatever_the_settings_say() -> None:
    other = [{"type": "unreachable", "dst": "10.77.0.0/16", "metric": FALLBACK_METRIC, "flags": []}]
    assert subnet_in_use([DEFAULT, HOME, *other]) == ipaddress.IPv4Network("10.77.0.0/16")
    assert subnet_in_use([DEFAULT, HOME]) is None


def test_an_unreachable_route_of_somebody_else_is_not_ours() -> None:
    theirs = {"type": "unreachable", "dst": "198.18.0.0/16", "metric": 100}
    assert subnet_in_use([theirs]) is None
    assert subnet_taken_by(CLUSTER, [theirs]) == "198.18.0.0/16 dev -"


def test_a_command_inside_enters_the_network_alone() -> None:
    assert inside(CLUSTER, ["ip", Path("/x")]) == ["nsenter", "--net=/run/netns/airfreight", "ip", "/x"]
