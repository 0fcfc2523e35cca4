"""The edits that make KServe's release fit a cluster without cert-manager and without a way out."""

from __future__ import annotations

import base64
import ipaddress
import json
from pathlib import Path
from string import Template
from typing import Any

import pytest

from devcluster import addons
from devcluster.config import Cluster

CLUSTER = Cluster(Path("/cache"), Path("/state"), ipaddress.IPv4Network("198.18.0.0/16"))
AUTHORITY = b"-----BEGIN CERTIFICATE-----"
BUNDLE = base64.b64encode(AUTHORITY).decode()


@pytest.fixture(autouse=True)
def named_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images as if they had been built."""
    monkeypatch.setattr(addons.images, "reference", lambda _cluster, name: f"registry/{name}@sha256:1")


def edited(item: dict[str, Any]) -> dict[str, Any]:
    """One object after all edits."""
    (result,) = addons._edit(CLUSTER, [item], AUTHORITY)
    return result


def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """An object of a release."""
    return {"kind": kind, "metadata": {"name": name}, **more}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Certificate", "serving-cert"),
        ("Issuer", "selfsigned-issuer"),
        ("Deployment", "llmisvc-controller-manager"),
        ("Deployment", "kserve-localmodel-controller-manager"),
        ("CustomResourceDefinition", "llminferenceservices.serving.kserve.io"),
        ("CustomResourceDefinition", "inferencepools.inference.networking.x-k8s.io"),
    ],
)
def test_what_needs_cert_manager_or_serves_other_kinds_is_left_out(kind: str, name: str) -> None:
    assert not addons._wanted(named(kind, name))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("CustomResourceDefinition", "inferenceservices.serving.kserve.io"),
        ("CustomResourceDefinition", "servingruntimes.serving.kserve.io"),
        ("Deployment", "kserve-controller-manager"),
        ("ValidatingWebhookConfiguration", "inferenceservice.serving.kserve.io"),
        ("ClusterStorageContainer", "default"),
    ],
)
def test_what_serves_models_is_kept(kind: str, name: str) -> None:
    assert addons._wanted(named(kind, name))


def test_every_webhook_trusts_our_authority() -> None:
    item = named(
        "ValidatingWebhookConfiguration",
        "inferenceservice.serving.kserve.io",
        webhooks=[{"clientConfig": {"service": {}}}, {"clientConfig": {"caBundle": "Cg=="}}],
    )
    item["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": "kserve/serving-cert", "kept": "yes"}
    result = edited(item)
    assert [hook["clientConfig"]["caBundle"] for hook in result["webhooks"]] == [BUNDLE, BUNDLE]
    assert result["metadata"]["annotations"] == {"kept": "yes"}


def test_a_conversion_webhook_trusts_our_authority_and_other_kinds_get_none() -> None:
    with_webhook = {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {}}}}
    result = edited(named("CustomResourceDefinition", "inferenceservices.serving.kserve.io", spec=with_webhook))
    assert result["spec"]["conversion"]["webhook"]["clientConfig"] == {"caBundle": BUNDLE}
    plain = edited(named("CustomResourceDefinition", "trainedmodels.serving.kserve.io", spec={}))
    assert plain["spec"] == {}


def test_the_manager_runs_alone_with_our_image_and_without_leader_election() -> None:
    manager = {
        "name": "manager",
        "image": "kserve/kserve-controller:v0.20.0",
        "args": ["--metrics-addr=127.0.0.1:8080", "--leader-elect"],
        "resources": {"limits": {"cpu": "100m", "memory": "300Mi"}},
        "readinessProbe": {"initialDelaySeconds": 5, "periodSeconds": 10, "httpGet": {"path": "/readyz"}},
    }
    pod = {"containers": [{"name": "kube-rbac-proxy"}, manager], "serviceAccountName": "kserve-controller-manager"}
    result = edited(named("Deployment", "kserve-controller-manager", spec={"template": {"spec": pod}}))
    spec = result["spec"]["template"]["spec"]
    assert [container["name"] for container in spec["containers"]] == ["manager"]
    (container,) = spec["containers"]
    assert container["image"] == "registry/kserve-controller@sha256:1"
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["args"] == ["--metrics-addr=127.0.0.1:8080"]
    assert container["resources"] == {"limits": {"memory": "300Mi"}}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz"}
    assert spec["serviceAccountName"] == "kserve-controller-manager"


def test_kserve_deploys_plain_deployments_without_ingress_and_with_our_initializer() -> None:
    data = {
        "deploy": json.dumps({"defaultDeploymentMode": "Knative"}),
        "ingress": json.dumps({"ingressClassName": "istio", "disableIngressCreation": False}),
        "storageInitializer": json.dumps({"image": "kserve/storage-initializer:v0.20.0", "memoryLimit": "1Gi"}),
        "logger": "{}",
    }
    result = edited(named("ConfigMap", "inferenceservice-config", data=dict(data)))["data"]
    assert json.loads(result["deploy"]) == {"defaultDeploymentMode": "Standard"}
    assert json.loads(result["ingress"]) == {
        "ingressClassName": "istio", "disableIngressCreation": True, "disableIstioVirtualHost": True,
    }  # fmt: skip
    assert json.loads(result["storageInitializer"]) == {
        "image": "registry/storage-initializer@sha256:1",
        "memoryLimit": "1Gi",
    }
    assert result["logger"] == data["logger"]


def test_the_storage_container_is_ours_and_has_no_namespace() -> None:
    item = named("ClusterStorageContainer", "default", spec={"container": {"image": "kserve/storage-initializer"}})
    item["metadata"]["namespace"] = "kserve"  # in the release, though the kind has none
    result = edited(item)
    assert result["spec"]["container"]["image"] == "registry/storage-initializer@sha256:1"
    assert result["metadata"] == {"name": "default"}


def test_what_needs_no_edit_is_left_as_it_is() -> None:
    item = named("Service", "kserve-webhook-server-service", spec={"ports": [{"port": 443}]})
    assert edited(json.loads(json.dumps(item))) == item


@pytest.mark.parametrize("name", ["cluster.yaml", "minio.yaml", "hub.yaml"])
def test_a_value_that_a_manifest_lacks_is_an_error(name: str) -> None:
    assert Template((addons.MANIFESTS / name).read_text()).get_identifiers()
    with pytest.raises(KeyError):
        addons.fill(name)


def test_passwords_are_made_once_and_read_by_their_owner_alone(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cache", tmp_path / "state", CLUSTER.subnet)
    assert addons.make_credentials(cluster) == "made"
    made = addons.credentials(cluster)
    assert set(made) == set(addons.CREDENTIALS)
    assert len({*made.values()}) == len(made)
    assert addons.make_credentials(cluster) == "present"
    assert addons.credentials(cluster) == made
    assert (cluster.state / "credentials.json").stat().st_mode & 0o777 == 0o600
