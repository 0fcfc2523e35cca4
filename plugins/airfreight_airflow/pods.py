"""The pods of the house operator: who they are, what they may do, what they are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from kubernetes.client import models as k8s

from airfreight_airflow.settings import Settings

RESULT_FILE = "/airflow/xcom/return.json"
TERMINATION_LOG = "/dev/termination-log"
WORKER_UID = 1000
"""User and group of the worker image (include/images/worker)."""


@dataclass(frozen=True, slots=True)
class Role:
    """Who a pod is.

    Args:
        service_account: its ServiceAccount in the workers' namespace.
        kubernetes: whether it gets a token for the Kubernetes API.
        publishes: whether it gets the secrets of store and hub, their endpoints, and the proxy.
    """

    service_account: str
    kubernetes: bool = False
    publishes: bool = False


PUBLISHER = Role("airfreight-publisher", publishes=True)
DEPLOYER = Role("airfreight-deployer", kubernetes=True)
VALIDATOR = Role("airfreight-validator")


def environment_of(role: Role, site: Settings, hub_secret: str = "") -> list[k8s.V1EnvVar]:
    """What a pod is told, secrets by reference only.

    Args:
        role: publishers alone get secrets, endpoints and the proxy.
        site: the settings as they are now.
        hub_secret: Secret with the hub token that the request asks for; empty: the site's.
    """
    return [*_everybodys_env(), *(_publisher_env(site, hub_secret) if role.publishes else ())]


def resources(cpu: str, memory: str) -> k8s.V1ResourceRequirements:
    """The given limits; requests are small, for our pods wait for networks and must fit beside a model server."""
    return k8s.V1ResourceRequirements(
        requests={"cpu": "100m", "memory": "192Mi"}, limits={"cpu": cpu, "memory": memory}
    )


def pod_security() -> k8s.V1PodSecurityContext:
    """Pod Security "restricted", the pod's half."""
    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=WORKER_UID,
        run_as_group=WORKER_UID,
        fs_group=WORKER_UID,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )


def container_security() -> k8s.V1SecurityContext:
    """Pod Security "restricted", a container's half, and a read-only root file system."""
    return k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )


def _everybodys_env() -> Iterator[k8s.V1EnvVar]:
    yield k8s.V1EnvVar(name="AIRFREIGHT_TERMINATION_LOG", value=TERMINATION_LOG)
    yield k8s.V1EnvVar(name="PYTHONUNBUFFERED", value="1")
    # The root file system is read-only; /tmp is the pod's own.
    yield k8s.V1EnvVar(name="HOME", value="/tmp")  # noqa: S108
    yield k8s.V1EnvVar(name="HF_HOME", value="/tmp/huggingface")  # noqa: S108


def _publisher_env(site: Settings, hub_secret: str) -> Iterator[k8s.V1EnvVar]:
    if site.store_endpoint:
        yield k8s.V1EnvVar(name="AWS_ENDPOINT_URL", value=site.store_endpoint)
    if site.store_secret:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            yield _from_secret(key, site.store_secret, key, optional=False)
    if site.hub_endpoint:
        yield k8s.V1EnvVar(name="HF_ENDPOINT", value=site.hub_endpoint)
    if secret := hub_secret or site.hub_secret:
        # The site's Secret may be absent; one that the request names must exist.
        yield _from_secret("HF_TOKEN", secret, "token", optional=not hub_secret)
    if site.https_proxy:
        for name in ("HTTPS_PROXY", "HTTP_PROXY"):  # both: a mirror may speak plain http
            yield k8s.V1EnvVar(name=name, value=site.https_proxy)
        # The proxy is for the hub. The store stands near the pods, and weights would pass it twice.
        store = urlsplit(site.store_endpoint).hostname
        hosts = [host.strip() for host in site.no_proxy.split(",") if host.strip()]
        direct = [*hosts, *([store] if store and store not in hosts else [])]
        yield k8s.V1EnvVar(name="NO_PROXY", value=",".join(direct))


def _from_secret(name: str, secret: str, key: str, *, optional: bool) -> k8s.V1EnvVar:
    reference = k8s.V1SecretKeySelector(name=secret, key=key, optional=optional)
    return k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(secret_key_ref=reference))
