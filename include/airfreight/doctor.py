"""What a cluster needs before it can take a delivery, each thing with its remedy.

A check is ok, missing, or unseen (one may not look, which is no fault). What only some deliveries need is ok, with a
remark and its remedy. The functions `judge_*` are pure; the ones that read begin with an underscore.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airfreight.cluster import (
    CONFIG_MAPS,
    CRDS,
    ENDPOINT_SLICES,
    NAMESPACES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVING_RUNTIMES,
    STORAGE_CLASSES,
    VALIDATING_WEBHOOKS,
    Cluster,
    Right,
)
from airfreight.doctor_rights import may_not, needed_rights, optional_rights, rights_of_pods
from airfreight.errors import AirfreightError, RequestError
from airfreight.observation import annotations_of, metadata, name_of
from airfreight.preflight import STORE_SECRET
from airfreight.rendering import MODEL_SERVICE_ACCOUNT

OLDEST_KUBERNETES = (1, 32)  # KServe 0.20, quickstart guide
NEEDED_CRDS = ("inferenceservices", "servingruntimes", "clusterstoragecontainers")
WORKER_ACCOUNTS = ("airfreight-publisher", "airfreight-deployer", "airfreight-validator", "airfreight-airflow")
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_WEBHOOK = "inferenceservice.serving.kserve.io"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_ENFORCE = "pod-security.kubernetes.io/enforce"
_KSERVE = "serving.kserve.io"
_INSTALL_KSERVE = "install KServe 0.20 or newer in Standard mode"


class State(StrEnum):
    """How one check came out."""

    OK = "ok"
    MISSING = "missing"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Check:
    """One line of the report. `remedy` is empty where nothing is to do."""

    title: str
    state: State
    detail: str
    remedy: str = ""

    def line(self) -> str:
        """Return the check as one line for a person."""
        return f"{self.state.ljust(7)}  {self.title}: {self.detail}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Place:
    """Where the worker pods run, where models are served, and where buildah runs, if it does."""

    namespace: str = "airfreight"
    target: str = "models"
    builder: str = "airfreight-build"


def examine(cluster: Cluster, place: Place, check_store: Callable[[], str] | None = None) -> list[Check]:
    """Run every check; one that may not look does not stop the others.

    Args:
        check_store: returns what it saw of the bucket, or raises an `AirfreightError`; None where no store is known.
    Raises:
        TemporaryError: the API server does not answer.
        RequestError: its credentials are wrong, or there is no cluster.
    """
    checks = [judge_version(cluster.version(), cluster.server)]
    sections: list[Callable[[Cluster, Place], Iterable[Check]]] = [
        _crds, _webhook, _storage_class, _namespaces, _accounts, _secrets, _rights, _runtimes,
    ]  # fmt: skip
    for section in sections:
        try:
            checks += section(cluster, place)
        except RequestError as error:
            title = section.__name__.strip("_").replace("_", " ")
            checks.append(Check(title, State.UNSEEN, error.message.rstrip(".")))
    if check_store is not None:
        checks.append(_store(check_store))
    return checks


def judge_version(version: Mapping[str, Any], server: str) -> Check:
    """Judge what `/version` says. Minor versions may read "34+"."""
    numbers = [int(match[0]) if (match := re.match(r"\d+", str(version.get(key)))) else 0 for key in ("major", "minor")]
    found = f"{server} runs {version.get('gitVersion', 'an unknown version')}"
    if tuple(numbers) >= OLDEST_KUBERNETES:
        return Check("Kubernetes", State.OK, found)
    wanted = ".".join(map(str, OLDEST_KUBERNETES))
    return Check("Kubernetes", State.MISSING, found, f"KServe 0.20 needs {wanted} or newer: upgrade the cluster")


def judge_pod_security(title: str, namespace: Mapping[str, Any], *, refused: Sequence[str]) -> Check:
    """Judge the Pod Security level a namespace enforces."""
    level = (metadata(namespace).get("labels") or {}).get(_ENFORCE, "")
    found = f"Pod Security {level}" if level else "no Pod Security level"
    if level in refused:
        remedy = f"label it {_ENFORCE}=baseline, which KServe's own containers need"
        return Check(title, State.MISSING, found, remedy)
    return Check(title, State.OK, found)


def judge_config(config: Mapping[str, Any]) -> Check:
    """Judge KServe's ConfigMap: the keys it looks for in a Secret must be the ones we write."""
    title = "KServe configuration"
    data = config.get("data") or {}
    try:
        names = json.loads(data.get("credentials") or "{}").get("s3") or {}
        mode = json.loads(data.get("deploy") or "{}").get("defaultDeploymentMode", "unset")
    except (ValueError, AttributeError):
        return Check(title, State.MISSING, "its JSON does not parse", "correct ConfigMap inferenceservice-config")
    wanted = {"s3AccessKeyIDName": STORE_KEYS[0], "s3SecretAccessKeyName": STORE_KEYS[1]}
    wrong = [key for key, value in wanted.items() if names.get(key, value) != value]
    if wrong:
        remedy = f"set credentials.s3.{wrong[0]} to {wanted[wrong[0]]} in ConfigMap inferenceservice-config"
        return Check(title, State.MISSING, f"it reads the key {names[wrong[0]]} of Secrets", remedy)
    return Check(title, State.OK, f"default mode {mode} (Airfreight asks for Standard), S3 keys as expected")


def judge_secret(secret: Mapping[str, Any] | None, namespace: str, *, target: bool) -> Check:
    """Judge the store's Secret by its keys and, in a target, by KServe's annotations; no value is looked at."""
    title = f"Secret {STORE_SECRET} in {namespace}"
    if secret is None:
        command = f"kubectl -n {namespace} create secret generic {STORE_SECRET} --from-literal=AWS_ACCESS_KEY_ID=..."
        return Check(title, State.MISSING, "not there", f"make it: {command} --from-literal=AWS_SECRET_ACCESS_KEY=...")
    lacking = [key for key in STORE_KEYS if key not in (secret.get("data") or {})]
    if lacking:
        return Check(title, State.MISSING, f"it lacks the key {' and '.join(lacking)}", "add it")
    if target and not any(key.startswith(f"{_KSERVE}/s3-") for key in annotations_of(secret)):
        remedy = f"for a store that is not AWS, annotate it with {_KSERVE}/s3-endpoint and {_KSERVE}/s3-usehttps"
        return Check(title, State.OK, "its keys are there, KServe's s3 annotations are not", remedy)
    return Check(title, State.OK, "its keys are there")


def _crds(cluster: Cluster, place: Place) -> Iterator[Check]:
    del place
    names = [f"{plural}.{_KSERVE}" for plural in NEEDED_CRDS]
    lacking = [name for name in names if cluster.get(CRDS, None, name) is None]
    if lacking:
        yield Check("KServe", State.MISSING, f"the cluster does not know {', '.join(lacking)}", _INSTALL_KSERVE)
    else:
        yield Check("KServe", State.OK, "its kinds are known")


def _webhook(cluster: Cluster, place: Place) -> Iterator[Check]:
    del place
    webhook = cluster.get(VALIDATING_WEBHOOKS, None, _WEBHOOK)
    if webhook is None:
        yield Check("KServe webhook", State.MISSING, f"no {_WEBHOOK} is registered", _INSTALL_KSERVE)
        return
    service = next((one["clientConfig"].get("service") or {} for one in webhook.get("webhooks") or []), {})
    namespace, name = service.get("namespace", "kserve"), service.get("name", "")
    slices = cluster.items(ENDPOINT_SLICES, namespace, f"kubernetes.io/service-name={name}")
    ready = [
        endpoint
        for one in slices
        for endpoint in one.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready")
    ]
    if ready:
        yield Check("KServe webhook", State.OK, f"{len(ready)} ready behind {namespace}/{name}")
    else:
        remedy = f"look at the controller: kubectl -n {namespace} get pods"
        yield Check("KServe webhook", State.MISSING, f"nothing is ready behind {namespace}/{name}", remedy)
    config = cluster.get(CONFIG_MAPS, namespace, "inferenceservice-config")
    if config is None:
        yield Check("KServe configuration", State.MISSING, "no ConfigMap inferenceservice-config", _INSTALL_KSERVE)
    else:
        yield judge_config(config)


def _storage_class(cluster: Cluster, place: Place) -> Iterator[Check]:
    del place
    classes = cluster.items(STORAGE_CLASSES)
    default = [name_of(one) for one in classes if annotations_of(one).get(_DEFAULT_CLASS) == "true"]
    if default:
        yield Check("default StorageClass", State.OK, default[0])
    else:
        there = ", ".join(name_of(one) for one in classes) or "none"
        remedy = f"for staging volume and builder buildah annotate one with {_DEFAULT_CLASS}=true, or set storage_class"
        yield Check("default StorageClass", State.OK, f"not set, there is {there}", remedy)


def _namespaces(cluster: Cluster, place: Place) -> Iterator[Check]:
    for name, directory, refused in ((place.namespace, "worker", ()), (place.target, "target", ("restricted",))):
        title = f"namespace {name}"
        namespace = cluster.get(NAMESPACES, None, name)
        if namespace is None:
            yield Check(title, State.MISSING, "not there", f"kubectl apply -k include/kubernetes/{directory}")
        else:
            yield judge_pod_security(title, namespace, refused=refused)


def _accounts(cluster: Cluster, place: Place) -> Iterator[Check]:
    missing = [name for name in WORKER_ACCOUNTS if cluster.get(SERVICE_ACCOUNTS, place.namespace, name) is None]
    title = f"service accounts in {place.namespace}"
    if missing:
        remedy = "kubectl apply -k include/kubernetes/worker"
        yield Check(title, State.MISSING, f"{', '.join(missing)} not there", remedy)
    else:
        yield Check(title, State.OK, f"{len(WORKER_ACCOUNTS)} there")
    title = f"service account {MODEL_SERVICE_ACCOUNT} in {place.target}"
    account = cluster.get(SERVICE_ACCOUNTS, place.target, MODEL_SERVICE_ACCOUNT)
    remedy = "kubectl apply -k include/kubernetes/target"
    if account is None:
        yield Check(title, State.MISSING, "not there", remedy)
    elif STORE_SECRET not in [entry.get("name") for entry in account.get("secrets") or []]:
        yield Check(title, State.MISSING, f"it does not list Secret {STORE_SECRET}, so KServe finds no keys", remedy)
    else:
        yield Check(title, State.OK, f"lists Secret {STORE_SECRET}")


def _secrets(cluster: Cluster, place: Place) -> Iterator[Check]:
    for namespace in (place.namespace, place.target):
        secret = cluster.get(SECRETS, namespace, STORE_SECRET)
        yield judge_secret(secret, namespace, target=namespace == place.target)


def _rights(cluster: Cluster, place: Place) -> Iterator[Check]:
    for account, rights in needed_rights(place).items():
        title = f"rights of {account}"
        missing = _denied(cluster, place, account, rights)
        if missing:
            directory = "worker" if missing[0].namespace == place.namespace else "target"
            remedy = f"kubectl apply -k include/kubernetes/{directory}"
            yield Check(title, State.MISSING, may_not(missing), remedy)
        else:
            yield Check(title, State.OK, f"{len(rights)} checked")
    for more in optional_rights(place):
        if missing := _denied(cluster, place, more.account, more.rights):
            title = f"rights of {more.account}, optional"
            yield Check(title, State.OK, f"{may_not(missing)}, {more.without}", more.remedy)
    # Without the namespace nobody builds; with it every right counts.
    if cluster.get(NAMESPACES, None, place.builder) is not None:
        account = "airfreight-airflow"
        title = f"rights of {account} in {place.builder}"
        missing = _denied(cluster, place, account, rights := rights_of_pods(place.builder))
        if missing:
            yield Check(title, State.MISSING, may_not(missing), "kubectl apply -k include/kubernetes/builder")
        else:
            yield Check(title, State.OK, f"{len(rights)} checked")


def _denied(cluster: Cluster, place: Place, account: str, rights: Sequence[Right]) -> list[Right]:
    user = f"system:serviceaccount:{place.namespace}:{account}"
    return [right for right in rights if not cluster.may(right, user)]


def _runtimes(cluster: Cluster, place: Place) -> Iterator[Check]:
    names = [name_of(item) for item in cluster.items(SERVING_RUNTIMES, place.target)]
    ours = sorted(name for name in names if name.startswith("airfreight-"))
    title = f"ServingRuntimes in {place.target}"
    if ours:
        yield Check(title, State.OK, ", ".join(ours))
    else:
        command = f"airfreight runtime pin IMAGE@sha256:... --template vllm-gpu --namespace {place.target} --apply"
        yield Check(title, State.MISSING, "none of Airfreight's", f"make one: {command}")


def _store(check_store: Callable[[], str]) -> Check:
    try:
        return Check("store", State.OK, check_store())
    except AirfreightError as error:
        return Check("store", State.MISSING, error.message.rstrip("."))
