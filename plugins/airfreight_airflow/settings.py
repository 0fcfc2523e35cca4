"""The site's settings: section `[airfreight]` of Airflow's configuration, and nothing else reads it.

    [airfreight]                                  also as environment, e.g. AIRFLOW__AIRFREIGHT__IMAGE
    image = registry.example/airfreight@sha256:…  every image our pods use, the XCom sidecar's too; no default
    namespace = airfreight                        where our own pods run
    target_namespace = models                     where models are served when the request names no namespace
    cluster_conn_id = airfreight_cluster          connection of type kubernetes
    store_conn_id = airfreight_store              connection of type aws: the worker reads the store, writes reports
    store = s3://llm-models/                      root of everything that is published to S3
    registry =                                    root for images, e.g. oci://registry.example/models/; empty: no images
    destination = s3                              where a model goes when the request does not say: s3, oci or both
    store_endpoint = http://minio.minio.svc:9000  S3 endpoint as pods see it; empty: AWS
    store_secret = airfreight-store               Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    hub_secret = airfreight-hub                   Secret with key `token` in `namespace`, and for buildah in
                                                  `builder_namespace`; may be absent
    hub_endpoint =                                a hub mirror; empty: the public hub
    https_proxy =                                 proxy for the hub, given to publisher pods alone
    no_proxy =
    ca_bundle_configmap =                         ConfigMap in `namespace`, and for buildah in `builder_namespace`, key
                                                  ca.crt: every CA that pods need for hub, proxy and store, in PEM,
                                                  instead of the public ones; empty: those
    licence_deny =                                licences that are refused: cc-by-nc-*,unknown; empty: none
    runtime = airfreight-vllm-cpu-1a2b3c4d5e6f    ServingRuntime used when the request names none
    registry_secret =                             Secret (dockerconfigjson) of our pods with the registry's login
    plain_http_registries =                       registries that speak plain http: registry.models.svc:5000, …
    modelcar_base =                               image by digest below the layers of a model; empty: /models alone
    builder_image =                               image with buildah and airfreight; needed for builder=buildah
    builder_namespace = airfreight-build          where buildah's pods run: Pod Security "baseline"
    builder_policy =                              ConfigMap there, key policy.json: which bases buildah may use
    pull_secret =                                 Secret in target namespaces with which nodes pull images of models
    storage_class =                               of the volumes of staging=volume; empty: the cluster's default
    volume_access = ReadWriteOnce                 or ReadWriteMany, where several pods may share a volume
    notifier =                                    module:function that the dag processor tells the end of every run of
                                                  deliver_model and roll_back_model; empty: nobody
    egress = off                                  shown: models come under a NetworkPolicy, and a gate shows that they
                                                  reach nothing but the store; required: that gate also fails where it
                                                  is not proven. For rights see include/kubernetes/egress
    resolver = 10.96.0.53                         cluster IP of Service airfreight-resolver, the one DNS that models
                                                  ask; empty: the cluster's, and the egress gate is never proven
    resolver_namespace = airfreight               where that Service's pods run; with `resolver`
    store_port =                                  port of the store's pods where its Service has another one, for the
                                                  NetworkPolicy; empty: that of store_endpoint

Nothing is read when this module is imported, so a DAG file parses where nothing is configured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from airflow.sdk import conf

from airfreight.errors import RequestError
from airfreight.source import parse_destination
from airfreight_airflow.route import DESTINATIONS, MANY_NODES, ONE_NODE

SECTION = "airfreight"
OFF, SHOWN, REQUIRED = "off", "shown", "required"
"""What `egress` may be."""
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
# A registry is a host with or without a port; the first part of an image's name is one when it holds a dot or a colon,
# or is localhost (distribution reference/normalize.go).
_REGISTRY = re.compile(r"(localhost|[a-zA-Z0-9.-]+[.:][a-zA-Z0-9.:-]*[a-zA-Z0-9]|\[[0-9a-f:]+\](:[0-9]+)?)")
_REGISTRY_ROOT = re.compile(rf"oci://{_REGISTRY.pattern}(/[a-z0-9][a-z0-9._-]*)*/")
_BY_DIGEST = re.compile(rf"{_REGISTRY.pattern}(/[a-z0-9][a-z0-9._-]*)+@sha256:[0-9a-f]{{64}}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Values of section `[airfreight]`; an empty string means "not set"."""

    image: str
    namespace: str
    target_namespace: str
    cluster_conn_id: str
    store_conn_id: str
    store: str
    store_endpoint: str
    store_secret: str
    hub_secret: str
    hub_endpoint: str
    https_proxy: str
    no_proxy: str
    ca_bundle_configmap: str
    licence_deny: str
    runtime: str
    registry: str
    destination: str
    registry_secret: str
    plain_http_registries: str
    modelcar_base: str
    builder_image: str
    builder_namespace: str
    builder_policy: str
    pull_secret: str
    storage_class: str
    volume_access: str
    notifier: str
    egress: str
    resolver: str
    resolver_namespace: str
    store_port: str

    @property
    def walled(self) -> bool:
        """Whether models come under a NetworkPolicy, and the egress gate is made."""
        return self.egress != OFF

    def require_image(self) -> str:
        """The image of every pod.

        Raises:
            RequestError: no image is configured.
        """
        if not self.image:
            raise RequestError(
                "No image is configured for the pods: set `image` in section [airfreight] of Airflow's configuration "
                "(AIRFLOW__AIRFREIGHT__IMAGE) to the Airfreight worker image."
            )
        return self.image

    def require_builder_image(self) -> str:
        """The image of the pods in which buildah runs.

        Raises:
            RequestError: none is configured.
        """
        if not self.builder_image:
            raise RequestError(
                "No builder image is configured: set `builder_image` in section [airfreight] of Airflow's "
                "configuration to the image with buildah and airfreight, or choose builder stream."
            )
        return self.builder_image

    def require_registry(self) -> str:
        """The root below which images lie, with its closing slash.

        Raises:
            RequestError: none is configured.
        """
        if not self.registry:
            raise RequestError(
                "No registry is configured: set `registry` in section [airfreight] of Airflow's configuration to the "
                "root for images, such as oci://registry.example/models/, or choose destination s3."
            )
        return self.registry


def read_settings() -> Settings:
    """Read the settings now.

    Raises:
        RequestError: one of them has a value that it cannot have; the sentence names it.
    """
    settings = Settings(
        image=_read("image"),
        namespace=_read("namespace", "airfreight"),
        target_namespace=_read("target_namespace", "models"),
        cluster_conn_id=_read("cluster_conn_id", "airfreight_cluster"),
        store_conn_id=_read("store_conn_id", "airfreight_store"),
        store=_store_root(_read("store", "s3://llm-models/")),
        store_endpoint=_read("store_endpoint"),
        store_secret=_read("store_secret", "airfreight-store"),
        hub_secret=_read("hub_secret", "airfreight-hub"),
        hub_endpoint=_read("hub_endpoint"),
        https_proxy=_read("https_proxy"),
        no_proxy=_read("no_proxy"),
        ca_bundle_configmap=_configmap("ca_bundle_configmap", _read("ca_bundle_configmap"), "the CAs in key ca.crt"),
        licence_deny=_read("licence_deny"),
        runtime=_read("runtime"),
        registry=_registry_root(_read("registry")),
        destination=_one_of("destination", _read("destination", "s3"), DESTINATIONS),
        registry_secret=_secret("registry_secret", _read("registry_secret")),
        plain_http_registries=_registries(_read("plain_http_registries")),
        modelcar_base=_by_digest(_read("modelcar_base")),
        builder_image=_read("builder_image"),
        builder_namespace=_read("builder_namespace", "airfreight-build"),
        builder_policy=_configmap("builder_policy", _read("builder_policy"), "the policy in key policy.json"),
        pull_secret=_secret("pull_secret", _read("pull_secret")),
        storage_class=_read("storage_class"),
        volume_access=_one_of("volume_access", _read("volume_access", "ReadWriteOnce"), (ONE_NODE, MANY_NODES)),
        notifier=_read("notifier"),
        egress=_one_of("egress", _read("egress", "off"), (OFF, SHOWN, REQUIRED)),
        resolver=_address("resolver", _read("resolver")),
        resolver_namespace=_namespace("resolver_namespace", _read("resolver_namespace")),
        store_port=_port("store_port", _read("store_port")),
    )
    _check_resolver(settings)
    return settings


def _read(option: str, fallback: str = "") -> str:
    value: Any = conf.get(SECTION, option, fallback=fallback)
    return str(value or "").strip()


def _wrong(option: str, problem: str) -> RequestError:
    return RequestError(f"`{option}` in section [airfreight] of Airflow's configuration: {problem}")


def _configmap(option: str, name: str, content: str) -> str:
    if name and not _OBJECT_NAME.fullmatch(name):
        raise _wrong(option, f"{name!r} is no name of a ConfigMap: give one of the pods' namespace that has {content}.")
    return name


def _secret(option: str, name: str) -> str:
    if name and not _OBJECT_NAME.fullmatch(name):
        # Not repeated: perhaps somebody put the login itself here.
        raise _wrong(option, "this is no name of a Secret: give one of type kubernetes.io/dockerconfigjson.")
    return name


def _namespace(option: str, name: str) -> str:
    if name and not _NAMESPACE.fullmatch(name):
        raise _wrong(option, f"{name!r} is no namespace: give the one in which airfreight-resolver runs.")
    return name


def _address(option: str, address: str) -> str:
    try:
        return address and str(ip_address(address))
    except ValueError:
        raise _wrong(
            option, f"{address!r} is no IP address: give the cluster IP of Service airfreight-resolver."
        ) from None


def _port(option: str, text: str) -> str:
    if text and not (text.isdecimal() and 0 < int(text) < 65536):
        raise _wrong(option, f"{text!r} is no port: give a number from 1 to 65535, or leave it empty.")
    return text


def _check_resolver(settings: Settings) -> None:
    """Check that address and namespace of the resolver come together, and are there where the gate needs them."""
    if bool(settings.resolver) != bool(settings.resolver_namespace):
        given, missing = ("resolver", "resolver_namespace") if settings.resolver else ("resolver_namespace", "resolver")
        raise _wrong(missing, f"it is empty, and `{given}` is not: give both, or neither.")
    if settings.egress == REQUIRED and not settings.resolver:
        raise _wrong(
            "egress",
            "it is required, and can never be proven without our resolver: set `resolver` and `resolver_namespace`, or "
            "choose shown.",
        )


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise _wrong(option, f"{value!r} is none of {', '.join(choices)}: give one of them.")
    return value


def _registry_root(url: str) -> str:
    """The root for images with its closing slash: repositories' names are appended to it."""
    root = f"{url.rstrip('/')}/" if url else ""
    if root and not _REGISTRY_ROOT.fullmatch(root):
        raise _wrong(
            "registry", f"{url!r} is no root for images: give a registry and small letters, as oci://host:5000/models/."
        )
    return root


def _registries(text: str) -> str:
    hosts = [host.strip() for host in text.split(",") if host.strip()]
    for host in hosts:
        if not _REGISTRY.fullmatch(host):
            raise _wrong("plain_http_registries", f"{host!r} is no registry: give hosts with ports, as registry:5000.")
    return ",".join(hosts)


def _by_digest(reference: str) -> str:
    if reference and not _BY_DIGEST.fullmatch(reference):
        raise _wrong(
            "modelcar_base",
            f"{reference!r} names no image by its digest: write registry/repository@sha256: and 64 hex digits, for a "
            "tag may move.",
        )
    return reference


def _store_root(url: str) -> str:
    """The store's root with its closing slash: every key below it is made by appending."""
    try:
        return str(parse_destination(url))
    except RequestError as error:
        raise _wrong("store", error.message) from None
