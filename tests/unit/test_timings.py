"""What is read off a pod: the phases of its start, and the GPUs it holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airfreight.timings import gpus_of, pod_of, ready_facts, ready_since, timings_of


def at(second: int) -> str:
    return f"2026-11-22T19:00:{second:02d}Z"


def pod(
    *, ready: int | None = 58, fetch: bool = True, release: str = "r", gpus: int = 0, **status: Any
) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(3)}]
    if ready is not None:
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": at(ready)})
    ended = {"terminated": {"exitCode": 0, "startedAt": at(5), "finishedAt": at(12)}}
    server = {"name": "kserve-container", "state": {"running": {"startedAt": at(18)}}, **status}
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {"name": "p", "creationTimestamp": at(1), "annotations": {"airfreight.dev/release": release}},
        "spec": {"nodeName": "n1", "containers": [{"name": "kserve-container", "resources": {"limits": limits}}]},
        "status": {
            "conditions": conditions,
            "initContainerStatuses": [{"name": "storage-initializer", "state": ended}] if fetch else [],
            "containerStatuses": [server],
        },
    }


def test_the_phases_of_a_start() -> None:
    assert timings_of(pod()) == {"schedule_s": 2.0, "fetch_s": 7.0, "pull_s": 8.0, "load_s": 40.0}
    assert timings_of(pod(fetch=False)) == {"schedule_s": 2.0, "fetch_s": 0.0, "pull_s": 15.0, "load_s": 40.0}


def test_what_is_not_over_is_left_out() -> None:
    assert timings_of(pod(ready=None)) == {"schedule_s": 2.0, "fetch_s": 7.0, "pull_s": 8.0}
    assert timings_of(pod(ready=None, state={"waiting": {}})) == {"schedule_s": 2.0, "fetch_s": 7.0}
    assert timings_of({"metadata": {}}) == {"fetch_s": 0.0}


def test_since_when_users_reach_it() -> None:
    assert ready_since(pod()) == datetime(2026, 11, 22, 19, 0, 58, tzinfo=UTC)
    assert ready_since(pod(ready=None)) is None


@pytest.mark.parametrize(
    ("made", "held"),
    [
        (pod(), 0),
        (pod(gpus=2), 2),
        (pod(gpus=2, allocatedResources={"nvidia.com/gpu": "1"}), 1),
        (pod(gpus=2, state={"waiting": {}}), 0),
        ({}, 0),
    ],
    ids=["none", "by its limit", "by kubelet's word", "not running", "no pod"],
)
def test_the_gpus_a_pod_holds(made: dict[str, Any], held: int) -> None:
    assert gpus_of(made) == held


def test_of_several_pods_the_one_that_was_ready_first_counts() -> None:
    going = pod(ready=10)
    going["metadata"]["deletionTimestamp"] = at(50)
    first = pod(ready=40, gpus=1)
    pods = [going, pod(release="other", ready=5), pod(ready=None), pod(ready=50), first]
    assert pod_of(pods, "r") is first
    assert ready_facts(pods, "r") == {"gpus": 1, "node": "n1", "timings": timings_of(first)}
    assert ready_facts([], "r") == {"gpus": 0, "node": None, "timings": {}}
