"""Nodes pull what they lack before the live pod is touched: what is asked of a cluster in memory, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airfreight.cluster import Resource, Right
from airfreight.disk import Node
from airfreight.errors import RequestError, TemporaryError
from airfreight.prepull import LABEL, NODES, WAIT_S
from airfreight.pulling import pull_ahead
from airfreight.served_model import Clock
from tests.unit.test_prepull import CAR, VLLM, predictor

Thing = dict[str, Any]
DONE = {"phase": "Succeeded", "containerStatuses": [{"name": "pull", "imageID": "i", "state": {"terminated": {}}}]}


def refused(message: str) -> Thing:
    state = {"waiting": {"reason": "ErrImagePull", "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "pull", "imageID": "", "state": state}]}


class FakeCluster:
    """Pods that stand as `status_of(pod, seconds)` says, so many seconds after the beginning."""

    def __init__(self, status_of: Callable[[Thing, float], Thing] = lambda pod, seconds: DONE) -> None:
        self.status_of = status_of
        self.pods: dict[str, Thing] = {}
        self.made: list[Thing] = []
        self.denied: set[str] = set()
        self.refusal = ""
        self.asked: list[str] = []
        self.start = self.time = datetime(2026, 11, 22, 19, 0, tzinfo=UTC)

    def may(self, right: Right) -> bool:
        self.asked.append(f"may {right.verb}")
        assert (right.namespace, right.resource) == ("models", "pods")
        return right.verb not in self.denied

    def items(self, resource: Resource, namespace: str, selector: str) -> list[Thing]:
        self.asked.append("list")
        assert (resource.plural, namespace, selector) == ("pods", "models", f"{LABEL}=pong")
        return [{**pod, "status": self.status_of(pod, self.clock.monotonic())} for pod in self.pods.values()]

    def create(self, resource: Resource, wanted: Thing) -> Thing:
        if self.refusal and len(self.made) > 0:
            raise RequestError(self.refusal)
        made = {**wanted, "metadata": {**wanted["metadata"], "creationTimestamp": self.time.isoformat()}}
        self.pods[wanted["metadata"]["name"]] = made
        self.made.append(made)
        return made

    def delete(self, resource: Resource, namespace: str, name: str) -> bool:
        return self.pods.pop(name, None) is not None

    def _seconds(self) -> float:
        return (self.time - self.start).total_seconds()

    def _pause(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, self._seconds, self._pause)


def run(cluster: FakeCluster, nodes: list[Node] | None, *, image: str = "") -> tuple[list[Thing], list[str]]:
    said: list[str] = []
    model = predictor(initContainers=[{"name": "modelcar-init", "image": image}] if image else [])
    try:
        done = pull_ahead(cluster, model, "pong", nodes, said.append, cluster.clock)  # type: ignore[arg-type]
    finally:
        assert not cluster.pods, "every pod is removed, whatever comes"
    return [one.result() for one in done], said


def node(name: str, *images: str) -> Node:
    return Node(name, 100, images=frozenset(images))


def test_what_is_there_costs_no_request() -> None:
    cluster = FakeCluster()
    assert run(cluster, [node("n1", VLLM)]) == ([], ["Images: there already on n1."])
    assert cluster.asked == [] and cluster.made == []


def test_what_is_missing_is_pulled_and_told() -> None:
    cluster = FakeCluster(lambda pod, seconds: DONE if seconds >= 12 else {"phase": "Pending"})
    done, said = run(cluster, [node("n1", CAR), node("n2", VLLM, CAR)], image=CAR)
    assert done == [{"image": VLLM, "node": "n1", "seconds": 12.0}]
    assert said == [
        "Images: 1 to be pulled before anything that serves is touched, on 2 nodes.",
        f"pulled {VLLM} on n1 in 12 s",
        "Images: 1 pulled in 12 s; nothing that serves was touched.",
    ]
    assert [pod["spec"]["containers"][0]["image"] for pod in cluster.made] == [VLLM]


def test_an_image_that_cannot_be_pulled_ends_the_run_and_all_pods() -> None:
    def status(pod: Thing, seconds: float) -> Thing:
        car = pod["spec"]["containers"][0]["image"] == CAR
        return refused("manifest unknown: not found") if car else {"phase": "Pending"}

    with pytest.raises(RequestError, match=f"pong on n1: the image {CAR} of modelcar-init cannot be pulled .manifest"):
        run(FakeCluster(status), [node("n1")], image=CAR)


def test_a_slow_pull_is_shown_and_has_an_end() -> None:
    cluster = FakeCluster(lambda pod, seconds: {"phase": "Pending", "conditions": BEGUN})
    said: list[str] = []
    with pytest.raises(TemporaryError, match=r"pong: 1 images were not pulled within 60 min \(.* on n1\); look at the"):
        pull_ahead(cluster, predictor(), "pong", [node("n1")], said.append, cluster.clock)  # type: ignore[arg-type]
    assert f"Images: 30 s, still waiting for {VLLM} on n1" in said and not cluster.pods
    assert cluster.clock.monotonic() >= WAIT_S


BEGUN = [{"type": "PodScheduled", "status": "True"}, {"type": "PodReadyToStartContainers", "status": "True"}]


def test_a_node_that_takes_no_pod_is_said_and_the_delivery_goes_on() -> None:
    done, said = run(FakeCluster(lambda pod, seconds: {"phase": "Failed", "reason": "OutOfcpu"}), [node("n1")])
    assert done == [] and f"Images: {VLLM} not pulled beforehand on n1 (OutOfcpu: no message)." in said


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        (None, "Images: not pulled beforehand, because the nodes may not be read; apply include/kubernetes/cluster."),
        ([], "Images: not pulled beforehand, because no node takes this pod now."),
    ],
)
def test_without_nodes_it_says_so(nodes: list[Node] | None, sentence: str) -> None:
    assert run(FakeCluster(), nodes) == ([], [sentence])


def test_without_the_right_to_remove_pods_none_is_made() -> None:
    cluster = FakeCluster()
    cluster.denied = {"delete"}
    done, said = run(cluster, [node("n1")])
    assert done == [] and said == [
        "Images: not pulled beforehand, because pods may not be made and removed in namespace models (delete); "
        "apply include/kubernetes/target there."
    ]
    assert cluster.made == []


def test_a_quota_that_is_used_up_is_said_and_what_was_made_goes_on() -> None:
    cluster = FakeCluster()
    cluster.refusal = "The cluster refuses to create Pod x: exceeded quota: small; correct what it names."
    done, said = run(cluster, [node("n1"), node("n2")])
    assert [one["node"] for one in done] == ["n1"]
    assert f"Images: 1 not pulled beforehand: {cluster.refusal}" in said


def test_no_more_than_eight_nodes_are_made_ready() -> None:
    done, said = run(FakeCluster(), [node(f"n{number:02}") for number in range(20)])
    assert len(done) == NODES == 8
    assert said[0].endswith("before anything that serves is touched, on 8 of the 20 nodes that can serve it.")


def test_what_a_run_that_was_killed_left_is_removed() -> None:
    cluster = FakeCluster()
    cluster.pods["airfreight-pull-dead-0"] = {"metadata": {"name": "airfreight-pull-dead-0"}, "spec": {}}
    done, _ = run(cluster, [node("n1")])
    assert len(done) == 1
