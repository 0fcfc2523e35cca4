"""What a deploy needs in its namespace, checked before anything is touched."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence

from airfreight.cluster import NAMESPACES, SECRETS, SERVICE_ACCOUNTS, SERVING_RUNTIMES, Cluster, Resource
from airfreight.errors import RequestError
from airfreight.observation import name_of
from airfreight.rendering import MODEL_SERVICE_ACCOUNT

log = logging.getLogger(__name__)

STORE_SECRET = "airfreight-store"  # noqa: S105 - a name


def check_target(cluster: Cluster, namespace: str, runtime: str, artifact: str) -> None:
    """Check namespace, runtime, service account and, for S3, the store's Secret.

    The deployer may read runtimes and service accounts; what it may not read (Secrets, by design) is left to the
    storage initializer to find missing.

    Raises:
        RequestError: one of them is missing; the sentence names the remedy.
        TemporaryError: the API server does not answer.
    """
    if cluster.get(SERVING_RUNTIMES, namespace, runtime) is None:
        if _is_known_missing(cluster, NAMESPACES, None, namespace):
            raise RequestError(
                f"There is no namespace {namespace}; create it with include/kubernetes/target, or choose another one."
            )
        there = [name_of(item) for item in cluster.items(SERVING_RUNTIMES, namespace)]
        raise RequestError(missing_runtime(runtime, namespace, there))
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


def _is_known_missing(cluster: Cluster, resource: Resource, namespace: str | None, name: str) -> bool:
    """Say whether an object is certainly not there; False where it may not be read."""
    try:
        return cluster.get(resource, namespace, name) is None
    except RequestError as error:
        log.debug("not checked: %s", error)
        return False
