"""A ServingRuntime whose pods may change under a release is refused, whoever made it; so is a name of which KServe
would make no host. What else a target needs is in test_cluster_errors.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from airfreight.cluster import Resource
from airfreight.errors import RequestError
from airfreight.preflight import check_host, check_target

Thing = dict[str, Any]


class FakeCluster:
    """A target that has everything, and these ServingRuntimes; a ClusterServingRuntime is there by every name."""

    def __init__(self, **runtimes: Thing) -> None:
        self.runtimes = runtimes

    def get(self, resource: Resource, namespace: str | None, name: str) -> Thing | None:
        return self.runtimes.get(name) if resource.kind == "ServingRuntime" else {"metadata": {"name": name}}

    def items(self, resource: Resource, namespace: str) -> list[Thing]:
        return [{"metadata": {"name": name}} for name in self.runtimes]


def check(cluster: FakeCluster) -> None:
    check_target(cluster, "models", "our-vllm", "s3://llm-models/a/b/c/")  # type: ignore[arg-type]


PINNED = f"registry.example/vllm:v1@sha256:{'5c' * 32}"


def runtime_of(*containers: tuple[str, str], **spec: Any) -> Thing:
    return {"spec": {"containers": [{"name": name, "image": image} for name, image in containers], **spec}}


@pytest.mark.parametrize(
    ("runtime", "sentence"),
    [
        (
            runtime_of(("kserve-container", "vllm:latest")),
            "The ServingRuntime our-vllm in namespace models names the image vllm:latest of kserve-container without a "
            "digest, so pods may change under a release; pin it and name the runtime that this makes: airfreight "
            "runtime pin vllm:latest --template TEMPLATE --namespace models --apply, where TEMPLATE is vllm-gpu, "
            "vllm-cpu or a file of your own.",
        ),
        (
            runtime_of(("kserve-container", "registry.example/vllm@sha256:5c5c")),
            "names the image registry.example/vllm@sha256:5c5c of kserve-container without a digest",
        ),
        (
            runtime_of(("kserve-container", PINNED), ("proxy", "registry.example/proxy")),
            "names the image registry.example/proxy of proxy without a digest, so pods may change under a release; "
            "write its digest into a template of your own and name the runtime that this makes: airfreight runtime pin "
            "IMAGE --template FILE.yaml --namespace models --apply.",
        ),
        (
            runtime_of(
                ("kserve-container", PINNED), volumes=[{"name": "kernels", "image": {"reference": "kernels:1"}}]
            ),
            "names the image kernels:1 of volume kernels without a digest",
        ),
    ],
)
def test_a_runtime_whose_pods_may_change_is_refused(runtime: Thing, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        check(FakeCluster(**{"our-vllm": runtime}))
    assert sentence in caught.value.message


def test_a_pinned_runtime_is_taken_whoever_made_it() -> None:
    volumes = [{"name": "kernels", "image": {"reference": PINNED}}, {"name": "tmp", "emptyDir": {}}]
    check(FakeCluster(**{"our-vllm": runtime_of(("kserve-container", PINNED), ("proxy", PINNED), volumes=volumes)}))


def test_a_runtime_of_the_whole_cluster_is_none_of_the_namespace() -> None:
    """KServe would take one; it is in no ledger and nobody pinned it, so it counts as missing, pinned or not."""
    with pytest.raises(RequestError, match="There is no ServingRuntime our-vllm in namespace models; make one: airf"):
        check(FakeCluster())


# ---- the name of its host --------------------------------------------------------------------------------------------


class Kserve:
    """KServe's ConfigMap; None where it may not be read."""

    def __init__(self, config: Thing | None) -> None:
        self.config = config

    def get(self, resource: Resource, namespace: str | None, name: str) -> Thing | None:
        assert (resource.kind, namespace, name) == ("ConfigMap", "kserve", "inferenceservice-config")
        if self.config is None:
            raise RequestError("The user jo may not read configmaps.")
        return self.config


def ingress(template: str) -> Thing:
    return {"data": {"ingress": json.dumps({"domainTemplate": template, "ingressDomain": "example.com"})}}


SHIPPED = "{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}"


@pytest.mark.parametrize("config", [{}, {"data": {}}, ingress(SHIPPED), ingress(SHIPPED.replace(" ", ""))])
def test_a_host_that_kserve_cannot_name_is_refused_and_the_next_shorter_one_is_not(config: Thing) -> None:
    check_host(Kserve(config), "p" * 46, "models")  # type: ignore[arg-type]
    with pytest.raises(RequestError) as caught:
        check_host(Kserve(config), "p" * 48, "models")  # type: ignore[arg-type]
    assert caught.value.message == (
        f"KServe would name the host of {'p' * 48} in namespace models {'p' * 48}-predictor-models, of 65 characters, "
        "and no part of a host's name has more than 63, so it would make no pod; choose a name that is 2 characters "
        "shorter, or change domainTemplate under key ingress of ConfigMap inferenceservice-config in namespace kserve."
    )


@pytest.mark.parametrize(
    "config",
    [
        None,
        {"data": {"ingress": "{"}},
        {"data": {"ingress": "[]"}},
        ingress("{{ .Name }}.{{ .Namespace }}.{{ .IngressDomain }}"),
        ingress("{{ .Name }}-{{ .Namespace }}-{{ .Labels.team }}.{{ .IngressDomain }}"),
    ],
)
def test_where_the_host_is_not_known_to_be_too_long_nothing_is_refused(config: Thing | None) -> None:
    check_host(Kserve(config), "p" * 48, "models")  # type: ignore[arg-type]
