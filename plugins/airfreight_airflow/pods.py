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
CA_DIRECTORY = "/etc/airfreight/ca"
CA_KEY = "ca.crt"
_TMP, _CA = "tmp", "ca-bundle"


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


def environment_of(role: Role, site: Settings, hub_secret: str = "", owner: str = "") -> list[k8s.V1EnvVar]:
    """What a pod is told, secrets by reference only.

    Args:
        role: publishers alone get secrets, endpoints and the proxy.
        site: the settings as they are now.
        hub_secret: Secret with the hub token that the request asks for; empty: the site's.
        owner: name under which a copy holds its leases, the same for every try of a task and no other task's; then a
            retry goes on at once where a killed try stopped. Empty: one of the pod's own.
    """
    everybodys = [*_everybodys_env(), *_ca_env(site)]
    if not role.publishes:
        return everybodys
    leases = [k8s.V1EnvVar(name="AIRFREIGHT_OWNER", value=owner)] if owner else []
    return [*everybodys, *leases, *_publisher_env(site, hub_secret)]


def volumes_of(site: Settings) -> list[k8s.V1Volume]:
    """What a pod mounts: a /tmp of its own, and the site's CAs if there are any."""
    volumes = [k8s.V1Volume(name=_TMP, empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="256Mi"))]
    if site.ca_bundle_configmap:
        # Not optional, nor is its key: a pod that cannot trust anybody had better not start, and its event says why.
        item = k8s.V1KeyToPath(key=CA_KEY, path=CA_KEY)
        source = k8s.V1ConfigMapVolumeSource(name=site.ca_bundle_configmap, items=[item])
        volumes.append(k8s.V1Volume(name=_CA, config_map=source))
    return volumes


def mounts_of(site: Settings) -> list[k8s.V1VolumeMount]:
    """Where a pod has `volumes_of`."""
    mounts = [k8s.V1VolumeMount(name=_TMP, mount_path="/tmp")]  # noqa: S108  (a volume of the pod's own)
    if site.ca_bundle_configmap:
        mounts.append(k8s.V1VolumeMount(name=_CA, mount_path=CA_DIRECTORY, read_only=True))
    return mounts


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


def _ca_env(site: Settings) -> Iterator[k8s.V1EnvVar]:
    if site.ca_bundle_configmap:
        # The hub's client and hf_xet read the first, boto3 the second, whatever else speaks TLS one of the three.
        for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            yield k8s.V1EnvVar(name=name, value=f"{CA_DIRECTORY}/{CA_KEY}")


def _publisher_env(site: Settings, hub_secret: str) -> Iterator[k8s.V1EnvVar]:
    # Nobody is told who delivers what; it also saves the hub's client a request of its own.
    yield k8s.V1EnvVar(name="HF_HUB_DISABLE_TELEMETRY", value="1")
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
    if site.licence_deny:
        yield k8s.V1EnvVar(name="AIRFREIGHT_LICENCE_DENY", value=site.licence_deny)
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
