"""What a deploy needs in its namespace, checked before anything is touched.

Sources: KServe v0.20 `pkg/controller/v1beta1/inferenceservice/utils/utils.go` (GetServingRuntime, MergePodSpec),
`reconcilers/raw/raw_kube_reconciler.go` (createRawURL) and `reconcilers/ingress/domain.go` (GenerateDomainName).
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Sequence

from airfreight.cluster import (
    CONFIG_MAPS,
    NAMESPACES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVING_RUNTIMES,
    Cluster,
    Resource,
)
from airfreight.cluster_facts import KSERVE_CONFIG, KSERVE_NAMESPACE
from airfreight.errors import RequestError
from airfreight.observation import name_of
from airfreight.rendering import MODEL_SERVICE_ACCOUNT
from airfreight.runtime import unpinned
from airfreight.smoke import SERVER

log = logging.getLogger(__name__)

STORE_SECRET = "airfreight-store"  # noqa: S105 - a name
LABEL_LIMIT = 63  # characters between two dots of a host's name (RFC 1123)
_TEMPLATE = "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}"


def check_target(cluster: Cluster, namespace: str, runtime: str, artifact: str) -> None:
    """Check namespace, runtime and its images, service account and, for S3, the store's Secret.

    KServe would also take a ClusterServingRuntime of that name; here it counts as missing, for no release brings it
    back.

    The deployer may read runtimes and service accounts; what it may not read (Secrets, by design) is left to the
    storage initializer to find missing.

    Raises:
        RequestError: one of them is missing, or an image of the runtime may change; the sentence names the remedy.
        TemporaryError: the API server does not answer.
    """
    found = cluster.get(SERVING_RUNTIMES, namespace, runtime)
    if found is None:
        if _is_known_missing(cluster, NAMESPACES, None, namespace):
            raise RequestError(
                f"There is no namespace {namespace}; create it with include/kubernetes/target, or choose another one."
            )
        there = [name_of(item) for item in cluster.items(SERVING_RUNTIMES, namespace)]
        raise RequestError(missing_runtime(runtime, namespace, there))
    for user, image in unpinned(found):
        raise RequestError(unpinned_runtime(runtime, namespace, user, image))
    if _is_known_missing(cluster, SERVICE_ACCOUNTS, namespace, MODEL_SERVICE_ACCOUNT):
        raise RequestError(
            f"Namespace {namespace} has no service account {MODEL_SERVICE_ACCOUNT}; "
            "apply include/kubernetes/target there."
        )
    if artifact.startswith("s3://") and _is_known_missing(cluster, SECRETS, namespace, STORE_SECRET):
        raise RequestError(
            f"Namespace {namespace} has no Secret {STORE_SECRET}, so the model could not be fetched; create it with "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and KServe's s3 annotations."
        )


def check_host(cluster: Cluster, name: str, namespace: str) -> None:
    """Check that KServe can name the model's host; where it cannot, it makes nothing and says so in its own log alone.

    Raises:
        RequestError: the name would be too long.
        TemporaryError: the API server does not answer.
    """
    try:
        config = cluster.get(CONFIG_MAPS, KSERVE_NAMESPACE, KSERVE_CONFIG) or {}
        template = json.loads((config.get("data") or {}).get("ingress") or "{}").get("domainTemplate") or _TEMPLATE
    except (RequestError, ValueError, AttributeError) as error:
        log.debug("not checked: %s", error)
        return
    host = str(template)
    for word, value in (("Name", f"{name}-predictor"), ("Namespace", namespace), ("IngressDomain", "")):
        host = re.sub(rf"{{{{\s*\.{word}\s*}}}}", value, host)
    longest = max(host.split("."), key=len)
    if "{{" not in host and len(longest) > LABEL_LIMIT:
        raise RequestError(
            f"KServe would name the host of {name} in namespace {namespace} {longest}, of {len(longest)} characters, "
            f"and no part of a host's name has more than {LABEL_LIMIT}, so it would make no pod; choose a name that is "
            f"{len(longest) - LABEL_LIMIT} characters shorter, or change domainTemplate under key ingress of ConfigMap "
            f"{KSERVE_CONFIG} in namespace {KSERVE_NAMESPACE}."
        )


def missing_runtime(runtime: str, namespace: str, there: Sequence[str]) -> str:
    """Say that a ServingRuntime is missing, which one may have been meant, and how to get one.

    Args:
        there: names of the ServingRuntimes of the namespace.
    """
    start = f"There is no ServingRuntime {runtime} in namespace {namespace}"
    ours = sorted(name for name in there if name.startswith("airfreight-"))
    close = difflib.get_close_matches(runtime, ours, n=1, cutoff=0.75)
    if close:
        return f'{start}; did you mean "{close[0]}", or another of {", ".join(ours)}?'
    if ours:
        return f"{start}; choose one of {', '.join(ours)}."
    command = f"airfreight runtime pin IMAGE@sha256:... --template vllm-gpu --namespace {namespace} --apply"
    return f"{start}; make one: {command}."


def unpinned_runtime(runtime: str, namespace: str, user: str, image: str) -> str:
    """Say that an image of a ServingRuntime may change under a release, and how to get a runtime that is pinned.

    Args:
        user: the container, or the volume, that names the image.
    """
    make = "airfreight runtime pin {} --template {} --namespace {} --apply"
    if user == SERVER:
        remedy = (
            f"pin it and name the runtime that this makes: {make.format(image, 'TEMPLATE', namespace)}, where TEMPLATE "
            "is vllm-gpu, vllm-cpu or a file of your own"
        )
    else:
        remedy = (
            "write its digest into a template of your own and name the runtime that this makes: "
            f"{make.format('IMAGE', 'FILE.yaml', namespace)}"
        )
    return (
        f"The ServingRuntime {runtime} in namespace {namespace} names the image {image} of {user} without a digest, so "
        f"pods may change under a release; {remedy}."
    )


def _is_known_missing(cluster: Cluster, resource: Resource, namespace: str | None, name: str) -> bool:
    """Say whether an object is certainly not there; False where it may not be read."""
    try:
        return cluster.get(resource, namespace, name) is None
    except RequestError as error:
        log.debug("not checked: %s", error)
        return False
