"""The doctor's judgements, and its report over a cluster that is made of dicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight import cluster as kinds
from airfreight.cluster import Resource, Right
from airfreight.doctor import (
    WORKER_ACCOUNTS,
    Check,
    Place,
    State,
    examine,
    judge_config,
    judge_pod_security,
    judge_secret,
    judge_version,
)
from airfreight.doctor_rights import NamedRight, needed_rights, optional_rights, rights_of_pods
from airfreight.errors import RequestError, TemporaryError

Thing = dict[str, Any]


def thing(
    name: str, annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None, **more: Any
) -> Thing:
    return {"metadata": {"name": name, "annotations": annotations or {}, "labels": labels or {}}, **more}


class FakeCluster:
    """A whole cluster as dicts by (plural, namespace); `hidden` plurals may not be read."""

    server = "https://here:6443"

    def __init__(self) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "QUtJQQ==", "AWS_SECRET_ACCESS_KEY": "c2VjcmV0LXZhbHVl"}
        credentials = {
            "s3": {"s3AccessKeyIDName": "AWS_ACCESS_KEY_ID", "s3SecretAccessKeyName": "AWS_SECRET_ACCESS_KEY"}
        }
        config = {"credentials": json.dumps(credentials), "deploy": '{"defaultDeploymentMode": "Standard"}'}
        service = {"name": "kserve-webhook-server-service", "namespace": "kserve"}
        self.hidden: set[str] = set()
        self.denied: set[Right] = set()
        self.minor = "34"
        self.things: dict[tuple[str, str | None], list[Thing]] = {
            (kinds.CRDS.plural, None): [
                thing(f"{plural}.serving.kserve.io")
                for plural in ("inferenceservices", "servingruntimes", "clusterstoragecontainers")
            ],
            (kinds.VALIDATING_WEBHOOKS.plural, None): [
                thing("inferenceservice.serving.kserve.io", webhooks=[{"clientConfig": {"service": service}}])
            ],
            (kinds.ENDPOINT_SLICES.plural, "kserve"): [thing("a", endpoints=[{"conditions": {"ready": True}}])],
            (kinds.CONFIG_MAPS.plural, "kserve"): [thing("inferenceservice-config", data=config)],
            (kinds.STORAGE_CLASSES.plural, None): [
                thing("local", {"storageclass.kubernetes.io/is-default-class": "true"})
            ],
            (kinds.NAMESPACES.plural, None): [
                thing("airfreight", labels={"pod-security.kubernetes.io/enforce": "restricted"}),
                thing("models", labels={"pod-security.kubernetes.io/enforce": "baseline"}),
            ],
            (kinds.SERVICE_ACCOUNTS.plural, "airfreight"): [
                thing(f"airfreight-{name}") for name in ("publisher", "deployer", "validator", "airflow")
            ],
            (kinds.SERVICE_ACCOUNTS.plural, "models"): [
                thing("airfreight-model", secrets=[{"name": "airfreight-store"}])
            ],
            (kinds.SECRETS.plural, "airfreight"): [thing("airfreight-store", data=keys)],
            (kinds.SECRETS.plural, "models"): [
                thing("airfreight-store", {"serving.kserve.io/s3-endpoint": "minio:9000"}, data=keys)
            ],
            (kinds.SERVING_RUNTIMES.plural, "models"): [thing("airfreight-vllm-cpu-000000000000"), thing("other")],
        }

    def version(self) -> Thing:
        return {"major": "1", "minor": self.minor, "gitVersion": f"v1.{self.minor}.4"}

    def items(self, resource: Resource, namespace: str | None = None, selector: str = "") -> list[Thing]:
        if resource.plural in self.hidden:
            raise RequestError(f"The user jo may not list {resource.plural} in this cluster.")
        return self.things.get((resource.plural, namespace), [])

    def get(self, resource: Resource, namespace: str | None, name: str) -> Thing | None:
        return next((one for one in self.items(resource, namespace) if one["metadata"]["name"] == name), None)

    def may(self, right: Right, user: str | None = None) -> bool:
        assert user is not None and user.startswith("system:serviceaccount:airfreight:")
        return right not in self.denied


def report(cluster: FakeCluster, check_store: Callable[[], str] | None = None) -> dict[str, Check]:
    return {check.title: check for check in examine(cluster, Place(), check_store)}  # type: ignore[arg-type]


def missing(cluster: FakeCluster) -> list[Check]:
    return [check for check in report(cluster).values() if check.state is State.MISSING]


def test_a_cluster_that_has_everything() -> None:
    checks = report(FakeCluster(), lambda: "s3://llm-models/ at http://minio answers")
    assert {check.state for check in checks.values()} == {State.OK}
    assert all(not check.remedy for check in checks.values())
    assert checks["ServingRuntimes in models"].detail == "airfreight-vllm-cpu-000000000000"
    assert checks["store"].line() == "ok       store: s3://llm-models/ at http://minio answers"


def test_no_value_of_a_secret_is_shown() -> None:
    lines = "\n".join(check.line() for check in report(FakeCluster()).values())
    assert "c2VjcmV0LXZhbHVl" not in lines and "secret-value" not in lines


@pytest.mark.parametrize(
    ("plural", "namespace", "title", "remedy"),
    [
        ("customresourcedefinitions", None, "KServe", "install KServe 0.20 or newer in Standard mode"),
        ("validatingwebhookconfigurations", None, "KServe webhook", "install KServe 0.20"),
        ("endpointslices", "kserve", "KServe webhook", "look at the controller: kubectl -n kserve get pods"),
        ("configmaps", "kserve", "KServe configuration", "install KServe 0.20"),
        ("namespaces", None, "namespace airfreight", "kubectl apply -k include/kubernetes/worker"),
        (
            "serviceaccounts",
            "airfreight",
            "service accounts in airfreight",
            "kubectl apply -k include/kubernetes/worker",
        ),
        (
            "serviceaccounts",
            "models",
            "service account airfreight-model in models",
            "kubectl apply -k include/kubernetes/target",
        ),
        (
            "secrets",
            "airfreight",
            "Secret airfreight-store in airfreight",
            "make it: kubectl -n airfreight create secret",
        ),
        ("secrets", "models", "Secret airfreight-store in models", "make it: kubectl -n models create secret generic"),
        ("servingruntimes", "models", "ServingRuntimes in models", "make one: airfreight runtime pin IMAGE@sha256:..."),
    ],
)
def test_each_missing_thing_is_named_with_its_remedy(
    plural: str, namespace: str | None, title: str, remedy: str
) -> None:
    cluster = FakeCluster()
    del cluster.things[plural, namespace]
    first = missing(cluster)[0]
    assert first.title == title
    assert remedy in first.remedy


def test_what_one_may_not_see_is_no_fault_and_stops_nothing() -> None:
    cluster = FakeCluster()
    cluster.hidden = {"secrets"}
    checks = report(cluster)
    assert checks["secrets"].state is State.UNSEEN and "may not list secrets" in checks["secrets"].detail
    assert "ServingRuntimes in models" in checks and missing(cluster) == []


def test_a_missing_right_is_named() -> None:
    cluster = FakeCluster()
    cluster.denied = {right for right in needed_rights(Place())["airfreight-deployer"] if right.verb == "patch"}
    (check,) = missing(cluster)
    assert check.title == "rights of airfreight-deployer"
    assert check.detail == "it may not patch inferenceservices in models (and 1 more)"
    assert check.remedy == "kubectl apply -k include/kubernetes/target"
    cluster.denied = {Right("airfreight", "create", "pods", subresource="exec")}
    (check,) = missing(cluster)
    assert (check.detail, check.remedy) == (
        "it may not create pods/exec in airfreight",
        "kubectl apply -k include/kubernetes/worker",
    )


def test_what_only_some_deliveries_need_is_a_remark_and_no_fault() -> None:
    cluster = FakeCluster()
    del cluster.things[kinds.STORAGE_CLASSES.plural, None]
    cluster.denied = {Right("", "list", "nodes"), NamedRight("models", "get", "secrets", name="airfreight-pull")}
    checks = report(cluster)
    assert missing(cluster) == []
    assert checks["default StorageClass"].line() == (
        "ok       default StorageClass: not set, there is none; for staging volume and builder buildah annotate one "
        "with storageclass.kubernetes.io/is-default-class=true, or set storage_class"
    )
    remarks = [check for check in examine(cluster, Place()) if check.title.endswith(", optional")]  # type: ignore[arg-type]
    assert [(check.detail, check.remedy) for check in remarks] == [
        (
            "it may not get secrets airfreight-pull in models, so a deploy does not check the nodes' login, the "
            "models' service account and Pod Security",
            "kubectl apply -k include/kubernetes/target",
        ),
        (
            "it may not list nodes in the cluster, so a deploy does not see KServe's configuration, the nodes' disk "
            "and their images",
            "kubectl apply -k include/kubernetes/cluster",
        ),
    ]


def test_rights_for_buildah_are_looked_at_where_its_namespace_is() -> None:
    cluster = FakeCluster()
    cluster.denied = {Right("airfreight-build", "create", "persistentvolumeclaims")}
    assert missing(cluster) == []
    cluster.things[kinds.NAMESPACES.plural, None].append(thing("airfreight-build"))
    (check,) = missing(cluster)
    assert check.title == "rights of airfreight-airflow in airfreight-build"
    assert check.detail == "it may not create persistentvolumeclaims in airfreight-build"
    assert check.remedy == "kubectl apply -k include/kubernetes/builder"


def test_a_service_account_that_lists_no_secret() -> None:
    cluster = FakeCluster()
    cluster.things["serviceaccounts", "models"] = [thing("airfreight-model")]
    (check,) = missing(cluster)
    assert check.detail == "it does not list Secret airfreight-store, so KServe finds no keys"


def test_a_store_that_is_not_there() -> None:
    def unreachable() -> str:
        raise TemporaryError("The object store http://minio cannot be reached.")

    check = report(FakeCluster(), unreachable)["store"]
    assert (check.state, check.detail) == (State.MISSING, "The object store http://minio cannot be reached")


def test_an_api_server_that_does_not_answer_ends_it() -> None:
    class Down(FakeCluster):
        def version(self) -> Thing:
            raise TemporaryError("down")

    with pytest.raises(TemporaryError):
        report(Down())


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ({"major": "1", "minor": "34", "gitVersion": "v1.34.4"}, State.OK),
        ({"major": "1", "minor": "32+"}, State.OK),
        ({"major": "1", "minor": "31"}, State.MISSING),
        ({"major": "2", "minor": "0"}, State.OK),
        ({}, State.MISSING),
    ],
)
def test_versions(version: Thing, state: State) -> None:
    assert judge_version(version, "https://here").state is state


def test_pod_security() -> None:
    restricted = thing("models", labels={"pod-security.kubernetes.io/enforce": "restricted"})
    check = judge_pod_security("namespace models", restricted, refused=("restricted",))
    assert check.state is State.MISSING and "enforce=baseline" in check.remedy
    assert judge_pod_security("namespace models", thing("models"), refused=("restricted",)).state is State.OK


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        ({"credentials": "{"}, "its JSON does not parse"),
        (
            {"credentials": '{"s3": {"s3AccessKeyIDName": "awsAccessKeyID"}}'},
            "it reads the key awsAccessKeyID of Secrets",
        ),
    ],
)
def test_a_configuration_that_would_not_find_our_keys(data: dict[str, str], detail: str) -> None:
    check = judge_config(thing("inferenceservice-config", data=data))
    assert (check.state, check.detail) == (State.MISSING, detail)


def test_an_empty_configuration_means_kserves_defaults() -> None:
    assert judge_config(thing("inferenceservice-config")).state is State.OK


def test_a_secret_that_lacks_a_key() -> None:
    check = judge_secret(thing("airfreight-store", data={"AWS_ACCESS_KEY_ID": "eA=="}), "models", target=True)
    assert (check.state, check.detail) == (State.MISSING, "it lacks the key AWS_SECRET_ACCESS_KEY")


def test_a_secret_without_kserves_annotations_may_be_for_aws() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    check = judge_secret(thing("airfreight-store", data=keys), "models", target=True)
    assert check.state is State.OK and "annotate it with serving.kserve.io/s3-endpoint" in check.remedy
    assert not judge_secret(thing("airfreight-store", data=keys), "airfreight", target=False).remedy


SHIPPED = Path(__file__).parents[2] / "include" / "kubernetes"


def shipped() -> list[Thing]:
    files = [file for place in ("cluster", "worker", "builder", "target") for file in SHIPPED.glob(f"{place}/*.yaml")]
    return [one for file in files if file.name != "kustomization.yaml" for one in yaml.safe_load_all(file.read_text())]


def rules(namespace: str, account: str) -> Iterator[Thing]:
    """Yield the rules that the shipped bindings give a service account of namespace airfreight; "": in the cluster."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "airfreight"}
    kind = "Role" if namespace else "ClusterRole"
    bindings = [one for one in shipped() if one["kind"] == f"{kind}Binding" and subject in one["subjects"]]
    names = {one["roleRef"]["name"] for one in bindings if one["metadata"].get("namespace", "") == namespace}
    for role in (one for one in shipped() if one["kind"] == kind):
        if role["metadata"]["name"] in names and role["metadata"].get("namespace", "") == namespace:
            yield from role["rules"]


def allowed(namespace: str, account: str) -> Iterator[Right]:
    """Yield what the shipped rules allow, those for named objects left out."""
    for rule in rules(namespace, account):
        if "resourceNames" not in rule:
            yield from rights_in(rule, namespace)


def rights_in(rule: Thing, namespace: str) -> Iterator[Right]:
    for group, name, verb in product(rule["apiGroups"], rule["resources"], rule["verbs"]):
        resource, _, subresource = name.partition("/")
        yield Right(namespace, verb, resource, group, subresource)


PLACES = ("models", "airfreight", "airfreight-build", "kserve", "")


def asked(account: str) -> set[Right]:
    """Return every right that the doctor asks for, with no names of objects."""
    optional = [right for one in optional_rights(Place()) if one.account == account for right in one.rights]
    building = rights_of_pods("airfreight-build") if account == "airfreight-airflow" else []
    every = [*needed_rights(Place())[account], *optional, *building]
    return {Right(one.namespace, one.verb, one.resource, one.group, one.subresource) for one in every}


@pytest.mark.parametrize("account", ["airfreight-deployer", "airfreight-airflow"])
def test_what_is_shipped_gives_every_right_the_doctor_asks_for(account: str) -> None:
    assert asked(account) <= {
        right for place in PLACES for rule in rules(place, account) for right in rights_in(rule, place)
    }
    named = [right for one in optional_rights(Place()) for right in one.rights if isinstance(right, NamedRight)]
    for right in named if account == "airfreight-deployer" else []:
        fitting = [rule for rule in rules(right.namespace, account) if right.resource in rule["resources"]]
        assert all(rule.get("resourceNames", [right.name]) == [right.name] for rule in fitting), right


@pytest.mark.parametrize("account", ["airfreight-deployer", "airfreight-airflow"])
def test_the_doctor_asks_for_every_right_that_is_shipped(account: str) -> None:
    given = {right for place in PLACES for rule in rules(place, account) for right in rights_in(rule, place)}
    # Airflow's own provider looks at events of its pods in several ways; one is enough to see them.
    ways = {(verb, "events") for verb in ("get", "watch")}
    assert {right for right in given - asked(account) if (right.verb, right.resource) not in ways} == set()


def test_what_is_shipped_gives_no_more_than_it_should() -> None:
    everything = [
        right for one in WORKER_ACCOUNTS for place in ("models", "airfreight") for right in allowed(place, one)
    ]
    assert not [right for right in everything if right.resource == "secrets" or "*" in (right.verb, right.resource)]
    assert {right.verb for right in allowed("models", "airfreight-airflow")} == {"get", "list"}
    assert set(allowed("", "airfreight-deployer")) == {Right("", "list", "nodes"), Right("", "list", "pods")}
    named = [
        rule for place in ("models", "airfreight", "kserve") for one in WORKER_ACCOUNTS for rule in rules(place, one)
    ]
    assert [rule for rule in named if "resourceNames" in rule] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["airfreight-pull"], "verbs": ["get"]},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["inferenceservice-config"],
            "verbs": ["get"],
        },
    ], "the login of the nodes is the one Secret that anybody of ours may read"
    for account in ("airfreight-publisher", "airfreight-validator"):
        assert [*allowed("models", account), *allowed("airfreight", account)] == []
    tokenless = {one["metadata"]["name"] for one in shipped() if one.get("automountServiceAccountToken") is False}
    assert tokenless == {"airfreight-publisher", "airfreight-builder", "airfreight-validator", "airfreight-model"}


def test_the_service_account_of_the_models_lists_the_stores_secret() -> None:
    (account,) = [one for one in shipped() if one["metadata"]["name"] == "airfreight-model"]
    assert account["secrets"] == [{"name": "airfreight-store"}]
    assert account["imagePullSecrets"] == [{"name": "airfreight-pull"}]
