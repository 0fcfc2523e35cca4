"""Which rights the doctor asks for: what Airfreight's service accounts must be allowed, and what a site may leave out.

Pure: `include/kubernetes` grants the same, and a test compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airfreight.cluster import INFERENCE_SERVICES, Right
from airfreight.cluster_facts import KSERVE_CONFIG, KSERVE_NAMESPACE
from airfreight.pull_auth import PULL_SECRET
from airfreight.rendering import MODEL_SERVICE_ACCOUNT

if TYPE_CHECKING:
    from airfreight.doctor import Place

_KSERVE = INFERENCE_SERVICES.group_version.partition("/")[0]


@dataclass(frozen=True)
class NamedRight(Right):
    """A right on one object."""

    name: str = ""


@dataclass(frozen=True)
class OptionalRights:
    """Rights of a service account that a site may leave out.

    Args:
        account: its name.
        rights: that belong together.
        without: what a delivery does without them, for a person.
        remedy: how to give them.
    """

    account: str
    rights: Sequence[Right]
    without: str
    remedy: str


def needed_rights(place: Place) -> dict[str, list[Right]]:
    """Return what each service account must be allowed, by its name; a DAG fails without it."""
    target = place.target
    return {
        "airfreight-deployer": [
            *(Right(target, verb, "inferenceservices", _KSERVE) for verb in ("get", "create", "patch", "delete")),
            *(Right(target, verb, "servingruntimes", _KSERVE) for verb in ("get", "list", "create", "patch")),
            *(Right(target, verb, "pods") for verb in ("get", "list", "create", "delete")),
            Right(target, "get", "deployments", "apps"),
            Right(target, "get", "pods", subresource="proxy"),
        ],
        "airfreight-airflow": [
            *rights_of_pods(place.namespace),
            Right(target, "get", "inferenceservices", _KSERVE),
            Right(target, "get", "deployments", "apps"),
            *(Right(target, "list", resource) for resource in ("pods", "events")),
            *(Right(target, "get", "pods", subresource=part) for part in ("log", "proxy")),
        ],
    }


def optional_rights(place: Place) -> list[OptionalRights]:
    """Return what else `include/kubernetes` grants: a delivery says what it does not do without it, and goes on."""
    deployer, apply = "airfreight-deployer", "kubectl apply -k include/kubernetes"
    named = [
        NamedRight(place.target, "get", "secrets", name=PULL_SECRET),
        NamedRight(place.target, "get", "serviceaccounts", name=MODEL_SERVICE_ACCOUNT),
        NamedRight(place.target, "get", "namespaces", name=place.target),
    ]
    config = NamedRight(KSERVE_NAMESPACE, "get", "configmaps", name=KSERVE_CONFIG)
    cluster = [*(Right("", "list", resource) for resource in ("nodes", "pods")), config]
    unseen = "so a deploy does not see KServe's configuration, the nodes' disk and their images"
    unchecked = "so a deploy does not check the nodes' login, the models' service account and Pod Security"
    return [
        OptionalRights(deployer, named, unchecked, f"{apply}/target"),
        OptionalRights(deployer, cluster, unseen, f"{apply}/cluster"),
    ]


def rights_of_pods(namespace: str) -> list[Right]:
    """Return what Airflow needs where it runs pods, and makes the volumes they stage a model on."""
    return [
        *(Right(namespace, verb, "pods") for verb in ("get", "list", "watch", "create", "patch", "delete")),
        Right(namespace, "get", "pods", subresource="log"),
        *(Right(namespace, verb, "pods", subresource="exec") for verb in ("get", "create")),
        Right(namespace, "list", "events"),
        *(Right(namespace, verb, "persistentvolumeclaims") for verb in ("get", "create", "delete")),
    ]


def may_not(missing: Sequence[Right]) -> str:
    """Say which right is missing, and how many more."""
    first = missing[0]
    what = "/".join(filter(None, (first.resource, first.subresource)))
    named = f" {first.name}" if isinstance(first, NamedRight) else ""
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return f"it may not {first.verb} {what}{named} in {first.namespace or 'the cluster'}{more}"
