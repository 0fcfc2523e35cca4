"""What a cluster is asked, from objects as the API gives them; what one may not see stays unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airfreight.cluster import Resource
from airfreight.cluster_facts import delivery_facts, image_volume_pod, node_facts, version_of
from airfreight.errors import RequestError

GI = 2**30
Thing = dict[str, Any]


def node(name: str = "a", runtime: str = "containerd://2.1.4", **spec: Any) -> Thing:
    return {
        "metadata": {"name": name, "labels": {"zone": "x"}},
        "spec": spec,
        "status": {
            "allocatable": {"ephemeral-storage": "100Gi", "nvidia.com/gpu": "2"},
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}],
            "images": [{"names": ["r/a@sha256:1", "r/a:v1"], "sizeBytes": 7}, {"sizeBytes": 5}],
            "nodeInfo": {"containerRuntimeVersion": runtime},
        },
    }


def pod(on: str, *requests: str, init: str = "") -> Thing:
    def container(request: str) -> Thing:
        return {"resources": {"requests": {"ephemeral-storage": request}}} if request else {}

    return {
        "spec": {
            "nodeName": on,
            "containers": [container(one) for one in requests],
            "initContainers": [container(init)],
        }
    }


class FakeCluster:
    """Answers by plural; what is in `hidden` may not be read. `refusal` is what the image volume's pod is told."""

    def __init__(self, **things: Any) -> None:
        config = {"storageInitializer": json.dumps({"enableModelcar": True, "uidModelcar": 1010})}
        labels = {"pod-security.kubernetes.io/enforce": "baseline"}
        self.things = {
            "configmaps": {"data": config}, "namespaces": {"metadata": {"labels": labels}},
            "nodes": [node()], "pods": [],
        } | things  # fmt: skip
        self.hidden: set[str] = set()
        self.refusal = ""
        self.drops_images = False

    def _see(self, resource: Resource) -> Any:
        if resource.plural in self.hidden:
            raise RequestError(f"The user jo may not read {resource.plural} in this cluster.")
        return self.things[resource.plural]

    def get(self, resource: Resource, namespace: str | None, name: str) -> Any:
        assert name in {"inferenceservice-config", "models"}
        return self._see(resource)

    def items(self, resource: Resource, namespace: str | None = None, selector: str = "", *, fields: str = "") -> Any:
        assert namespace is None and (resource.plural == "nodes" or "status.phase!=Succeeded" in fields)
        return self._see(resource)

    def version(self) -> Thing:
        return {"major": "1", "minor": "34+"}

    def rehearse(self, resource: Resource, wanted: Thing) -> Thing:
        if self.refusal:
            raise RequestError(self.refusal)
        return {**wanted, "spec": {"volumes": []}} if self.drops_images else wanted


def facts(cluster: FakeCluster) -> Any:
    return delivery_facts(cluster, "models")  # type: ignore[arg-type]


def test_everything_is_seen() -> None:
    found = facts(FakeCluster(nodes=[node(), node("old", "containerd://1.7.2"), node("away", unschedulable=True)]))
    assert (found.oci_mode, found.version, found.image_volumes) == ("modelcar", (1, 34), True)
    assert (found.old_nodes, found.new_nodes) == (("old: containerd://1.7.2",), 1)
    assert found.pod_security == "baseline" and found.has_base is None


def test_what_may_not_be_seen_is_unknown() -> None:
    cluster = FakeCluster()
    cluster.hidden = {"configmaps", "namespaces", "nodes", "pods"}
    cluster.refusal = "The service account airfreight-deployer of namespace airfreight may not create pods."
    found = facts(cluster)
    assert (found.oci_mode, found.image_volumes, found.pod_security, found.old_nodes) == (None, None, None, ())
    assert node_facts(cluster) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refusal", "takes"),
    [
        ('Pod "x" is invalid: spec.volumes[0]: Required value: must specify a volume type', False),
        ("spec.containers[0].volumeMounts[0].subPath: Invalid value: not allowed in image volume sources", False),
        ('pods "x" is forbidden: exceeded quota: compute', None),
    ],
)
def test_image_volumes_are_off_only_where_the_server_says_so(refusal: str, takes: bool | None) -> None:
    cluster = FakeCluster()
    cluster.refusal = refusal
    assert facts(cluster).image_volumes is takes


def test_a_server_that_drops_the_image_silently() -> None:
    cluster = FakeCluster()
    cluster.drops_images = True
    assert facts(cluster).image_volumes is False


def test_the_rehearsed_pod_would_pass_as_restricted() -> None:
    spec = image_volume_pod("models")["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["containers"][0]["securityContext"]["capabilities"]


def test_a_configuration_that_does_not_parse_is_an_error() -> None:
    with pytest.raises(
        RequestError, match="KServe's ConfigMap inferenceservice-config in namespace kserve cannot be read"
    ):
        facts(FakeCluster(configmaps={"data": {"storageInitializer": "{"}}))


def test_a_namespace_without_a_level() -> None:
    assert facts(FakeCluster(namespaces={"metadata": {}})).pod_security == ""


def test_nodes_and_what_is_promised_on_them() -> None:
    pods = [pod("a", "1Gi", "2Gi"), pod("a", "1Gi", init="5Gi"), pod("b", "9Gi"), pod("a", "")]
    (found,) = node_facts(FakeCluster(nodes=[node(taints=[{"key": "gpu", "effect": "NoSchedule"}])], pods=pods)) or []  # type: ignore[arg-type]
    assert found.requested == 8 * GI, "an init container counts where it asks for more than the others together"
    assert found.room == 92 * GI and found.gpus == 2 and found.labels == {"zone": "x"}
    assert found.taints == (("gpu", "", "NoSchedule"),)
    assert found.has("r/a@sha256:1") and found.images_bytes == 12
    assert found.schedulable and not found.under_pressure


def test_pods_that_may_not_be_listed() -> None:
    cluster = FakeCluster()
    cluster.hidden = {"pods"}
    (found,) = node_facts(cluster) or []  # type: ignore[arg-type]
    assert found.requested is None and found.room == 100 * GI


def test_versions() -> None:
    assert version_of({"major": "1", "minor": "33+"}) == (1, 33)
    assert version_of({}) == (0, 0)
