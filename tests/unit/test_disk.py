"""Is there disk on a node for a model? Each sentence that a person may read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airfreight.delivery import Mode
from airfreight.disk import Need, Node, able_nodes, check_disk, may_run, whole_name
from airfreight.errors import RequestError
from airfreight.serving import Serving

GI = 2**30
IMAGE = f"registry.example/acme/pong@sha256:{'5c' * 32}"


def need(mode: Mode = Mode.S3, size: int = 10 * GI, pods: int = 1, **serving: Any) -> Need:
    return Need(mode, size, "" if mode is Mode.S3 else IMAGE, Serving(**serving), pods)


def node(name: str = "a", allocatable: int = 100 * GI, **more: Any) -> Node:
    return Node(name, allocatable, **more)


def refusal(wanted: Need, *nodes: Node) -> str:
    with pytest.raises(RequestError) as caught:
        check_disk(wanted, nodes)
    return caught.value.message


def test_room_enough() -> None:
    said = check_disk(need(), [node(requested=20 * GI), node("b")])
    assert said == "Node disk: 11.0 GiB needed, 100.0 GiB free on b, the roomiest of 2 nodes that have it."


def test_of_s3_every_pod_holds_the_model() -> None:
    assert refusal(need(size=60 * GI, pods=2), node(requested=5 * GI)) == (
        "The model needs 61.0 GiB in each pod, and there is room for 1 of 2 pods: the roomiest, a, has 95.0 GiB left "
        "of 100.0 GiB, 5.0 GiB of them promised to other pods; choose delivery oci or oci+native, which keeps one copy "
        "a node, free disk there, or add a node with more ephemeral storage."
    )
    check_disk(need(size=60 * GI, pods=2), [node(), node("b")])


@pytest.mark.parametrize("mode", [Mode.OCI, Mode.NATIVE])
def test_an_image_is_there_once_for_all_pods_of_a_node(mode: Mode) -> None:
    check_disk(need(mode, 60 * GI, pods=3), [node()])
    assert "The model needs 121.0 GiB on its node, and none of 1 fitting nodes has that" in refusal(
        need(mode, 120 * GI), node()
    )


def test_an_image_that_is_there_needs_nothing() -> None:
    full = node("full", requested=100 * GI, images=frozenset({IMAGE}))
    said = check_disk(need(Mode.OCI, 120 * GI), [node(), full])
    assert said == "Node disk: the image is on full already, so nothing is pulled there."


def test_another_image_of_the_same_name_is_not_it() -> None:
    other = IMAGE.replace("5c5c", "5d5d", 1)
    assert not node(images=frozenset({other, IMAGE.partition("@")[0] + ":v1"})).has(IMAGE)


@pytest.mark.parametrize(
    ("image", "whole"),
    [
        ("vllm", "docker.io/library/vllm:latest"),
        ("kserve/storage-initializer:v0.20.0", "docker.io/kserve/storage-initializer:v0.20.0"),
        ("localhost/a:1", "localhost/a:1"),
        ("registry:5000/a/b", "registry:5000/a/b:latest"),
        (f"registry.example/a:v1@{IMAGE.partition('@')[2]}", f"registry.example/a@{IMAGE.partition('@')[2]}"),
    ],
)
def test_an_image_has_the_name_that_nodes_list(image: str, whole: str) -> None:
    assert whole_name(image) == whole
    assert node(images=frozenset({whole})).has(image)


def test_nodes_that_can_serve_it_have_room_or_the_image() -> None:
    full = node("full", requested=99 * GI)
    has = node("has", requested=99 * GI, images=frozenset({IMAGE}))
    tainted = node("tainted", taints=(("gpu", "", "NoSchedule"),))
    able = able_nodes(need(Mode.OCI, 60 * GI), [full, has, tainted, node("empty"), node("hot", under_pressure=True)])
    assert [one.name for one in able] == ["has", "empty"]
    assert [one.name for one in able_nodes(need(Mode.S3, 60 * GI), [full, has, node("empty")])] == ["empty"]


def test_what_is_doubtful_is_said_and_not_refused() -> None:
    assert "while the image is unpacked it may take 121.0 GiB: it may be tight" in check_disk(
        need(Mode.OCI, 60 * GI), [node()]
    )
    assert "of which its images take up to 95.0 GiB: it may be tight" in check_disk(
        need(), [node(images_bytes=95 * GI)]
    )
    assert "what other pods were promised could not be seen" in check_disk(need(), [node(requested=None)])


def test_images_on_a_disk_of_their_own_are_not_counted_against_this_one() -> None:
    said = check_disk(need(Mode.OCI, 120 * GI), [node(images_bytes=300 * GI)])
    assert "its images lie on a disk of their own, which cannot be seen" in said


def test_disk_pressure() -> None:
    assert "a is short of disk already (DiskPressure)" in refusal(need(), node(under_pressure=True))


def test_what_cannot_be_checked_is_said() -> None:
    assert "the size of the model is not known" in check_disk(need(size=0), [node()])
    assert "the nodes may not be read; apply include/kubernetes/cluster" in check_disk(need(), None)
    assert "no node takes this pod now" in check_disk(need(gpus=1), [node()])


@pytest.mark.parametrize(
    ("serving", "more", "fits"),
    [
        ({}, {}, True),
        ({}, {"schedulable": False}, False),
        ({"gpus": 2}, {"gpus": 1}, False),
        ({"gpus": 2}, {"gpus": 2}, True),
        ({"node_selector": ["zone=x"]}, {}, False),
        ({"node_selector": ["zone=x"]}, {"labels": {"zone": "x"}}, True),
        ({}, {"taints": (("gpu", "yes", "NoSchedule"),)}, False),
        ({}, {"taints": (("gpu", "yes", "PreferNoSchedule"),)}, True),
        ({"tolerations": ["gpu=yes:NoSchedule"]}, {"taints": (("gpu", "yes", "NoSchedule"),)}, True),
        ({"tolerations": ["gpu=no:NoSchedule"]}, {"taints": (("gpu", "yes", "NoSchedule"),)}, False),
        ({"tolerations": ["gpu:NoSchedule"]}, {"taints": (("gpu", "yes", "NoSchedule"),)}, True),
    ],
)
def test_only_nodes_that_may_run_it_count(serving: dict[str, Any], more: dict[str, Any], fits: bool) -> None:
    assert may_run(Serving(**serving), node(**more)) is fits


TAINTED = node(labels={"zone": "x"}, taints=(("gpu", "yes", "NoSchedule"),))


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_what_a_runtime_or_admission_tolerates_counts_too(toleration: dict[str, str], fits: bool) -> None:
    spec = {"tolerations": [toleration]}
    assert may_run(Serving(), TAINTED, spec) is fits
    wanted = replace(need(), spec=spec)
    assert able_nodes(wanted, [TAINTED]) == ([TAINTED] if fits else [])
    assert ("no node takes this pod now" in check_disk(wanted, [TAINTED])) is not fits


def test_the_labels_that_a_runtime_asks_for_count_and_the_models_go_before_them() -> None:
    spec = {"nodeSelector": {"zone": "x"}}
    assert may_run(Serving(), node(labels={"zone": "x"}), spec)
    assert not may_run(Serving(), node(labels={"zone": "y"}), spec)
    assert may_run(Serving(node_selector=["zone=y"]), node(labels={"zone": "y"}), spec)
