"""The site's settings: section `[airfreight]` of Airflow's configuration, and nothing else reads it.

    [airfreight]                                  also as environment, e.g. AIRFLOW__AIRFREIGHT__IMAGE
    image = registry.example/airfreight@sha256:…  every image our pods use, the XCom sidecar's too; no default
    namespace = airfreight                        where our own pods run
    target_namespace = models                     where models are served when the request names no namespace
    cluster_conn_id = airfreight_cluster          connection of type kubernetes
    store_conn_id = airfreight_store              connection of type aws: the worker reads the store, writes reports
    store = s3://llm-models/                      root of everything that is published
    store_endpoint = http://minio.minio.svc:9000  S3 endpoint as pods see it; empty: AWS
    store_secret = airfreight-store               Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    hub_secret = airfreight-hub                   Secret with key `token`; may be absent
    hub_endpoint =                                a hub mirror; empty: the public hub
    https_proxy =                                 proxy for the hub, given to publisher pods alone
    no_proxy =
    ca_bundle_configmap =                         ConfigMap in `namespace`, key ca.crt: every CA that pods need for hub,
                                                  proxy and store, in PEM, instead of the public ones; empty: those
    licence_deny =                                licences that are refused: cc-by-nc-*,unknown; empty: none
    runtime = airfreight-vllm-cpu-1a2b3c4d5e6f    ServingRuntime used when the request names none

Nothing is read when this module is imported, so a DAG file parses where nothing is configured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from airflow.sdk import conf

from airfreight.errors import RequestError
from airfreight.source import parse_destination

SECTION = "airfreight"
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


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


def read_settings() -> Settings:
    """Read the settings now.

    Raises:
        RequestError: `store` is no root of a bucket, or `ca_bundle_configmap` no name of a ConfigMap.
    """
    return Settings(
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
        ca_bundle_configmap=_configmap(_read("ca_bundle_configmap")),
        licence_deny=_read("licence_deny"),
        runtime=_read("runtime"),
    )


def _read(option: str, fallback: str = "") -> str:
    value: Any = conf.get(SECTION, option, fallback=fallback)
    return str(value or "").strip()


def _configmap(name: str) -> str:
    if name and not _OBJECT_NAME.fullmatch(name):
        raise RequestError(
            f"`ca_bundle_configmap` in section [airfreight] of Airflow's configuration: {name!r} is no name of a "
            "ConfigMap: give one of the workers' namespace that has the CAs in key ca.crt."
        )
    return name


def _store_root(url: str) -> str:
    """The store's root with its closing slash: every key below it is made by appending."""
    try:
        return str(parse_destination(url))
    except RequestError as error:
        raise RequestError(f"`store` in section [airfreight] of Airflow's configuration: {error.message}") from None
