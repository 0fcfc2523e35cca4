"""What runs on the cluster before Airfreight does: DNS, a default StorageClass, MinIO, KServe, the stand-in hub."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import yaml

from devcluster import binaries, images, pki, versions
from devcluster.config import Cluster
from devcluster.control_plane import kubectl
from devcluster.shell import wait_until

MANIFESTS = Path(__file__).resolve().parent / "manifests"
APPLY = ("apply", "--server-side", "--force-conflicts", "--field-manager=devcluster", "-f", "-")

# KServe's release also holds controllers for other kinds of object; each needs more custom resources and a webhook.
KSERVE_LEFT_OUT = ("llmisvc", "localmodel", "llminferenceservice", "llm-d.ai", "inference.networking")
KSERVE_NEEDS_CERT_MANAGER = ("Certificate", "Issuer")
WEBHOOK_SERVICE, WEBHOOK_SECRET = "kserve-webhook-server-service", "kserve-webhook-server-cert"


def apply(cluster: Cluster, text: str) -> None:
    """Server-side apply of YAML text."""
    kubectl(cluster, *APPLY, stdin=text)


def fill(name: str, **values: str) -> str:
    """One of the manifests with its ${…} filled in; a value that is missing is an error."""
    return Template((MANIFESTS / name).read_text()).substitute(values)


def wait_rolled_out(cluster: Cluster, namespace: str, deployment: str, timeout_s: int = 180) -> None:
    """Wait until a Deployment's pods are ready."""
    words = ("rollout", "status", "--namespace", namespace, f"deployment/{deployment}", f"--timeout={timeout_s}s")
    kubectl(cluster, *words, timeout_s=timeout_s + 10)


CREDENTIALS = ("store_password", "hub_token", "airflow_password")


def make_credentials(cluster: Cluster) -> str:
    """The passwords of this cluster's life, made at random once; in a file only root can read."""
    path = cluster.state / "credentials.json"
    if path.exists():
        return "present"
    pki.write_private(path, json.dumps({name: secrets.token_urlsafe(24) for name in CREDENTIALS}))
    return "made"


def credentials(cluster: Cluster) -> dict[str, str]:
    """What make_credentials made."""
    found: dict[str, str] = json.loads((cluster.state / "credentials.json").read_text())
    return found


STORE_USER = "airfreight"


def install_dns_and_storage(cluster: Cluster) -> str:
    """CoreDNS and the default StorageClass."""
    apply(cluster, fill("cluster.yaml", coredns_image=images.reference(cluster, "coredns"), dns_ip=cluster.dns_ip))
    wait_rolled_out(cluster, "kube-system", "coredns")
    return ""


def install_minio(cluster: Cluster) -> str:
    """MinIO with a volume, reachable from pods and, through a NodePort, from the host."""
    password = credentials(cluster)["store_password"]
    apply(
        cluster,
        fill(
            "minio.yaml", minio_image=images.reference(cluster, "minio"), root_user=STORE_USER, root_password=password
        ),
    )
    wait_rolled_out(cluster, "minio", "minio")
    return cluster.store_url


def install_hub(cluster: Cluster) -> str:
    """The stand-in for the hub."""
    apply(
        cluster,
        fill("hub.yaml", hub_image=images.reference(cluster, "hub"), hub_token=credentials(cluster)["hub_token"]),
    )
    wait_rolled_out(cluster, "hub", "hub")
    return cluster.hub_service_url


# ---- KServe ------------------------------------------------------------------------------------------------------


def install_kserve(cluster: Cluster) -> str:
    """KServe in Standard mode from its own release manifest, without cert-manager."""
    # A certificate that is already there stays: a new one would need the manager to restart.
    if not _installed(cluster):
        path = binaries.kserve_release(cluster) / "install" / f"v{versions.KSERVE}" / "kserve.yaml"
        # The C loader, as safe as the other: 50,000 lines take the Python one half a minute.
        found = yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)
        objects = [item for item in found if item and _wanted(item)]
        authority, pair = pki.webhook_pair(WEBHOOK_SERVICE, "kserve")
        edited = list(_edit(cluster, objects, authority))
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                  "metadata": {"name": WEBHOOK_SECRET, "namespace": "kserve"},
                  "stringData": {"tls.crt": pair.certificate.decode(), "tls.key": pair.key.decode()}}  # fmt: skip
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kserve"}}
        crds = [item for item in edited if item["kind"] == "CustomResourceDefinition"]
        last = [item for item in edited if item["kind"] == "ClusterStorageContainer"]
        rest = [item for item in edited if item not in crds and item not in last]
        apply(cluster, yaml.safe_dump_all([namespace, *crds]))
        # kubectl's own wait fails on an object that has no conditions yet.
        wait_until("KServe's kinds to be established", lambda: _established(cluster), timeout_s=60)
        apply(cluster, yaml.safe_dump_all([secret, *rest]))
        wait_rolled_out(cluster, "kserve", "kserve-controller-manager")
        apply(cluster, yaml.safe_dump_all(last))
    wait_until("KServe's webhook to answer", lambda: _webhook_answers(cluster), timeout_s=60, poll_s=0.5)
    return f"v{versions.KSERVE}"


def _installed(cluster: Cluster) -> bool:
    # Applied last, so its presence says that all of it was.
    found = kubectl(cluster, "get", "--raw", "/apis/serving.kserve.io/v1alpha1") if _group_known(cluster) else ""
    return "clusterstoragecontainers" in found and bool(
        kubectl(
            cluster, "get", "clusterstoragecontainers.serving.kserve.io", "--ignore-not-found", "-o", "name", "default"
        ).strip()
    )


def _established(cluster: Cluster) -> bool:
    kubectl(cluster, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return True


def _group_known(cluster: Cluster) -> bool:
    return "serving.kserve.io" in kubectl(cluster, "get", "--raw", "/apis")


def _wanted(item: dict[str, Any]) -> bool:
    name = item["metadata"]["name"]
    return item["kind"] not in KSERVE_NEEDS_CERT_MANAGER and not any(word in name for word in KSERVE_LEFT_OUT)


def _edit(cluster: Cluster, objects: list[dict[str, Any]], authority: bytes) -> Iterator[dict[str, Any]]:
    for item in objects:
        kind, name = item["kind"], item["metadata"]["name"]
        _trust(item, base64.b64encode(authority).decode())
        if kind == "Deployment" and name == "kserve-controller-manager":
            _edit_manager(cluster, item)
        elif kind == "ConfigMap" and name == "inferenceservice-config":
            _edit_configuration(cluster, item)
        elif kind == "ClusterStorageContainer":
            item["metadata"].pop("namespace", None)
            item["spec"]["container"]["image"] = images.reference(cluster, "storage-initializer")
        yield item


def _trust(item: dict[str, Any], bundle: str) -> None:
    """Put the webhook's authority where cert-manager would have put it."""
    item["metadata"].get("annotations", {}).pop("cert-manager.io/inject-ca-from", None)
    for webhook in item.get("webhooks", ()):
        webhook["clientConfig"]["caBundle"] = bundle
    conversion = item.get("spec", {}).get("conversion", {}) if item["kind"] == "CustomResourceDefinition" else {}
    if "webhook" in conversion:
        conversion["webhook"]["clientConfig"]["caBundle"] = bundle


def _edit_manager(cluster: Cluster, deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"] = [container for container in pod["containers"] if container["name"] == "manager"]
    manager = pod["containers"][0]
    manager["image"] = images.reference(cluster, "kserve-controller")
    manager["imagePullPolicy"] = "IfNotPresent"
    manager["args"] = ["--metrics-addr=127.0.0.1:8080"]  # one replica: no leader to elect
    manager["resources"]["limits"].pop("cpu", None)  # 100m makes it start slowly on a small machine
    manager["readinessProbe"].update(initialDelaySeconds=1, periodSeconds=1)


def _edit_configuration(cluster: Cluster, config: dict[str, Any]) -> None:
    def change(key: str, **values: object) -> None:
        config["data"][key] = json.dumps({**json.loads(config["data"][key]), **values}, indent=2)

    change("deploy", defaultDeploymentMode="Standard")
    change("ingress", disableIngressCreation=True, disableIstioVirtualHost=True)
    change("storageInitializer", image=images.reference(cluster, "storage-initializer"))


def _webhook_answers(cluster: Cluster) -> bool:
    """The manager is Ready before its webhook can be reached; a dry run goes through the webhook."""
    probe = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
             "metadata": {"name": "webhook-probe", "namespace": "default"},
             "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"},
                                              "storageUri": "s3://none/none/"}}}}  # fmt: skip
    kubectl(cluster, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(probe))
    return True
