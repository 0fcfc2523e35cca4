"""Airfreight's own objects on the embedded cluster: the overlay with which the models' DNS is installed."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight.egress import LOOKUPS_PORT, RESOLVER_LABELS, RESOLVER_PORT
from devcluster import tenant
from devcluster.config import Cluster

CLUSTER = Cluster(Path("/cache"), Path("/state"), ipaddress.IPv4Network("198.18.0.0/16"))
SHIPPED = tenant.MANIFESTS / "resolver" / "resolver.yaml"


def shipped(kind: str) -> Any:
    return next(item for item in yaml.safe_load_all(SHIPPED.read_text()) if item["kind"] == kind)


@pytest.fixture
def overlay(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(tenant.images, "reference", lambda _cluster, name: f"registry:5000/{name}@sha256:1")
    return tenant.resolver_overlay(CLUSTER, "../include/kubernetes/resolver")


def test_the_resolver_is_installed_as_a_site_would(overlay: dict[str, Any]) -> None:
    assert overlay["resources"] == ["../include/kubernetes/resolver"]
    (image,) = overlay["images"]
    assert image == {"name": "airfreight-worker", "newName": "registry:5000/worker", "digest": "sha256:1"}
    assert shipped("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"] == image["name"]


def test_its_patches_meet_what_is_shipped(overlay: dict[str, Any]) -> None:
    patches = {one["target"]["kind"]: json.loads(one["patch"]) for one in overlay["patches"]}
    arguments = shipped("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    for patch in patches["Deployment"]:
        at = int(patch["path"].rpartition("/")[2])
        assert arguments[at].partition("=")[0] == patch["value"].partition("=")[0], "the same option"
    assert [patch["value"] for patch in patches["Deployment"]] == [
        "--allow=minio.minio.svc.cluster.local", "--upstream=198.18.16.10",
    ]  # fmt: skip
    assert patches["Service"] == [{"op": "add", "path": "/spec/clusterIP", "value": "198.18.16.53"}]


def test_policies_and_gate_know_the_resolvers_labels_and_ports() -> None:
    template = shipped("Deployment")["spec"]["template"]
    assert RESOLVER_LABELS.items() <= template["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert ports == {"dns": RESOLVER_PORT, "dns-tcp": RESOLVER_PORT, "lookups": LOOKUPS_PORT}
    services = {port["name"]: port["port"] for port in shipped("Service")["spec"]["ports"]}
    assert services == {"dns": 53, "dns-tcp": 53, "lookups": LOOKUPS_PORT}
