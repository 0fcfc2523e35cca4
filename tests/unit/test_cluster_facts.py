"""What a cluster is asked, from objects as the API gives them; what one may not see stays unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airfreight.cluster import Resource
from airfreight.cluster_facts import (
    delivery_facts,
    image_volume_pod,
    live_mode,
    mounts_images,
    node_facts,
    read_oci_mode,
    runtime_spec,
    version_of,
)
from airfreight.delivery import Mode
from airfreight.errors import RequestError
from airfreight.serving import Serving

GI = 2**30
Thing = dict[str, Any]


def node(
    name: str = "a",
    runtime: str = "containerd://2.1.4",
    gpus: int = 2,
    ready: bool = True,
    zone: str = "x",
    **spec: Any,
) -> Thing:
    return {
        "metadata": {"name": name, "labels": {"zone": zone}},
        "spec": spec,
        "status": {
            "allocatable": {"ephemeral-storage": "100Gi", "nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": str(ready)}, {"type": "DiskPressure", "status": "False"}],
            "images": [{"names": ["r/a@sha256:1", "r/a:v1"], "sizeBytes": 7}, {"sizeBytes": 5}],
            "nodeInfo": {"containerRuntimeVersion": runtime},
        },
    }


def pod(on: str, *requests: str, init: str = "", of: str = "", namespace: str = "models") -> Thing:
    def container(request: str) -> Thing:
        return {"resources": {"requests": {"ephemeral-storage": request}}} if request else {}

    return {
        "metadata": {"namespace": namespace, "labels": {"serving.kserve.io/inferenceservice": of} if of else {}},
        "spec": {
            "nodeName": on,
            "containers": [container(one) for one in requests],
            "initContainers": [container(init)],
        },
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
        assert name in {"inferenceservice-config", "models", "pong"}
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


def facts(cluster: FakeCluster, serving: Serving | None = None, runtime: Thing | None = None) -> Any:
    return delivery_facts(cluster, "models", serving, runtime)  # type: ignore[arg-type]


def test_everything_is_seen() -> None:
    found = facts(FakeCluster(nodes=[node(), node("old", "containerd://1.7.2"), node("away", unschedulable=True)]))
    assert (found.oci_mode, found.version, found.image_volumes) == ("modelcar", (1, 34), True)
    assert (found.old_nodes, found.new_nodes) == (("old with containerd://1.7.2",), 1)
    assert found.pod_security == "baseline" and found.has_base is None


OLD = "containerd://1.7.27"
TAINT = [{"key": "gpu", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    ("wanted", "old", "new"),
    [
        ({}, ["gpu-1", "gpu-2"], 2),
        ({"gpus": 1}, ["gpu-1", "gpu-2"], 1),
        ({"gpus": 1, "node_selector": ["zone=old"]}, ["gpu-1", "gpu-2"], 0),
        ({"gpus": 1, "node_selector": ["zone=x"]}, [], 1),
        ({"gpus": 4, "tolerations": ["gpu:NoSchedule"]}, ["tainted"], 0),
    ],
)
def test_only_the_nodes_that_may_run_the_model_say_what_can_be_mounted(
    wanted: dict[str, Any], old: list[str], new: int
) -> None:
    """One new node anywhere is nothing to a model that cannot come there."""
    cluster = FakeCluster(
        nodes=[
            node("cpu", gpus=0), node("gpu-1", OLD, zone="old"), node("gpu-2", OLD, zone="old"), node("gpu-3"),
            node("tainted", OLD, gpus=4, taints=TAINT), node("down", OLD, ready=False),
        ]
    )  # fmt: skip
    found = facts(cluster, Serving(**wanted))
    assert (list(found.old_nodes), found.new_nodes) == ([f"{name} with {OLD}" for name in old], new)


@pytest.mark.parametrize(
    ("wanted", "runtime", "old"),
    [
        ([], {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, []),
        ([], {"tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {"zone": "old"}}, ["gpu-2"]),
        ([], {}, ["cpu", "gpu-2"]),
        (["other:NoSchedule"], {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, ["cpu", "gpu-2"]),
    ],
)
def test_a_runtime_says_too_which_nodes_count(wanted: list[str], runtime: Thing, old: list[str]) -> None:
    """And what the model tolerates stands for what its runtime does."""
    cluster = FakeCluster(
        nodes=[node("cpu", OLD, gpus=0), node("gpu-1", taints=TAINT), node("gpu-2", OLD, zone="old", taints=TAINT)]
    )
    if old == []:
        cluster.things["nodes"].pop()
    found = facts(cluster, Serving(gpus=1, tolerations=wanted), runtime)
    assert list(found.old_nodes) == [f"{name} with {OLD}" for name in old]


def test_the_specification_of_a_runtime() -> None:
    cluster = FakeCluster(servingruntimes={"spec": {"nodeSelector": {"a": "b"}}})
    assert runtime_spec(cluster, "models", "pong") == {"nodeSelector": {"a": "b"}}  # type: ignore[arg-type]
    cluster.hidden = {"servingruntimes"}
    assert runtime_spec(cluster, "models", "pong") == {}  # type: ignore[arg-type]
    assert runtime_spec(FakeCluster(servingruntimes=None), "models", "pong") == {}  # type: ignore[arg-type]


def test_where_no_node_may_run_it_now_all_that_take_pods_stand_for_them() -> None:
    """A pool that grows from nothing mostly has the container runtime of the others."""
    cluster = FakeCluster(nodes=[node("cpu", OLD, gpus=0), node("away", unschedulable=True)])
    found = facts(cluster, Serving(gpus=8))
    assert (found.old_nodes, found.new_nodes, found.stand_ins) == ((f"cpu with {OLD}",), 0, True)
    assert facts(cluster, Serving()).stand_ins is False, "the same node, which now may run it"


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


def test_of_a_model_whose_pods_end_first_nothing_is_promised() -> None:
    pods = [pod("a", "60Gi", of="pong"), pod("a", "1Gi", of="ping"), pod("a", "2Gi", of="pong", namespace="other"),
            pod("a", "4Gi")]  # fmt: skip

    def requested(leaving: tuple[str, str] | None) -> int | None:
        (found,) = node_facts(FakeCluster(pods=pods), leaving) or []  # type: ignore[arg-type]
        return found.requested

    assert requested(("models", "pong")) == 7 * GI
    assert requested(None) == 67 * GI


def test_pods_that_may_not_be_listed() -> None:
    cluster = FakeCluster()
    cluster.hidden = {"pods"}
    (found,) = node_facts(cluster) or []  # type: ignore[arg-type]
    assert found.requested is None and found.room == 100 * GI


@pytest.mark.parametrize(
    ("uri", "mode"),
    [
        ("s3://llm-models/acme/pong/3b/", Mode.S3),
        ("oci://r/pong@sha256:1", Mode.OCI),
        ("oci+native://r/pong@sha256:1", Mode.NATIVE),
        ("pvc://claim/pong", None),
        ("", None),
    ],
)
def test_the_mode_that_a_model_has_now(uri: str, mode: Mode | None) -> None:
    service = {"spec": {"predictor": {"model": {"storageUri": uri}}}}
    cluster = FakeCluster(inferenceservices=service)
    assert live_mode(cluster, "models", "pong") is mode  # type: ignore[arg-type]
    cluster.hidden = {"inferenceservices"}
    assert live_mode(cluster, "models", "pong") is None  # type: ignore[arg-type]
    for nothing in (None, {"spec": {"predictor": {"containers": []}}}):
        assert live_mode(FakeCluster(inferenceservices=nothing), "models", "pong") is None  # type: ignore[arg-type]


def test_versions() -> None:
    assert version_of({"major": "1", "minor": "33+"}) == (1, 33)
    assert version_of({}) == (0, 0)


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        ({}, ""),
        ({"enableModelcar": True}, "modelcar"),
        ({"enableOciModelSupport": True}, "modelcar"),
        ({"enableModelcar": True, "ociModelMode": "native"}, "native"),
        ({"ociModelMode": "fetch"}, "fetch"),
    ],
)
def test_what_kserve_makes_of_its_configuration(values: dict[str, Any], mode: str) -> None:
    assert read_oci_mode({"data": {"storageInitializer": json.dumps(values)}}) == mode


def test_a_configuration_without_the_key_and_one_that_does_not_parse() -> None:
    assert read_oci_mode({}) == ""
    for text in ("{", "[]"):
        with pytest.raises(ValueError, match=r"."):
            read_oci_mode({"data": {"storageInitializer": text}})


@pytest.mark.parametrize(
    ("runtime", "can"),
    [
        ("containerd://2.3.5+unknown", True),
        ("containerd://v2.1.0", True),
        ("containerd://1.7.27", False),
        ("cri-o://1.33.1", True),
        ("cri-o://1.32.9", False),
        ("docker://28.0.0", None),
        ("", None),
    ],
)
def test_container_runtimes(runtime: str, can: bool | None) -> None:
    assert mounts_images(runtime) is can
