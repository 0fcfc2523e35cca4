"""Where the embedded cluster lies and which addresses it has."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from devcluster.config import Cluster
from devcluster.shell import DevClusterError


def made(subnet: str) -> Cluster:
    """A cluster from an environment that names nothing but its subnet."""
    return Cluster.from_environment({"AIRFREIGHT_CLUSTER_SUBNET": subnet, "XDG_CACHE_HOME": "/caches"})


def test_every_address_is_derived_from_the_subnet() -> None:
    cluster = made("10.77.0.0/16")
    assert (cluster.host_ip, cluster.node_ip) == ("10.77.0.1", "10.77.0.2")
    assert str(cluster.services) == "10.77.16.0/20"
    assert str(cluster.pods) == "10.77.32.0/20"
    assert cluster.api_service_ip == "10.77.16.1"  # Kubernetes takes the first for itself
    assert cluster.dns_ip == "10.77.16.10"
    assert cluster.api_url == "https://10.77.0.2:6443"
    assert cluster.registry == "10.77.0.2:5000"
    assert cluster.store_url == "http://10.77.0.2:30900"


@pytest.mark.parametrize("subnet", ["198.18.0.0/16", "10.0.0.0/8", "172.16.0.0/12"])
def test_the_parts_lie_in_the_subnet_and_apart(subnet: str) -> None:
    cluster = made(subnet)
    parts = [cluster.link, cluster.services, cluster.pods]
    assert all(part.subnet_of(cluster.subnet) for part in parts)
    assert not any(one.overlaps(other) for one in parts for other in parts if one is not other)


def test_a_subnet_that_is_too_small_is_refused() -> None:
    sentence = (
        r"^AIRFREIGHT_CLUSTER_SUBNET is 10\.1\.0\.0/17: give a block of /16 or larger, such as 198\.18\.0\.0/16\.$"
    )
    with pytest.raises(DevClusterError, match=sentence):
        made("10.1.0.0/17")


@pytest.mark.parametrize("text", ["ten", "10.1.2.3/16", "fd00::/16"])
def test_what_is_no_block_is_refused(text: str) -> None:
    with pytest.raises(
        DevClusterError, match=f"^AIRFREIGHT_CLUSTER_SUBNET is {text}, which is no IPv4 block: give one"
    ):
        made(text)


def test_the_defaults() -> None:
    cluster = Cluster.from_environment({"XDG_CACHE_HOME": "/caches"})
    assert cluster.cache == Path("/caches/airfreight")
    assert cluster.state == Path("/var/lib/airfreight-devcluster")
    assert cluster.subnet == ipaddress.IPv4Network("198.18.0.0/16")


def test_an_empty_variable_is_an_absent_one_and_never_the_working_directory() -> None:
    empty = {"AIRFREIGHT_CACHE": "", "AIRFREIGHT_CLUSTER_STATE": "", "AIRFREIGHT_CLUSTER_SUBNET": ""}
    assert Cluster.from_environment({**empty, "XDG_CACHE_HOME": "/caches"}) == Cluster.from_environment(
        {"XDG_CACHE_HOME": "/caches"}
    )


def test_places_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = Cluster.from_environment({"AIRFREIGHT_CACHE": "cache", "AIRFREIGHT_CLUSTER_STATE": "state"})
    assert (cluster.cache, cluster.state) == (tmp_path / "cache", tmp_path / "state")


def test_a_proxy_of_the_shell_does_not_come_between() -> None:
    names = made("10.77.0.0/16").no_proxy.split(",")
    assert {"10.77.0.2", "10.77.0.1", "10.77.0.0/16", "127.0.0.1", ".svc"} <= set(names)
