"""What containerd is told about the cluster's registry."""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path

import pytest

from devcluster import node
from devcluster.config import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path / "cache", tmp_path / "state", ipaddress.IPv4Network("10.77.0.0/16"))


def test_the_registry_is_spoken_plain_http_with_by_either_of_its_names(cluster: Cluster) -> None:
    directory = node._write_registry_hosts(cluster)
    for name in ("10.77.0.2:5000", "127.0.0.1:5000"):
        found = tomllib.loads((directory / name / "hosts.toml").read_text())
        assert found == {
            "server": f"http://{name}",
            "host": {f"http://{name}": {"capabilities": ["pull", "resolve"]}},
        }


def test_writing_them_again_changes_nothing(cluster: Cluster) -> None:
    first = node._write_registry_hosts(cluster)
    assert node._write_registry_hosts(cluster) == first
    assert len(list(first.glob("*/hosts.toml"))) == 2
