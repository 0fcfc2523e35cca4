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
REGISTRY_DIRECTORY = "/etc/airfreight/registry"
"""DOCKER_CONFIG: where the registry's login is mounted, as config.json."""
STAGING_DIRECTORY = "/staging"
"""Where the volume of a run is mounted: the root of a directory store."""
BUILD_DIRECTORY = "/build"
"""TMPDIR of the builder image: everything large that buildah writes (include/images/builder)."""
CONTEXT_DIRECTORY = "/context"
"""Where a ConfigMap with a Containerfile, or with a policy, is mounted."""
VOLUME_LABEL = "airfreight.dev/volume"
_TMP, _CA, _LOGIN, _STAGING, _BUILD, _CONTEXT = "tmp", "ca-bundle", "registry-login", "staging", "build", "context"
# What buildah needs to make files of root in a root file system of its own with isolation chroot and storage driver vfs
# in a pod without privilege; all ten are within Pod Security "baseline".
_BUILDAH_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "SETPCAP", "SETFCAP", "SYS_CHROOT", "MKNOD",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Role:
    """Who a pod is.

    Args:
        service_account: its ServiceAccount in the namespace it runs in.
        kubernetes: whether it gets a token for the Kubernetes API.
        hub: whether it gets the hub's token and endpoint, and the proxy.
        store: whether it gets the store's keys and endpoint.
        registry: whether it gets the registry's login.
        builds: whether buildah runs in it: its image, its namespace and its security context are the builder's.
        runs: whether buildah runs commands of a Containerfile, for which it makes a user namespace.
    """

    service_account: str
    kubernetes: bool = False
    hub: bool = False
    store: bool = False
    registry: bool = False
    builds: bool = False
    runs: bool = False


PUBLISHER = Role("airfreight-publisher", hub=True, store=True, registry=True)
DOWNLOADER = Role("airfreight-publisher", hub=True)
BUILDER = Role("airfreight-builder", registry=True, builds=True)
IMAGE_BUILDER = Role("airfreight-builder", registry=True, builds=True, runs=True)
DEPLOYER = Role("airfreight-deployer", kubernetes=True)
VALIDATOR = Role("airfreight-validator")


@dataclass(frozen=True, slots=True)
class Mounts:
    """What a pod mounts beside its /tmp, the CAs and the registry's login.

    Args:
        claim: PersistentVolumeClaim of the run, at /staging; empty: none.
        read_only: whether the pod only reads it.
        context: ConfigMap with a Containerfile or a policy, at /context; empty: none.
    """

    claim: str = ""
    read_only: bool = True
    context: str = ""


NO_MOUNTS = Mounts()


def environment_of(role: Role, site: Settings, hub_secret: str = "", owner: str = "") -> list[k8s.V1EnvVar]:
    """What a pod is told, secrets by reference only.

    Args:
        role: says what the pod gets.
        site: the settings as they are now.
        hub_secret: Secret with the hub token that the request asks for; empty: the site's.
        owner: name under which a copy holds its leases, the same for every try of a task and no other task's; then a
            retry goes on at once where a killed try stopped. Empty: one of the pod's own.
    """
    everybodys = [*_everybodys_env(), *_ca_env(site), *_registry_env(role, site)]
    if not (role.hub or role.store):
        return everybodys
    leases = [k8s.V1EnvVar(name="AIRFREIGHT_OWNER", value=owner)] if owner else []
    store = _store_env(site) if role.store else ()
    hub = _hub_env(site, hub_secret) if role.hub else ()
    return [*everybodys, *leases, *store, *hub]


def volumes_of(role: Role, site: Settings, mounts: Mounts = NO_MOUNTS) -> list[k8s.V1Volume]:
    """What a pod mounts: a /tmp of its own, the site's CAs if there are any, a login, and what the run has."""
    volumes = [k8s.V1Volume(name=_TMP, empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="256Mi"))]
    if site.ca_bundle_configmap:
        # Not optional, nor is its key: a pod that cannot trust anybody had better not start, and its event says why.
        item = k8s.V1KeyToPath(key=CA_KEY, path=CA_KEY)
        source = k8s.V1ConfigMapVolumeSource(name=site.ca_bundle_configmap, items=[item])
        volumes.append(k8s.V1Volume(name=_CA, config_map=source))
    if role.registry and site.registry_secret:
        login = k8s.V1KeyToPath(key=".dockerconfigjson", path="config.json")
        secret = k8s.V1SecretVolumeSource(secret_name=site.registry_secret, items=[login])
        volumes.append(k8s.V1Volume(name=_LOGIN, secret=secret))
    if mounts.claim:
        claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=mounts.claim)
        volumes.append(k8s.V1Volume(name=_STAGING, persistent_volume_claim=claim))
    elif role.builds:
        volumes.append(k8s.V1Volume(name=_BUILD, empty_dir=k8s.V1EmptyDirVolumeSource()))
    if mounts.context:
        volumes.append(k8s.V1Volume(name=_CONTEXT, config_map=k8s.V1ConfigMapVolumeSource(name=mounts.context)))
    return volumes


def mounts_of(role: Role, site: Settings, mounts: Mounts = NO_MOUNTS) -> list[k8s.V1VolumeMount]:
    """Where a pod has `volumes_of`."""
    found = [k8s.V1VolumeMount(name=_TMP, mount_path="/tmp")]  # noqa: S108  (a volume of the pod's own)
    if site.ca_bundle_configmap:
        found.append(k8s.V1VolumeMount(name=_CA, mount_path=CA_DIRECTORY, read_only=True))
    if role.registry and site.registry_secret:
        found.append(k8s.V1VolumeMount(name=_LOGIN, mount_path=REGISTRY_DIRECTORY, read_only=True))
    if mounts.claim:
        found.append(k8s.V1VolumeMount(name=_STAGING, mount_path=STAGING_DIRECTORY, read_only=mounts.read_only))
        if role.builds:  # buildah's own files on the same volume: no node's disk has to hold a model
            found.append(k8s.V1VolumeMount(name=_STAGING, mount_path=BUILD_DIRECTORY, sub_path=".build"))
    elif role.builds:
        found.append(k8s.V1VolumeMount(name=_BUILD, mount_path=BUILD_DIRECTORY))
    if mounts.context:
        found.append(k8s.V1VolumeMount(name=_CONTEXT, mount_path=CONTEXT_DIRECTORY, read_only=True))
    return found


def beside_the_volume(claim: str) -> k8s.V1Affinity:
    """On the node where other pods of the run have the volume mounted: it can be mounted on one node at a time.

    While no pod has it, any node will do: a pod that matches its own term counts as the first of its kind.
    Source: Kubernetes, "Assigning Pods to Nodes", inter-pod affinity.
    """
    term = k8s.V1PodAffinityTerm(
        topology_key="kubernetes.io/hostname",
        label_selector=k8s.V1LabelSelector(match_labels={VOLUME_LABEL: claim}),
    )
    affinity = k8s.V1PodAffinity(required_during_scheduling_ignored_during_execution=[term])
    return k8s.V1Affinity(pod_affinity=affinity)


def resources(cpu: str, memory: str) -> k8s.V1ResourceRequirements:
    """The given limits; requests are small, for our pods wait for networks and must fit beside a model server."""
    return k8s.V1ResourceRequirements(
        requests={"cpu": "100m", "memory": "192Mi"}, limits={"cpu": cpu, "memory": memory}
    )


def pod_security(role: Role) -> k8s.V1PodSecurityContext:
    """The pod's half of Pod Security "restricted"; where buildah runs, of "baseline"."""
    seccomp = k8s.V1SeccompProfile(type="RuntimeDefault")
    if role.builds:
        # RuntimeDefault forbids the user namespace that a RUN line needs; "baseline" allows to leave it out.
        profile = None if role.runs else seccomp
        return k8s.V1PodSecurityContext(run_as_user=0, run_as_group=0, fs_group=WORKER_UID, seccomp_profile=profile)
    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=WORKER_UID,
        run_as_group=WORKER_UID,
        fs_group=WORKER_UID,
        seccomp_profile=seccomp,
    )


def container_security(role: Role) -> k8s.V1SecurityContext:
    """A container's half; buildah gets the capabilities it needs and no others."""
    if role.builds:
        return k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"], add=list(_BUILDAH_CAPABILITIES)),
        )
    return restricted()


def restricted() -> k8s.V1SecurityContext:
    """A container's half of Pod Security "restricted", and a read-only root file system; every XCom sidecar's too."""
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


def _registry_env(role: Role, site: Settings) -> Iterator[k8s.V1EnvVar]:
    if (role.registry or role.kubernetes) and site.plain_http_registries:
        yield k8s.V1EnvVar(name="AIRFREIGHT_PLAIN_HTTP", value=site.plain_http_registries)
    if role.registry and site.registry_secret:
        yield k8s.V1EnvVar(name="DOCKER_CONFIG", value=REGISTRY_DIRECTORY)
    if role.builds:
        yield k8s.V1EnvVar(name="TMPDIR", value=BUILD_DIRECTORY)


def _store_env(site: Settings) -> Iterator[k8s.V1EnvVar]:
    # Where an unfinished image's checkpoints lie: a registry keeps nothing beside images.
    yield k8s.V1EnvVar(name="AIRFREIGHT_LEDGER", value=site.store)
    if site.store_endpoint:
        yield k8s.V1EnvVar(name="AWS_ENDPOINT_URL", value=site.store_endpoint)
    if site.store_secret:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            yield _from_secret(key, site.store_secret, key, optional=False)


def _hub_env(site: Settings, hub_secret: str) -> Iterator[k8s.V1EnvVar]:
    # Nobody is told who delivers what; it also saves the hub's client a request of its own.
    yield k8s.V1EnvVar(name="HF_HUB_DISABLE_TELEMETRY", value="1")
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
        # The proxy is for the hub. Store and registry stand near the pods, and weights would pass it twice.
        hosts = [host.strip() for host in site.no_proxy.split(",") if host.strip()]
        # The registry with its port: a hub's mirror may have the same address and stand behind the proxy all the same.
        near = [urlsplit(site.store_endpoint).hostname, urlsplit(site.registry).netloc]
        direct = dict.fromkeys([*hosts, *(host for host in near if host)])
        yield k8s.V1EnvVar(name="NO_PROXY", value=",".join(direct))


def _from_secret(name: str, secret: str, key: str, *, optional: bool) -> k8s.V1EnvVar:
    reference = k8s.V1SecretKeySelector(name=secret, key=key, optional=optional)
    return k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(secret_key_ref=reference))
